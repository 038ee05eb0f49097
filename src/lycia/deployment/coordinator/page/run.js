// One run: how it stands, the open round, its curves, its troubles, its nodes and its plan.

import { Actions } from "./actions.js";
import { call, runPath } from "./calls.js";
import { bytesChart, metricChart, normChart, phasesChart, turnoutChart } from "./charts.js";
import { Cohort } from "./cohort.js";
import { el, gathered, mark, Rows, say } from "./dom.js";
import { Feed } from "./feed.js";
import { History } from "./history.js";
import { NodeTable } from "./nodes.js";
import { Badge, Bar, left, progress, Tile } from "./parts.js";
import { planRows } from "./plan.js";
import { count, counted, doing, duration, figure, moment, size } from "./words.js";

const MOST_METRICS = 6;
const MOST_TROUBLES = 100;
const MOST_ROUNDS = 50;
const OVER = ["finished", "stopped"];

export class RunView {
  constructor(id, { told, refused }) {
    Object.assign(this, { id, told, refused });
    this.picked = new Set();
    this.skew = 0; // seconds that the coordinator's clock is ahead of this one
    this.charts = new Map();
    this.build();
    this.draw = gathered(() => this.drawNow());
    this.begin();
  }

  build() {
    const path = (rest) => runPath(this.id, rest);
    this.name = el("span", { text: "Run" });
    this.badge = new Badge();
    this.reason = el("p", { class: "lead" });
    this.meta = el("p", { class: "meta" });
    this.actions = new Actions(this.id);
    this.model = el("a", { class: "button", href: path("model"), download: `${this.id}.safetensors`, text: "↓ Model" });
    this.facts = el("a", { class: "button", href: path(), download: `${this.id}.json`, text: "↓ Facts (JSON)" });
    this.bar = new Bar("Rounds of this run");
    const tiles = ["Rounds", "Figure", "Time left", "Heard", "Travelled", "Fell out"];
    this.tiles = Object.fromEntries(tiles.map((name) => [name, new Tile(name)]));
    this.cohort = new Cohort();
    this.metrics = el("div", { class: "panels" });
    this.moreMetrics = el("p", { class: "note", hidden: true });
    this.others = el("div", { class: "panels" });
    this.waiting = el("p", { class: "empty", text: "Curves begin when the first round has ended." });
    this.troubles = el("tbody");
    this.calm = el("p", { class: "empty", text: "Nobody dropped out, declined, came late or was refused." });
    this.troubled = table(["Round", "Node", "What", "Why"], this.troubles);
    this.moreTroubles = el("p", { class: "note", hidden: true });
    this.nodes = new NodeTable(this.id, this.picked, () => this.pick());
    this.rounds = el("tbody");
    this.plan = el("dl", { class: "plan" });
    this.charts.set("norm", normChart(figure));
    this.charts.set("bytes", bytesChart(size));
    this.charts.set("turnout", turnoutChart(count));
    this.charts.set("phases", phasesChart(doing, duration));
    this.others.append(...[...this.charts.values()].map((chart) => chart.element));
    this.element = el(
      "article",
      {},
      back(),
      el(
        "div",
        { class: "head" },
        el("div", {}, el("h1", {}, this.name, " ", this.badge.element), this.reason, this.meta),
        el("div", { class: "doing" }, this.actions.element, el("div", { class: "actions" }, this.model, this.facts)),
      ),
      this.bar.element,
      el("dl", { class: "tiles" }, ...Object.values(this.tiles).map((tile) => tile.element)),
      this.cohort.element,
      section("How good the model is", this.waiting, this.metrics, this.moreMetrics),
      section("Its nodes", this.nodes.element),
      section("What happened to nodes", this.calm, this.troubled, this.moreTroubles),
      section("What it takes", this.others),
      section("Rounds in numbers", el("details", {}, el("summary", { text: `The last ${MOST_ROUNDS}, newest first` }), table(["Round", "Figure", "Heard", "Up", "Down", "Time"], this.rounds, [0, 1, 2, 3, 4, 5]))),
      section("Its plan", this.plan),
    );
    this.troubleRows = new Rows(this.troubles, (row) => row.key, troubleRow, () => {});
    this.roundRows = new Rows(this.rounds, (row) => row.round, roundRow, () => {});
  }

