// Curves over rounds, drawn by uPlot on a canvas. What a chart shows is said in words, too, for who cannot see it.

import uPlot from "./uPlot/uPlot.esm.js";
import { el, say } from "./dom.js";
import { count } from "./words.js";

const HEIGHT = 210;
const together = uPlot.sync("rounds"); // the same round is pointed at in all charts

/** A colour of the page's, as it is now: light or dark. */
function colour(name) {
  return getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();
}

/**
 * One chart. `lines(history)` says what to draw: a list of { name, values, colour, fill, width, dash, quiet, to }; with
 * `to`, the room between this line and the one that many places further on is filled.
 */
export class Chart {
  constructor({ title, note = "", format, lines, zero = false }) {
    Object.assign(this, { title, format, lines, zero });
    this.place = el("div", { class: "plot", role: "img" });
    this.keys = el("ul", { class: "legend" });
    this.note = el("p", { text: note });
    this.element = el(
      "figure",
      { class: "panel" },
      el("figcaption", {}, el("h3", { text: title }), this.note),
      this.place,
      this.keys,
    );
    this.resized = new ResizeObserver(() => this.fit());
    this.resized.observe(this.place);
    this.scheme = matchMedia("(prefers-color-scheme: dark)");
    this.recolour = () => this.draw(this.history, true);
    this.scheme.addEventListener("change", this.recolour);
  }

  /** Draw what is known now. */
  draw(history, anew = false) {
    if (!history || !this.element.isConnected) return;
    this.history = history;
    const lines = this.lines(history).filter((line) => line.only || line.values.some((value) => value !== null));
    this.element.hidden = lines.every((line) => line.only);
    if (this.element.hidden) return;
    const shape = lines.map((line) => [line.name, line.colour, line.to].join("/")).join("|");
    const data = [history.rounds, ...lines.map((line) => line.values)];
    this.drawn = lines;
    if (this.plot && shape === this.shape && !anew) this.plot.setData(data);
    else this.build(lines, data, shape);
    const last = lines.filter((line) => !line.quiet && !line.hidden && !line.only).map((line) => {
      const value = line.values.findLast((one) => one !== null);
      return `${line.name} ${this.format(value)}`;
    });
    this.place.setAttribute("aria-label", `${this.title} by round, up to round ${history.rounds.at(-1)}: ${last.join(", ")}`);
  }

  build(lines, data, shape) {
    this.plot?.destroy();
    this.shape = shape;
    const [card, soft, grid] = ["card", "soft", "grid"].map(colour);
    const axis = { stroke: soft, grid: { stroke: grid, width: 1 }, ticks: { show: false }, font: "12px system-ui, sans-serif" };
    const options = {
      width: Math.max(this.place.clientWidth, 200),
      height: HEIGHT,
      legend: { show: false },
      padding: [12, 22, 0, 4],
      cursor: { sync: { key: together.key }, x: true, y: false, drag: { x: true, y: false }, points: { size: 7 } },
      scales: {
        x: { time: false, range: (_, low, high) => (low === high ? [low - 1, high + 1] : [low, high]) },
        y: { range: (_, low, high) => this.range(low, high) },
      },
      axes: [
        { ...axis, size: 28, values: (_, at) => at.map((one) => (Number.isInteger(one) ? count(one) : "")) },
        { ...axis, size: 62, values: (_, at) => at.map((one) => (one === null ? "" : this.format(one, true))) },
      ],
      series: [
        {},
        ...lines.map((line) => ({
          label: line.name,
          stroke: line.hidden ? "transparent" : colour(line.colour),
          fill: line.fill ? colour(line.fill) : undefined,
          width: line.hidden ? 0 : (line.width ?? 2),
          dash: line.dash,
          points: line.hidden || line.quiet || line.bare ? { show: false } : { fill: card },
          spanGaps: true,
        })),
      ],
      bands: lines.flatMap((line, place) =>
        line.to ? [{ series: [place + 1 + line.to, place + 1], fill: colour(line.between) }] : [],
      ),
      hooks: { setCursor: [(plot) => this.point(plot)] },
    };
    this.place.replaceChildren();
    this.plot = new uPlot(options, data, this.place);
    this.tip = el("div", { class: "tip", hidden: true });
    this.plot.over.append(this.tip);
    this.keys.replaceChildren(
      ...lines
        .filter((line) => line.key !== false)
        .map((line) => {
          const key = el("span", { class: `key ${line.to ? "area" : line.dash ? "dashed" : ""}` });
          key.style.color = colour(line.to ? line.between : line.colour);
          return el("li", {}, key, line.says ?? line.name);
        }),
    );
  }

  range(low, high) {
    if (low === null || high === null) return [0, 1];
    if (this.zero) return [0, high > 0 ? high * 1.08 : 1];
    const room = (high - low || Math.abs(high) || 1) * 0.08;
    return [low - room, high + room];
  }

  /** Say the figures of the round that is pointed at. */
  point(plot) {
    const at = plot.cursor.idx;
    const isHere = at !== null && at !== undefined && plot.cursor.left >= 0;
    this.tip.hidden = !isHere;
    if (!isHere) return;
    const said = this.drawn
      .filter((line) => !line.quiet && line.values[at] !== null && line.values[at] !== undefined)
      .map((line) => `${line.name}  ${this.format(line.alone ? line.alone[at] : line.values[at])}`);
    say(this.tip, [`Round ${count(plot.data[0][at])}`, ...said].join("\n"));
    const room = plot.over.clientWidth;
    const left = plot.valToPos(plot.data[0][at], "x");
    const isLeft = left + 18 + this.tip.offsetWidth > room;
    this.tip.style.transform = `translate(${isLeft ? Math.max(left - this.tip.offsetWidth - 12, 0) : left + 12}px, 6px)`;
  }

