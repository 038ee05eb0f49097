// Where the page begins: who looks, what it listens to, and which view is shown.

import { call, visitor } from "./calls.js";
import { el, gathered, mark, say } from "./dom.js";
import { Feed } from "./feed.js";
import { notify } from "./notices.js";
import { Overview } from "./overview.js";
import { RunView } from "./run.js";

const main = document.getElementById("main");
const link = document.getElementById("link");
const leave = document.getElementById("leave");
const federation = { runs: new Map(), nodes: new Map() };
let feed = null;
let view = null;

async function begin() {
  say(document.getElementById("where"), location.host);
  const code = new URLSearchParams(location.hash.slice(1)).get("code");
  if (code) {
    history.replaceState(null, "", location.pathname); // nobody finds it in the history
    try {
      await call("POST", "/v1/dashboard/session", { code });
    } catch (problem) {
      notify(problem);
    }
  }
  try {
    if (await visitor()) enter();
    else showDoor();
  } catch (problem) {
    notify(problem);
    setTimeout(begin, 3000);
  }
}

function enter() {
  feed?.close();
  leave.hidden = false;
  feed = new Feed({
    url: () => "/v1/stream",
    hear: {
      run: (run) => take(federation.runs, run.id, run),
      node: (node) => take(federation.nodes, node.name, node),
    },
    told: showLink,
    lost,
  });
  show();
}

const draw = gathered(() => view?.draw());

function take(things, name, thing) {
  things.set(name, thing);
  draw();
}

/** The view that the address names. */
function show() {
  if (!feed) return;
  view?.close();
  const run = location.hash.match(/^#\/runs\/(.+)$/)?.[1];
  view = run ? new RunView(decodeURIComponent(run), federation, { told: showLink, lost }) : new Overview(federation);
  main.replaceChildren(view.element);
  scrollTo(0, 0);
  draw();
}

/** A stream was refused: has the session ended? */
async function lost() {
  const name = await visitor().catch(() => undefined);
  if (name === null) showDoor();
}

function showLink(isLive) {
  mark(link, "class", `link ${isLive ? "live" : "broken"}`);
  say(link, isLive ? "live" : "reconnecting …");
}

/** How to get in. */
function showDoor() {
  feed?.close();
  view?.close();
  feed = view = null;
  federation.runs.clear();
  federation.nodes.clear();
  leave.hidden = true;
  mark(link, "class", "link");
  say(link, "");
  main.replaceChildren(
    el(
      "section",
      { class: "door" },
      el("h1", { text: "Come in by the command line" }),
      el("p", { text: "This page shows the federation to its operator. Where the operator's key is, run" }),
      el("pre", {}, el("code", { text: "lycia dashboard" })),
      el("p", { class: "note", text: "It opens this page with a code that is good once, for a minute. The browser then stays signed in for eight hours." }),
    ),
  );
}

leave.addEventListener("click", async () => {
  await call("DELETE", "/v1/dashboard/session").catch(notify);
  showDoor();
});
addEventListener("hashchange", () => {
  if (location.hash.startsWith("#code=")) begin();
  else show();
});
setInterval(() => (view?.tick ? view.tick() : view?.draw()), 1000);
begin();