  /** Listen from the first round on. */
  begin() {
    this.feed?.close();
    this.history = new History();
    this.feed = new Feed({
      url: () => {
        const asked = new URLSearchParams([...this.picked].map((node) => ["node", node]));
        if (this.history.known) asked.set("after", this.history.known + 1);
        return `${runPath(this.id, "stream")}?${asked}`;
      },
      hear: {
        about: (about) => this.hearAbout(about),
        run: (standing) => this.hearRun(standing),
        round: (round) => {
          this.history.add(round);
          if (!round.undone) this.cohort.ended(round);
          this.draw();
        },
        step: (steps) => {
          this.cohort.hear(steps);
          this.draw();
        },
      },
      told: (isLive) => {
        const isOver = OVER.includes(this.standing?.state);
        if (!isLive && isOver) this.feed.close(); // all is said
        this.told(isOver ? null : isLive);
      },
      refused: (problem) => (problem.status === 404 ? this.showProblem(problem) : this.refused(problem)),
    });
  }

  showProblem(problem) {
    this.close();
    this.told(null);
    this.element.replaceChildren(back(), el("h1", { text: "Not found" }), el("p", { text: problem.message }), el("p", { class: "note", text: problem.do }));
  }

  hearAbout(about) {
    this.about = about;
    this.skew = about.now_s - Date.now() / 1000;
    say(this.name, about.app || "(no name)");
    document.title = `${about.app || about.id} · Lycia`;
    if (!this.plan.childElementCount) this.plan.append(...planRows(about));
    this.draw();
  }

  hearRun(standing) {
    const before = JSON.stringify(this.standing?.undone ?? []);
    this.standing = standing;
    if (before !== JSON.stringify(standing.undone)) this.begin(); // rounds that were told do not count any more
    this.draw();
  }

  /** Nodes were picked or let go: their own lines come with every round, so they are asked for anew. */
  pick() {
    const known = [...this.picked].every((node) => this.history.nodes.has(node));
    if (!known) this.begin();
    for (const chart of this.charts.values()) chart.draw(this.history, true);
  }

  /** What passes with time alone. */
  tick() {
    if (this.standing) this.drawStanding();
  }

  drawNow() {
    if (!this.standing || !this.element.isConnected) return;
    const { history } = this;
    this.drawStanding();
    const names = history.shown(this.standing.metric);
    this.moreMetrics.hidden = names.length <= MOST_METRICS;
    say(this.moreMetrics, `${counted(names.length - MOST_METRICS, "other metric")} in the facts.`);
    for (const name of names.slice(0, MOST_METRICS)) {
      if (this.charts.has(`metric/${name}`)) continue;
      const chart = metricChart(name, this.picked, figure);
      this.charts.set(`metric/${name}`, chart);
      this.metrics.append(chart.element);
    }
    this.waiting.hidden = history.rounds.length > 0;
    for (const chart of this.charts.values()) chart.draw(history);
    this.nodes.show(history.last, this.standing.figure);
    this.drawTroubles();
    this.drawRounds();
  }