  fit() {
    const width = this.place.clientWidth;
    if (this.plot && width > 0 && width !== this.plot.width) this.plot.setSize({ width, height: HEIGHT });
  }

  close() {
    this.resized.disconnect();
    this.scheme.removeEventListener("change", this.recolour);
    this.plot?.destroy();
    this.plot = null;
  }
}

/** A metric: everybody together, the evaluators, where most nodes are, and single nodes. */
export function metricChart(metric, picked, format) {
  const lines = (history) => {
    const by = (exchange) => history.column(`${exchange}/${metric}`);
    const measured = history.metrics.get(metric) ?? new Set();
    const scope = measured.has("evaluate") ? "evaluate" : "train";
    const nodes = [...history.nodes].filter((node) => history.columns.has(`${scope}/${metric}\nof ${node}`)).sort();
    const band = nodes.length > 0 && nodes.length <= 6 ? [] : spread(history, `${scope}/${metric}`);
    return [
      ...band,
      ...nodes.map((node) => ({
        name: node,
        values: history.column(`${scope}/${metric}\nof ${node}`),
        colour: picked.has(node) ? "orange" : "grey",
        width: picked.has(node) ? 2.4 : 1,
        quiet: !picked.has(node) && nodes.length > 6,
        key: picked.has(node),
      })),
      ...(nodes.length > picked.size ? [{ name: "each node", values: nothing(history), colour: "grey", only: true }] : []),
      { name: "all nodes", values: by("evaluate"), colour: "blue", width: 3 },
      { name: "evaluators", values: by("evaluate by evaluator"), colour: "violet", width: 2.2, dash: [2, 4] },
      { name: "in training", values: by("train"), colour: "orange", width: 1.8, dash: [7, 4] },
      {
        name: "nodes alone",
        values: history.rounds.map(() => history.alone.get(metric) ?? null),
        bare: true,
        colour: "green",
        width: 1.6,
        dash: [9, 4, 2, 4],
      },
    ];
  };
  return new Chart({ title: metric.charAt(0).toUpperCase() + metric.slice(1), format, lines });
}

/** How long nodes' updates are, and how long they may be. */
export function normChart(format) {
  const lines = (history) => [
    ...spread(history, "norm"),
    { name: "median", values: history.column("norm\n2"), colour: "blue", width: 2.4 },
    { name: "bound", values: history.column("norm/bound"), colour: "red", width: 1.8, dash: [9, 4] },
  ];
  return new Chart({ title: "Norm of the updates", note: "What is longer than the bound is quarantined.", format, lines, zero: true });
}

export function bytesChart(format) {
  const lines = (history) => [
    { name: "up", values: history.column("up"), colour: "blue", fill: "mist", says: "up, from the nodes" },
    { name: "down", values: history.column("down"), colour: "sky", says: "down, to the nodes" },
  ];
  return new Chart({ title: "Bytes by round", format, lines, zero: true });
}

export function turnoutChart(format) {
  const lines = (history) => [
    { name: "asked", values: history.column("asked"), colour: "grey", dash: [5, 4] },
    { name: "heard", values: history.column("heard"), colour: "blue", fill: "mist", width: 2.4 },
  ];
  return new Chart({ title: "Nodes by round", format, lines, zero: true });
}

/** Where a round's time goes: one phase upon the other. */
export function phasesChart(doing, format) {
  const colours = ["blue", "amber", "violet", "green", "grey"];
  const lines = (history) => {
    let below = history.rounds.map(() => 0);
    const took = (phase) => history.column(`phase/${phase}`).reduce((sum, seconds) => sum + (seconds ?? 0), 0);
    const all = [...history.phases].reduce((sum, phase) => sum + took(phase), 0);
    const lasting = [...history.phases].filter((phase) => took(phase) > 0.005 * all); // thinner ones cannot be seen
    const stacked = lasting.map((phase, place) => {
      const alone = history.column(`phase/${phase}`);
      below = below.map((sum, at) => sum + (alone[at] ?? 0));
      const shade = colours[Math.min(place, colours.length - 1)];
      return { name: doing(phase), values: below, alone, colour: shade, fill: shade, width: 1 };
    });
    return stacked.reverse(); // the highest first: what lies below is drawn over it
  };
  return new Chart({ title: "Time by phase", note: "“Making the model” is the server's own work.", format, lines, zero: true });
}

function nothing(history) {
  return history.rounds.map(() => null);
}

/** Two bands: where all nodes are, and where the middle half of them is. */
function spread(history, name) {
  const at = (place) => history.column(`${name}\n${place}`);
  const edge = { colour: "grey", hidden: true, quiet: true };
  return [
    { ...edge, name: "least", values: at(0), to: 1, between: "mist", says: "all nodes, from least to most" },
    { ...edge, name: "most", values: at(4), key: false },
    { ...edge, name: "lower quarter", values: at(1), to: 1, between: "wash", says: "middle half of the nodes" },
    { ...edge, name: "upper quarter", values: at(3), key: false },
  ];
}
