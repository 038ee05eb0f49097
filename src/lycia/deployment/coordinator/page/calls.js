// Calls to the coordinator. The cookie goes along by itself; the header says that it is this page that calls.

const PATIENCE_MS = 60_000;

/** What the coordinator says is wrong; status 0, if it says nothing. */
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
  const signal = AbortSignal.timeout(PATIENCE_MS);
  try {
    const response = await fetch(path, { method, headers, signal, body: body === undefined ? undefined : JSON.stringify(body) });
    if (!response.ok) throw await problem(response);
    return await response.json();
  } catch (error) {
    if (error instanceof Problem) throw error;
    throw new Problem(0, {
      what: signal.aborted ? "the coordinator does not answer." : "the coordinator cannot be reached.",
      why: signal.aborted ? `nothing came for ${PATIENCE_MS / 1000} seconds.` : "the connection was refused or lost.",
      do: "check that `lycia serve` runs; this page tries again by itself to show how things stand.",
    });
  }
}

/** What the coordinator has against a stream; null, if it has nothing against it now, or cannot be reached. */
export async function refusal(path) {
  const leaving = new AbortController();
  try {
    const response = await fetch(path, { signal: leaving.signal });
    return response.ok ? null : await problem(response);
  } catch {
    return null;
  } finally {
    leaving.abort();
  }
}

async function problem(response) {
  const said = await response.json().catch(() => ({ what: `the coordinator answered with status ${response.status}.` }));
  return new Problem(response.status, said);
}

/** The path of something about a run. */
export function runPath(run, rest = "") {
  return `/v1/runs/${encodeURIComponent(run)}${rest && `/${rest}`}`;
}

/** Whose browser this is; null before a code was brought. */
export async function visitor() {
  return (await call("GET", "/v1/dashboard/session")).name;
}
