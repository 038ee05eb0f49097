// A stream of events that outlives lost connections, restarts of the coordinator, and the tab being out of sight.

const PATIENCE_MS = [500, 1000, 2000, 5000];

export class Feed {
  /**
   * url(): where to listen, asked each time anew, so that it can say what is known already.
   * hear: name of an event → what to do with its data and id.
   * told(isLive): the connection comes or goes. lost(): the coordinator refuses it.
   */
  constructor({ url, hear, told = () => {}, lost = () => {} }) {
    Object.assign(this, { url, hear, told, lost, tries: 0, isOver: false });
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
      this.told(true);
    };
    for (const [name, hear] of Object.entries(this.hear)) {
      source.addEventListener(name, (event) => hear(JSON.parse(event.data), event.lastEventId));
    }
    source.onerror = () => {
      this.told(false);
      if (this.isOver || source.readyState !== EventSource.CLOSED) return; // else the browser tries again by itself
      this.hangUp();
      this.lost();
      this.waiting = setTimeout(() => this.open(), PATIENCE_MS[Math.min(this.tries++, PATIENCE_MS.length - 1)]);
    };
  }

  hangUp() {
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
