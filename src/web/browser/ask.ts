/** Requests to the agent, by HTTP. */

/** Milliseconds until a request is given up. */
const ANSWER_MAX_MS = 5_000;

function parse(text: string) {
  const digits = (_: string, value: unknown, context?: { source?: string }) =>
    typeof value === "number" && !Number.isSafeInteger(value) && /^\d+$/.test(context?.source ?? "")
      ? BigInt(context?.source as string)
      : value;
  try {
    const value = JSON.parse(text, digits);
    if (typeof value.start_time === "string") return value;
  } catch {
    // not JSON, or no object
  }
  throw new Error("the answer is not from execve-counter");
}

/** The answer to a GET of the path; @throws Error whose message the page shows */
export async function ask(path: string) {
  // Not relative: the page's own address may have a password in it.
  const url = new URL(path, location.origin + location.pathname);
  const response = await fetch(url, {
    cache: "no-store",
    signal: AbortSignal.timeout(ANSWER_MAX_MS),
  })
    // Each browser has words of its own for it.
    .catch(() => Promise.reject(new Error("no connection")));
  const text = await response.text();
  if (response.ok) return parse(text);
  const plain = response.headers.get("content-type")?.startsWith("text/plain");
  const why = plain ? (text.split("\n", 1)[0] ?? "").slice(0, 200) : "";
  throw new Error(why || `status ${response.status}`);
}
