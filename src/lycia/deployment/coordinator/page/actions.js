// What an operator does to a run, with a question before what cannot be undone.

import { call, runPath } from "./calls.js";
import { el, mark } from "./dom.js";
import { notify } from "./notices.js";

const ACTIONS = [
  { how: "pause", name: "Pause", when: ["running"], sign: "‖" },
  { how: "resume", name: "Resume", when: ["paused"], sign: "▶" },
  { how: "stop", name: "Stop …", when: ["running", "paused"], sign: "■" },
];

/** Buttons for a run; call `show(standing)` when it stands otherwise. */
export class Actions {
  constructor(run, hows = ["pause", "resume", "stop"]) {
    this.run = run;
    this.element = el("div", { class: "actions", role: "group", "aria-label": `Actions on the run ${run}` });
    this.buttons = ACTIONS.filter((action) => hows.includes(action.how)).map((action) => {
      const sign = el("span", { class: "sign", "aria-hidden": "true", text: action.sign });
      const button = el("button", { class: action.how, onclick: () => this.act(action, button) }, sign, ` ${action.name}`);
      this.element.append(button);
      return [action, button];
    });
  }

  show(standing) {
    for (const [action, button] of this.buttons) {
      button.hidden = !action.when.includes(standing.state);
    }
  }

  async act(action, button) {
    if (action.how === "stop" && !(await confirmed(this.run))) return;
    button.disabled = true;
    mark(button, "aria-busy", true);
    try {
      await call("POST", runPath(this.run, action.how));
    } catch (problem) {
      notify(problem);
    } finally {
      button.disabled = false;
      mark(button, "aria-busy", null);
    }
  }
}

function confirmed(run) {
  return new Promise((decide) => {
    const dialog = el(
      "dialog",
      { "aria-labelledby": "question", onclose: () => (dialog.remove(), decide(dialog.returnValue === "stop")) },
      el("h2", { id: "question", text: "Stop this run for good?" }),
      el("p", {}, el("code", { text: run })),
      el("p", { text: "Its models and its report stay. It cannot go on afterwards; a run that is paused can." }),
      el(
        "div",
        { class: "actions" },
        el("button", { text: "Let it be", autofocus: true, onclick: () => dialog.close("") }),
        el("button", { class: "stop", text: "Stop it", onclick: () => dialog.close("stop") }),
      ),
    );
    document.body.append(dialog);
    dialog.showModal();
  });
}
