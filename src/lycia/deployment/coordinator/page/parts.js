// Small things that several views show.

import { el, mark, say } from "./dom.js";
import { STATES } from "./words.js";

/** How a run stands, as a badge. */
export class Badge {
  constructor() {
    this.sign = el("span", { "aria-hidden": "true" });
    this.name = el("span");
    this.element = el("span", { class: "state" }, this.sign, " ", this.name);
  }

  show(state) {
    const known = STATES[state] ?? { sign: "?", name: state };
    mark(this.element, "class", `state ${state}`);
    say(this.sign, known.sign);
    say(this.name, known.name);
  }
}

/** A bar that fills. */
export class Bar {
  constructor(label) {
    this.fill = el("span");
    this.element = el("div", { class: "bar-of", role: "progressbar", "aria-label": label, "aria-valuemin": 0 }, this.fill);
  }

  show(done, of, kind = "") {
    mark(this.element, "aria-valuemax", of);
    mark(this.element, "aria-valuenow", done);
    mark(this.element, "class", `bar-of ${kind}`);
    this.fill.style.transform = `scaleX(${of ? Math.min(done / of, 1) : 0})`;
  }
}

/** A figure with its name, and small words below. */
export class Tile {
  constructor(name) {
    this.name = el("dt", { text: name });
    this.big = el("div", { class: "big", text: "–" });
    this.small = el("div", { class: "small" });
    this.element = el("div", { class: "tile" }, this.name, el("dd", {}, this.big, this.small));
  }

  show(big, small = "", name = null) {
    say(this.big, big);
    say(this.small, small);
    if (name) say(this.name, name);
  }
}

/** How far a run is: whole rounds, and the part of the open one that was heard. */
export function progress(standing) {
  const moved = standing.state === "running" || standing.state === "paused" ? standing.moved : null;
  const isTraining = moved && moved.exchange === "train" && moved.round === standing.round && moved.asked > 0;
  return standing.round + (isTraining ? (0.9 * moved.heard) / moved.asked : 0);
}

/** Seconds until a run is done, if it goes on as it did. */
export function left(standing) {
  const isKnown = standing.state === "running" && standing.round_s !== null && standing.rounds > standing.round;
  return isKnown ? (standing.rounds - progress(standing)) * standing.round_s : null;
}