  drawStanding() {
    const { standing, history } = this;
    const now = Date.now() / 1000 + this.skew;
    this.badge.show(standing.state);
    this.actions.show(standing);
    say(this.reason, standing.state === "running" ? "" : standing.reason);
    const isOver = OVER.includes(standing.state);
    const until = standing.state === "running" ? now : (standing.ended_s ?? now);
    const took = until - standing.created_s - standing.paused_s;
    say(this.meta, `Run ${this.id}, begun ${moment(standing.created_s)}${isOver ? `, ended ${moment(standing.ended_s)}` : ""}.`);
    this.bar.show(progress(standing), standing.rounds, standing.state);
    const { asked, heard, up, down, missed, dropped } = history.sums;
    const tiles = this.tiles;
    tiles.Rounds.show(`${count(standing.round)} of ${count(standing.rounds)}`, missed ? `${counted(missed, "attempt")} missed the quorum` : "");
    const shown = standing.figure;
    if (shown) {
      const name = shown.metric.charAt(0).toUpperCase() + shown.metric.slice(1);
      const where = shown.exchange === "evaluate" ? "on nodes' held-out data" : "on the evaluators' data";
      tiles.Figure.show(figure(shown.value), `${where}, round ${count(shown.round)}`, name);
    }
    const eta = left(standing);
    tiles["Time left"].show(
      isOver ? duration(took) : eta === null ? "–" : `≈ ${duration(eta)}`,
      isOver ? "from start to end" : `${duration(took)} so far${standing.round_s ? `, ${duration(standing.round_s)} a round` : ""}`,
      isOver ? "Time" : "Time left",
    );
    tiles.Heard.show(asked ? `${Math.round((1000 * heard) / asked) / 10} %` : "–", `${count(heard)} of ${count(asked)} asks to train`);
    tiles.Travelled.show(size(up + down), `↑ ${size(up)}  ↓ ${size(down)}`);
    tiles["Fell out"].show(count(dropped), dropped ? "declined, vanished or quarantined" : "nobody so far");
    this.cohort.draw(standing, this.about?.plan, now);
  }

  drawTroubles() {
    const found = this.history.troubles;
    this.calm.hidden = found.length > 0;
    this.troubled.hidden = found.length === 0;
    const first = Math.max(found.length - MOST_TROUBLES, 0);
    const shown = found.slice(first).map((trouble) => ({ ...trouble, key: [trouble.round, trouble.attempt, trouble.exchange, trouble.kind, trouble.node].join("/") }));
    this.troubleRows.show(shown.reverse());
    this.moreTroubles.hidden = first === 0;
    say(this.moreTroubles, `${count(first)} earlier ones are in the facts.`);
  }

  drawRounds() {
    const { history } = this;
    const shown = this.standing.figure;
    const column = (name) => history.column(name);
    const first = Math.max(history.rounds.length - MOST_ROUNDS, 0);
    const figures = shown ? column(`${shown.exchange}/${shown.metric}`) : [];
    const rows = history.rounds.slice(first).map((round, place) => {
      const at = first + place;
      const phases = [...history.phases].reduce((sum, phase) => sum + (column(`phase/${phase}`)[at] ?? 0), 0);
      const heard = `${count(column("heard")[at])} of ${count(column("asked")[at])}`;
      return { round, cells: [count(round), figure(figures[at]), heard, size(column("up")[at]), size(column("down")[at]), duration(phases)] };
    });
    this.roundRows.show(rows.reverse());
  }

  close() {
    this.feed.close();
    for (const chart of this.charts.values()) chart.close();
    document.title = "Lycia";
  }
}

function back() {
  return el("p", { class: "back" }, el("a", { href: "#/", text: "← All runs and nodes" }));
}

function section(name, ...parts) {
  return el("section", {}, el("h2", { text: name }), ...parts);
}

function table(names, body, numbers = []) {
  const head = names.map((name, place) => el("th", { scope: "col", class: numbers.includes(place) ? "number" : "", text: name }));
  return el("div", { class: "panel scroll tall", tabindex: 0 }, el("table", {}, el("thead", {}, el("tr", {}, ...head)), body));
}

function troubleRow({ round, attempt, node, kind, reason, exchange }) {
  const when = `${count(round)}${attempt ? `, attempt ${attempt + 1}` : ""}`;
  const what = el("td", { class: "what" }, el("span", { class: `mark ${kind}`, "aria-hidden": "true" }), ` ${kind}`);
  if (exchange && exchange !== "train") what.append(el("span", { class: "note", text: `, ${doing(exchange)}` }));
  return el("tr", { "data-kind": kind }, el("td", { text: when }), el("td", { class: "name", text: node }), what, el("td", { class: "reason", text: reason }));
}

function roundRow({ cells }) {
  return el("tr", {}, ...cells.map((text) => el("td", { class: "number", text })));
}
