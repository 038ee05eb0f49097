// Where the page begins: who looks, and which view is shown. A view has one stream: a browser has six for one host.

import { call, visitor } from "./calls.js";
import { el, mark, say } from "./dom.js";
import { notify } from "./notices.js";
import { Overview } from "./overview.js";
import { RunView } from "./run.js";

const AGAIN_MS = 3000;
const main = document.getElementById("main");
const link = document.getElementById("link");
const leave = document.getElementById("leave");
const federation = { runs: new Map(), nodes: new Map() };
let isIn = false;
let view = null;

async function begin(code = "") {
  try {
    if (code) {
      await call("POST", "/v1/dashboard/session", { code }).catch((problem) => {
        if (problem.status === 0) throw problem;
        notify(problem);
      });
    }
    if (await visitor()) enter();
    else showDoor();
  } catch {
    showLink(false);
    setTimeout(() => begin(code), AGAIN_MS);
  }
}

function enter() {
  isIn = true;
  leave.hidden = false;
  show();
}

/** The view that the address names. */
function show() {
  if (!isIn) return;
  view?.close();
  showLink(null);
  const run = named(location.hash);
  const links = { told: showLink, refused };
  view = run ? new RunView(run, links) : new Overview(federation, links);
  main.replaceChildren(view.element);
  scrollTo(0, 0);
}

/** The run in an address; "" where there is none. */
function named(hash) {
  try {
    return decodeURIComponent(hash.match(/^#\/runs\/(.+)$/)?.[1] ?? "");
  } catch {
    return "";
  }
}

function refused(problem) {
  if (problem.status === 401) showDoor(); // the session has ended
}

/** Whether what is shown is how things stand; null, if nothing is listened to. */
function showLink(isLive) {
  mark(link, "class", `link ${isLive === null ? "" : isLive ? "live" : "broken"}`);
  say(link, isLive === null ? "" : isLive ? "live" : "reconnecting …");
}

/** How to get in. */
function showDoor() {
  view?.close();
  view = null;
  isIn = false;
  federation.runs.clear();
  federation.nodes.clear();
  leave.hidden = true;
  showLink(null);
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

/** The code in the address, which is taken out of it: nobody finds it in the history. */
function codeInAddress() {
  const code = new URLSearchParams(location.hash.slice(1)).get("code") ?? "";
  if (code) history.replaceState(null, "", location.pathname);
  return code;
}

leave.addEventListener("click", async () => {
  try {
    await call("DELETE", "/v1/dashboard/session");
    showDoor();
  } catch (problem) {
    notify(problem); // the cookie is still there, so the page stays, too
  }
});
document.querySelector(".skip").addEventListener("click", (event) => {
  event.preventDefault(); // the address says which view is shown
  main.focus();
});
addEventListener("hashchange", () => {
  const code = codeInAddress();
  if (code) begin(code);
  else show();
});
setInterval(() => view?.tick(), 1000);
say(document.getElementById("where"), location.host);
begin(codeInAddress());
