// The open round: who was asked, who was heard, who fell out and why.

import { el, mark, Rows, say } from "./dom.js";
import { Bar } from "./parts.js";
import { count, doing, duration, titled } from "./words.js";

const MOST_NAMES = 60; // of more, each node is only a dot

export class Cohort {
  constructor() {
    this.heading = el("h2", { text: "The open round" });
    this.says = el("p", { class: "note", role: "status", "aria-live": "off" });
    this.bar = new Bar("Nodes heard in this exchange");
    this.list = el("ul", { class: "cohort" });
    this.element = el("section", { class: "open-round", hidden: true }, this.heading, this.says, this.bar.element, this.list);
    this.rows = new Rows(this.list, (node) => node.name, chip, (element, node) => element.show(node));
    this.clear();
  }

  clear() {
    this.opened = null;
    this.exchanges = new Map(); // exchange → node → { state, reason }
    this.tasks = new Map();
    this.order = [];
    this.settled = new Set();
  }

  /** Take in what happened. */
  hear(steps) {
    for (const step of steps) {
      if (step.step === "Opened") {
        this.clear();
        this.opened = step;
      } else if (step.step === "Asked") {
        this.tasks.set(step.task, step.exchange);
        if (!this.exchanges.has(step.exchange)) {
          this.exchanges.set(step.exchange, new Map());
          this.order.push(step.exchange);
        }
        for (const node of step.nodes) this.exchanges.get(step.exchange).set(node, { state: "asked", reason: "" });
        this.askedAt = step.at_s;
      } else if (step.step === "Heard") {
        for (const node of step.nodes) this.put(step.task, node, "heard", "");
      } else if (step.step === "Dropped") {
        this.put(step.task, step.node, step.kind, step.reason);
      } else if (step.step === "Settled") {
        this.settled.add(step.exchange);
      } else if (step.step === "Ended") {
        this.clear();
      }
    }
  }

  put(task, node, state, reason) {
    const exchange = this.tasks.get(task) ?? this.order.at(-1) ?? "train";
    if (!this.exchanges.has(exchange)) this.exchanges.set(exchange, new Map());
    const nodes = this.exchanges.get(exchange);
    if (state === "late" && nodes.get(node)?.state === "heard") return;
    nodes.set(node, { state, reason });
  }

  /** A round that ended is open no more, though its end is not told as a step. */
  ended(round) {
    if (this.opened && (this.opened.round < round.round || (this.opened.round === round.round && this.opened.attempt <= round.attempt && this.opened.purpose === round.purpose))) this.clear();
  }

  draw(standing, plan, now) {
    const isOpen = this.opened && (standing.state === "running" || standing.state === "paused");
    this.element.hidden = !isOpen;
    if (!isOpen) return;
    const exchange = this.order.findLast((name) => !this.settled.has(name)) ?? this.order.at(-1) ?? "train";
    const nodes = [...(this.exchanges.get(exchange) ?? [])].map(([name, said]) => ({ name, ...said }));
    const heard = nodes.filter((node) => node.state === "heard").length;
    const fallen = nodes.filter((node) => node.state !== "heard" && node.state !== "asked").length;
    const attempt = this.opened.attempt ? `, attempt ${this.opened.attempt + 1}` : "";
    const what = this.opened.purpose === "epilogue" ? "After the last round" : `Round ${count(this.opened.round + 1)}${attempt}`;
    say(this.heading, `${what}: ${doing(exchange)}`);
    const at = standing.state === "paused" ? standing.ended_s : now;
    const openFor = Math.max(at - standing.paused_s - this.opened.at_s, 0);
    const deadline = plan?.rules?.deadline_s;
    const last = this.askedAt + deadline - (at - standing.paused_s);
    const spared = standing.state === "running" && deadline && last < deadline ? `at most ${duration(Math.max(last, 0))} more` : "";
    const dropped = fallen ? `${count(fallen)} fell out` : "";
    const where = standing.state === "paused" ? "stands still" : `open for ${duration(openFor)}`;
    say(this.says, [`${count(heard)} of ${count(nodes.length)} heard`, dropped, where, spared].filter(Boolean).join(" · "));
    this.bar.show(heard, nodes.length, standing.state);
    mark(this.list, "class", nodes.length > MOST_NAMES ? "cohort many" : "cohort");
    this.rows.show(nodes);
  }
}

function chip(node) {
  const name = el("span", { class: "name", text: node.name });
  const said = el("span", { class: "unseen" });
  const item = el("li", { "data-node": node.name }, el("span", { class: "mark", "aria-hidden": "true" }), name, said);
  item.show = ({ state, reason }) => {
    mark(item, "class", state);
    mark(item, "title", reason ? `${node.name}: ${state}, ${reason}` : `${node.name}: ${state}`);
    say(said, `: ${titled(state)}${reason ? `, ${reason}` : ""}`);
  };
  return item;
}
