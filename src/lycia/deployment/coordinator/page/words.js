// Numbers as people say them.

/** 1234000 → "1.2 MB" */
export function size(bytes) {
  if (bytes === null || bytes === undefined) return "–";
  const units = ["B", "kB", "MB", "GB", "TB"];
  let unit = 0;
  while (bytes >= 1000 && unit < units.length - 1) {
    bytes /= 1000;
    unit += 1;
  }
  return `${unit && bytes < 100 ? bytes.toFixed(1) : Math.round(bytes)} ${units[unit]}`;
}

/** 135 → "2 min 15 s" */
export function duration(seconds) {
  if (seconds === null || seconds === undefined || !isFinite(seconds)) return "–";
  if (seconds < 1) return `${Math.round(seconds * 1000)} ms`;
  if (seconds < 10) return `${seconds.toFixed(1)} s`;
  const whole = Math.round(seconds);
  if (whole < 60) return `${whole} s`;
  if (whole < 3600) return whole % 60 ? `${Math.floor(whole / 60)} min ${whole % 60} s` : `${whole / 60} min`;
  const [hours, minutes] = [Math.floor(whole / 3600), Math.floor((whole % 3600) / 60)];
  return hours < 48 ? `${hours} h ${String(minutes).padStart(2, "0")} min` : `${Math.round(hours / 24)} days`;
}

/** A measured figure, to four places; at an axis, no longer than it must be. */
export function figure(value, isTick = false) {
  if (value === null || value === undefined) return "–";
  const size = Math.abs(value);
  if (isTick && (size === 0 || (size >= 0.001 && size < 1e6))) return String(Number(value.toPrecision(4)));
  if (size !== 0 && (size < 0.001 || size >= 1e6)) return value.toExponential(2);
  return size >= 1000 ? value.toFixed(0) : size >= 10 ? value.toFixed(2) : value.toFixed(4);
}

/** 12345 → "12 345", with a narrow space. */
export function count(number) {
  if (number === null || number === undefined) return "–";
  return String(Math.round(number)).replace(/\B(?=(\d{3})+$)/g, "\u202f");
}

/** 1, "node" → "1 node" */
export function counted(number, thing) {
  return `${count(number)} ${thing}${number === 1 ? "" : "s"}`;
}

/** A moment: today its time, else its day too. */
export function moment(seconds) {
  const at = new Date(seconds * 1000);
  const time = at.toLocaleTimeString([], { hour: "2-digit", minute: "2-digit" });
  if (at.toDateString() === new Date().toDateString()) return time;
  return `${at.toLocaleDateString([], { day: "numeric", month: "short" })}, ${time}`;
}

/** How long ago, in words that need no ticking clock. */
export function ago(seconds) {
  const past = Math.max(Date.now() / 1000 - seconds, 0);
  if (past < 60) return "a moment ago";
  if (past < 3600) return `${Math.floor(past / 60)} min ago`;
  return past < 86400 ? `${Math.floor(past / 3600)} h ago` : moment(seconds);
}

/** "evaluate by evaluator" → "Evaluate by evaluator" */
export function titled(text) {
  return text.charAt(0).toUpperCase() + text.slice(1);
}

const EXCHANGES = {
  train: "training",
  evaluate: "measuring",
  "evaluate by evaluator": "measuring by evaluators",
  baseline: "training alone",
  describe: "describing data",
  close: "making the model",
};

/** What nodes do in an exchange. */
export function doing(exchange) {
  return EXCHANGES[exchange] ?? exchange;
}

export const STATES = {
  running: { sign: "▶", name: "running" },
  paused: { sign: "‖", name: "paused" },
  finished: { sign: "✓", name: "finished" },
  stopped: { sign: "■", name: "stopped" },
};
