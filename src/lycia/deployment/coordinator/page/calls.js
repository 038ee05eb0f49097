// Calls to the coordinator. The cookie goes along by itself; the header says that it is this page that calls.

/** What the coordinator says is wrong. */
export class Problem extends Error {
  constructor(status, said) {
    super(said.what);
    this.status = status;
    this.why = said.why;
    this.do = said.do;
  }
}

/** The JSON behind a path. */
export async function call(method, path, body) {
  const headers = { "x-lycia-dashboard": "1" };
  if (body !== undefined) headers["content-type"] = "application/json";
  let response;
  try {
    response = await fetch(path, { method, headers, body: body === undefined ? undefined : JSON.stringify(body) });
  } catch {
    throw new Problem(0, {
      what: "the coordinator cannot be reached.",
      why: "the connection was refused or lost.",
      do: "check that `lycia serve` runs; this page tries again by itself.",
    });
  }
  const said = await response.json().catch(() => ({ what: `the coordinator answered with status ${response.status}.` }));
  if (!response.ok) throw new Problem(response.status, said);
  return said;
}

/** The path of something about a run. */
export function runPath(run, rest = "") {
  return `/v1/runs/${encodeURIComponent(run)}${rest && `/${rest}`}`;
}

/** Whose browser this is; null before a code was brought. */
export async function visitor() {
  return (await call("GET", "/v1/dashboard/session")).name;
}
