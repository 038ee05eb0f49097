// What a run's rounds have left, as columns: one entry for each round that counted. A column that is not known is empty.

const MOST_TROUBLES = 500;
export const SPREAD = [0, 1, 2, 3, 4]; // least, lower quarter, median, upper quarter, most

export class History {
  constructor() {
    this.rounds = [];
    this.columns = new Map(); // name → values; a line break in a name is ours: no metric's name has one
    this.metrics = new Map(); // metric → names of the exchanges in which it was measured
    this.nodes = new Set(); // of which single figures are known
    this.phases = new Set();
    this.alone = new Map(); // metric → what nodes reach alone, after the last round
    this.troubles = [];
    this.known = 0; // records heard of
    this.last = null; // the last round that counted
    this.sums = { asked: 0, heard: 0, up: 0, down: 0, missed: 0, dropped: 0 };
  }

  /** Take in a round that ended. */
  add(round) {
    if (round.record < this.known) return; // heard before
    this.known = round.record + 1;
    if (round.undone) return; // the run was rolled back to before it
    const number = round.round + 1;
    this.sums.up += round.bytes_up ?? 0;
    this.sums.down += round.bytes_down ?? 0;
    for (const [kind, times] of Object.entries(round.drops)) this.sums.dropped += kind === "late" ? 0 : times;
    for (const drop of round.dropped) this.trouble({ ...drop, round: number, attempt: round.attempt });
    if (round.missed) {
      this.sums.missed += 1;
      this.trouble({ round: number, attempt: round.attempt, kind: "missed", node: "", reason: round.missed });
      return;
    }
    if (round.purpose !== "train") {
      for (const scope of Object.values(round.scopes)) {
        for (const [metric, said] of Object.entries(scope)) {
          if (said.pooled !== null && said.pooled !== undefined) this.alone.set(metric, said.pooled);
        }
      }
      return;
    }
    this.last = round;
    this.rounds.push(number);
    this.sums.asked += round.asked.train ?? 0;
    this.sums.heard += round.heard;
    for (const [exchange, scope] of Object.entries(round.scopes)) {
      for (const [metric, said] of Object.entries(scope)) this.measured(exchange, metric, said);
    }
    this.spread("norm", round.norms);
    this.put("norm/bound", round.norm_bound);
    this.put("up", round.bytes_up);
    this.put("down", round.bytes_down);
    this.put("asked", round.asked.train ?? null);
    this.put("heard", round.heard);
    for (const [phase, seconds] of Object.entries(round.phases_s ?? {})) {
      this.phases.add(phase);
      this.put(`phase/${phase}`, seconds);
    }
  }

  /** A column, with an entry for each round. */
  column(name) {
    const values = this.columns.get(name) ?? [];
    while (values.length < this.rounds.length) values.push(null);
    return values;
  }

  measured(exchange, metric, said) {
    if (!this.metrics.has(metric)) this.metrics.set(metric, new Set());
    this.metrics.get(metric).add(exchange);
    this.put(`${exchange}/${metric}`, said.pooled);
    this.spread(`${exchange}/${metric}`, said);
  }

  spread(name, said) {
    if (said.spread) SPREAD.forEach((place) => this.put(`${name}\n${place}`, said.spread[place]));
    for (const [node, value] of Object.entries(said.nodes)) {
      this.nodes.add(node);
      this.put(`${name}\nof ${node}`, value);
    }
  }

  put(name, value) {
    if (!this.columns.has(name)) this.columns.set(name, []);
    const values = this.columns.get(name);
    while (values.length < this.rounds.length - 1) values.push(null);
    values[this.rounds.length - 1] = value ?? null;
  }

  trouble(said) {
    this.troubles.push(said);
    if (this.troubles.length > 2 * MOST_TROUBLES) this.troubles.splice(0, MOST_TROUBLES);
  }

  /** The metrics that are worth a chart, the one that matters most first. */
  shown(first) {
    const held = ["evaluate by evaluator", "evaluate"];
    const names = [...this.metrics].filter(([name, by]) => name === "loss" || held.some((one) => by.has(one)));
    const order = [first, "accuracy", "r2", "loss"];
    const place = (name) => (order.includes(name) ? order.indexOf(name) : order.length);
    return names.map(([name]) => name).sort((one, other) => place(one) - place(other) || one.localeCompare(other));
  }
}
