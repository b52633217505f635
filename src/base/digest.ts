import { createHash } from "node:crypto";

/** What tells one watch list from another, whatever the order of its names: 16 hex digits. */
export function listDigest(names: Iterable<string>): string {
  const text = [...new Set(names)].sort().join("\n");
  return createHash("sha256").update(text).digest("hex").slice(0, 16);
}
