// A run's plan, in a few rows.

import { el } from "./dom.js";
import { count, counted, duration } from "./words.js";

export function planRows({ plan, layout, plan_digest: digest, versions }) {
  const { rules } = plan;
  const size = layout.reduce((sum, leaf) => sum + (leaf.shape ?? []).reduce((product, side) => product * side, 1), 0);
  const rows = [
    ["Cohort", part(plan.selector)],
    ["At the nodes", part(plan.client)],
    ["Updates", plan.stages.map(part).join(", then ") || "as they are"],
    ["Together", part(plan.aggregator)],
    ["Next model", part(plan.server)],
    ["Schedule", part(plan.schedule)],
    ["Rules", `an exchange lasts at most ${duration(rules.deadline_s)}; a run waits for ${counted(rules.least_nodes, "node")}`],
    ["Ends", plan.stop ? `after ${counted(plan.rounds, "round")}, or by ${part(plan.stop)}` : `after ${counted(plan.rounds, "round")}`],
    ["Model", `${count(size)} numbers in ${counted(layout.length, "array")}`],
    ["Plan's digest", el("code", { text: digest })],
    ["Made with", Object.entries(versions).map(([name, version]) => `${name} ${version}`).join(", ")],
  ];
  return rows.flatMap(([name, said]) => [el("dt", { text: name }), el("dd", {}, said)]);
}

/** A part and its numbers: "Adam (learning rate 0.03)". */
function part(said) {
  if (!said) return "none";
  const given = Object.entries(said)
    .filter(([name, value]) => name !== "part" && value !== null && typeof value !== "object")
    .map(([name, value]) => `${name.replaceAll("_", " ")} ${value}`);
  return given.length ? `${said.part} (${given.join(", ")})` : said.part;
}
