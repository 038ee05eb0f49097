// What went wrong, in words, for a while.

import { el } from "./dom.js";

const LASTS_MS = 12000;

export function notify(problem) {
  const notice = el(
    "div",
    { class: "notice" },
    el("p", { class: "what", text: problem.message }),
    problem.why ? el("p", { text: problem.why }) : null,
    problem.do ? el("p", { text: problem.do }) : null,
    el("button", { class: "quiet", text: "Close", onclick: () => notice.remove() }),
  );
  document.getElementById("notices").append(notice);
  setTimeout(() => notice.remove(), LASTS_MS);
}
