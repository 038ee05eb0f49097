// What each node of a run did in the last round that counted: fetched round by round, and never for all of them at once.

import { call, runPath } from "./calls.js";
import { el, mark, Rows, say } from "./dom.js";
import { count, figure } from "./words.js";

const PAUSE_MS = 2000;
const MOST_PICKED = 8;

export class NodeTable {
  /** `picked`: the nodes of which lines are shown; `onPick`: they are others now. */
  constructor(run, picked, onPick) {
    Object.assign(this, { run, picked, onPick });
    this.order = { by: "name", falls: false };
    this.body = el("tbody");
    this.says = el("p", { class: "note" });
    this.columns = ["name", "figure", "loss", "norm", "examples", "state"];
    this.heads = this.columns.map((by) => {
      const button = el("button", { class: "sort", onclick: () => this.sort(by) });
      return el("th", { scope: "col", class: ["name", "state"].includes(by) ? "" : "number" }, button);
    });
    this.table = el("div", { class: "panel scroll tall", tabindex: 0 }, el("table", {}, el("thead", {}, el("tr", {}, ...this.heads)), this.body));
    this.element = el("div", {}, this.says, this.table);
    this.rows = new Rows(this.body, (node) => node.name, (node) => this.row(node), (row, node) => row.show(node));
    this.name("Node", "Figure", "Loss in training", "Norm", "Examples", "Last round");
  }

  name(...names) {
    names.forEach((name, place) => {
      const head = this.heads[place];
      const { by, falls } = this.order;
      const isFirst = this.columns[place] === by;
      say(head.firstChild, `${name}${isFirst ? (falls ? " ↓" : " ↑") : ""}`);
      mark(head, "aria-sort", isFirst ? (falls ? "descending" : "ascending") : null);
    });
    this.names = names;
  }

  sort(by) {
    this.order = { by, falls: this.order.by === by ? !this.order.falls : by !== "name" };
    this.name(...this.names);
    this.draw();
  }

  /** Show a round, if it is another one than is shown; not more often than every two seconds. */
  show(last, shown) {
    this.element.parentElement.hidden = last === null;
    if (last === null) return;
    this.wanted = last.record;
    this.shown = shown ?? { metric: "loss", exchange: "train" };
    if (this.wanted !== this.fetched && !this.isBusy) this.fetch();
  }

  async fetch() {
    this.isBusy = true;
    const wanted = this.wanted;
    try {
      this.record = await call("GET", runPath(this.run, `records/${wanted}`));
      this.fetched = wanted;
      this.draw();
    } catch {
      // The next round asks again.
    }
    setTimeout(() => {
      this.isBusy = false;
      if (this.wanted !== this.fetched && this.element.isConnected) this.fetch();
    }, PAUSE_MS);
  }

  draw() {
    const { record, shown } = this;
    if (!record) return;
    const { metric, exchange } = shown;
    const scope = record.evaluation.evaluate ? "evaluate" : exchange;
    const measured = record.evaluation[scope]?.nodes;
    const trained = record.train_metrics.nodes;
    const fell = new Map([...record.dropped, ...record.late.map((late) => ({ ...late, kind: "late" }))].map((drop) => [drop.node, drop]));
    const names = new Set([...(record.asked.train ?? []), ...(record.asked[scope] ?? [])]);
    const items = [...names].map((name) => ({
      name,
      figure: own(own(measured, name), metric),
      loss: own(own(trained, name), "loss"),
      norm: own(record.norms, name),
      examples: own(record.weights, name),
      state: fell.get(name)?.kind ?? (Object.hasOwn(record.weights, name) ? "heard" : "measured"),
      reason: fell.get(name)?.reason ?? "",
    }));
    const { by, falls } = this.order;
    const way = falls ? -1 : 1;
    items.sort((one, other) => {
      if (by === "name" || by === "state") return way * one[by].localeCompare(other[by], undefined, { numeric: true });
      return way * ((one[by] ?? -Infinity) - (other[by] ?? -Infinity));
    });
    this.name("Node", metric.charAt(0).toUpperCase() + metric.slice(1), ...this.names.slice(2));
    say(this.says, `As of round ${count(record.round + 1)}. A node that is picked has a line of its own in the curves.`);
    this.rows.show(items);
  }

  row({ name }) {
    const pick = el("button", { class: "pick", text: name, "aria-pressed": "false", onclick: () => this.pick(name) });
    const cells = this.columns.slice(1, 5).map(() => el("td", { class: "number" }));
    const state = el("td", { class: "what" });
    const sign = el("span", { "aria-hidden": "true" });
    const said = el("span");
    state.append(sign, " ", said);
    const row = el("tr", { "data-node": name }, el("td", { class: "name" }, pick), ...cells, state);
    row.show = (node) => {
      mark(pick, "aria-pressed", this.picked.has(name));
      [figure(node.figure), figure(node.loss), figure(node.norm), count(node.examples)].forEach((text, place) => say(cells[place], text));
      mark(sign, "class", `mark ${node.state}`);
      mark(state, "title", node.reason || null);
      say(said, node.state);
    };
    return row;
  }

  pick(name) {
    if (!this.picked.delete(name)) {
      if (this.picked.size >= MOST_PICKED) this.picked.delete(this.picked.values().next().value);
      this.picked.add(name);
    }
    this.draw();
    this.onPick();
  }
}

/** What is said of a name; null, if nothing is: a node or a metric may be called "constructor". */
function own(things, name) {
  return things && Object.hasOwn(things, name) ? things[name] : null;
}
