// All runs and all nodes of the coordinator.

import { Actions } from "./actions.js";
import { el, gathered, mark, Rows, say } from "./dom.js";
import { Feed } from "./feed.js";
import { Badge, Bar, left, progress, Tile } from "./parts.js";
import { ago, count, counted, doing, duration, figure, moment, size } from "./words.js";

const MOST_RUNS = 100;

export class Overview {
  /** `federation`: the runs and nodes that are known already; what is heard of is added to it. */
  constructor(federation, { told, refused }) {
    this.federation = federation;
    this.tiles = { nodes: new Tile("Nodes"), runs: new Tile("Runs"), examples: new Tile("Examples"), traffic: new Tile("Travelled") };
    this.runs = el("ol", { class: "runs" });
    this.more = el("p", { class: "note", hidden: true });
    this.none = el("p", { class: "empty", hidden: true, text: "No run yet. Start one with: lycia start APP.py" });
    this.filter = el("input", { type: "search", placeholder: "Filter by name", "aria-label": "Filter nodes by name", oninput: () => this.draw() });
    this.body = el("tbody");
    this.nobody = el("p", { class: "empty", hidden: true, text: "Nobody has joined yet. Invite a node with: lycia invite NAME" });
    const head = ["Node", "Role", "Examples", "Seen", "↑ Up", "↓ Down"].map((name, place) =>
      el("th", { scope: "col", class: place > 1 && place !== 3 ? "number" : "", text: name }),
    );
    this.element = el(
      "div",
      { class: "overview" },
      el("h1", { class: "unseen", text: "The federation" }),
      el("dl", { class: "tiles" }, ...Object.values(this.tiles).map((tile) => tile.element)),
      el("section", { "aria-labelledby": "runs" }, el("h2", { id: "runs", text: "Runs" }), this.none, this.runs, this.more),
      el(
        "section",
        { "aria-labelledby": "nodes" },
        el("div", { class: "heading" }, el("h2", { id: "nodes", text: "Nodes" }), this.filter),
        this.nobody,
        el("div", { class: "panel scroll tall", tabindex: 0 }, el("table", {}, el("thead", {}, el("tr", {}, ...head)), this.body)),
      ),
    );
    this.runRows = new Rows(this.runs, (run) => run.id, runCard, (card, run) => card.show(run));
    this.nodeRows = new Rows(this.body, (node) => node.name, nodeRow, (row, node) => row.show(node));
    const draw = gathered(() => this.draw());
    const take = (things, name, thing) => {
      things.set(name, thing);
      draw();
    };
    this.feed = new Feed({
      url: () => "/v1/stream",
      hear: {
        run: (run) => take(federation.runs, run.id, run),
        node: (node) => take(federation.nodes, node.name, node),
      },
      told,
      refused,
    });
    this.draw();
  }

  /** What passes with time alone. */
  tick() {
    this.draw();
  }

  draw() {
    const runs = [...this.federation.runs.values()].sort((one, other) => other.created_s - one.created_s);
    const nodes = [...this.federation.nodes.values()].filter((node) => node.role !== "operator");
    const active = nodes.filter((node) => node.state === "active");
    const there = active.filter((node) => node.there);
    const under = (state) => runs.filter((run) => run.state === state).length;
    const sum = (of) => nodes.reduce((total, node) => total + (of(node) ?? 0), 0);
    this.tiles.nodes.show(`${count(there.length)} of ${count(active.length)}`, "are there");
    this.tiles.runs.show(count(under("running")), `running, ${count(under("paused"))} paused, ${count(runs.length)} in all`);
    this.tiles.examples.show(count(sum((node) => (node.role === "node" && node.state === "active" ? node.examples : 0))), "to train on, at the nodes");
    this.tiles.traffic.show(size(sum((node) => node.bytes_up + node.bytes_down)), "since the coordinator started");
    this.none.hidden = runs.length > 0;
    this.nobody.hidden = nodes.length > 0;
    this.runRows.show(runs.slice(0, MOST_RUNS));
    this.more.hidden = runs.length <= MOST_RUNS;
    say(this.more, `${count(runs.length - MOST_RUNS)} older ones: see lycia runs`);
    this.filter.hidden = nodes.length <= 12;
    const wanted = this.filter.value.toLowerCase();
    const shown = nodes.filter((node) => node.name.toLowerCase().includes(wanted));
    const rank = (node) => (node.state !== "active" ? 2 : node.there ? 0 : 1);
    this.nodeRows.show(shown.sort((one, other) => rank(one) - rank(other) || one.name.localeCompare(other.name, undefined, { numeric: true })));
  }

  close() {
    this.feed.close();
  }
}

function runCard(run) {
  const badge = new Badge();
  const bar = new Bar(`Rounds of the run ${run.id}`);
  const actions = new Actions(run.id, ["pause", "resume"]);
  const [rounds, now, shown, reason] = ["rounds", "now", "shown", "reason"].map((name) => el("span", { class: name }));
  const card = el(
    "li",
    { class: "run", "data-run": run.id },
    el(
      "div",
      { class: "title" },
      el("a", { href: `#/runs/${encodeURIComponent(run.id)}` }, el("strong", { text: run.app || "(no name)" }), " ", el("code", { text: run.id })),
      badge.element,
    ),
    bar.element,
    el("div", { class: "line" }, rounds, shown, now),
    reason,
    actions.element,
  );
  card.show = (standing) => {
    badge.show(standing.state);
    bar.show(progress(standing), standing.rounds, standing.state);
    actions.show(standing);
    say(rounds, `round ${count(standing.round)} of ${count(standing.rounds)}`);
    say(shown, standing.figure ? `${standing.figure.metric} ${figure(standing.figure.value)}` : "");
    say(now, inWords(standing));
    say(reason, standing.state === "running" || standing.state === "finished" ? "" : standing.reason);
  };
  return card;
}

function inWords(standing) {
  if (standing.state === "finished" || standing.state === "stopped") {
    return `took ${duration(standing.ended_s - standing.created_s - standing.paused_s)}, ended ${moment(standing.ended_s)}`;
  }
  const { moved } = standing;
  const heard = moved ? `${doing(moved.exchange)}: ${count(moved.heard)} of ${counted(moved.asked, "node")}` : "";
  const eta = left(standing) === null ? "" : `about ${duration(left(standing))} left`;
  if (standing.state === "paused") return `paused ${ago(standing.ended_s)}`;
  return [heard || "waiting for nodes", eta].filter(Boolean).join(" · ");
}

function nodeRow(node) {
  const dot = el("span", { class: "dot" });
  const cells = Array.from({ length: 6 }, (_, place) => el("td", { class: place > 1 && place !== 3 ? "number" : "" }));
  const name = el("span", { text: node.name });
  cells[0].className = "name";
  cells[0].append(dot, name);
  const row = el("tr", { "data-node": node.name }, ...cells);
  row.show = (said) => {
    const isActive = said.state === "active";
    const state = !isActive ? said.state : said.there ? "there" : "away";
    mark(dot, "class", `dot ${state}`);
    mark(dot, "title", state);
    mark(row, "class", isActive ? "" : "gone");
    const seen = !isActive ? said.state : said.there ? "there" : said.last_seen_s ? ago(said.last_seen_s) : "never";
    const examples = said.examples === null ? "–" : count(said.examples);
    const texts = [said.role, examples, seen, size(said.bytes_up), size(said.bytes_down)];
    texts.forEach((text, place) => say(cells[place + 1], text));
  };
  return row;
}
