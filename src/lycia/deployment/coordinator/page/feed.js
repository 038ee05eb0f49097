// A stream of events that outlives lost connections, restarts of the coordinator, and the tab being out of sight.

import { refusal } from "./calls.js";

const PATIENCE_MS = [500, 1000, 2000, 5000];
const SILENCE_MS = 40_000; // the coordinator says every 15 seconds, at least, that it is still here

export class Feed {
  /**
   * url(): where to listen, asked each time anew, so that it can say what is known already.
   * hear: name of an event → what to do with its data.
   * told(isLive): the connection comes or goes. refused(problem): the coordinator does not let this page listen.
   */
  constructor({ url, hear, told, refused }) {
    Object.assign(this, { url, hear, told, refused, tries: 0, isOver: false });
    this.seen = () => (document.hidden ? this.hangUp() : this.open());
    document.addEventListener("visibilitychange", this.seen);
    this.open();
  }

  open() {
    clearTimeout(this.waiting);
    // A tab that nobody looks at takes none of the few connections that a browser has for one host.
    if (this.isOver || this.source || document.hidden) return;
    const source = (this.source = new EventSource(this.url()));
    source.onopen = () => {
      this.tries = 0;
      this.heard();
      this.told(true);
    };
    source.addEventListener("here", () => this.heard());
    for (const [name, hear] of Object.entries(this.hear)) {
      source.addEventListener(name, (event) => {
        this.heard();
        hear(JSON.parse(event.data));
      });
    }
    source.onerror = () => {
      this.told(false);
      if (!this.isOver && source.readyState === EventSource.CLOSED) this.turnedAway(); // else the browser tries again
    };
    this.heard();
  }

  /** A connection that died without a word, as when a laptop slept, is silent, and no error. */
  heard() {
    clearTimeout(this.silence);
    this.silence = setTimeout(() => {
      this.told(false);
      this.hangUp();
      this.open();
    }, SILENCE_MS);
  }

  async turnedAway() {
    this.hangUp();
    const problem = await refusal(this.url());
    if (problem && !this.isOver) this.refused(problem);
    this.waiting = setTimeout(() => this.open(), PATIENCE_MS[Math.min(this.tries++, PATIENCE_MS.length - 1)]);
  }

  hangUp() {
    clearTimeout(this.silence);
    this.source?.close();
    this.source = null;
  }

  close() {
    this.isOver = true;
    clearTimeout(this.waiting);
    document.removeEventListener("visibilitychange", this.seen);
    this.hangUp();
  }
}
