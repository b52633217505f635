/**
 * JSON with bigints as integers, digit for digit, which JSON.stringify refuses.
 * Properties stay in the order given. A terminal can show it: it obeys nothing in it.
 */
import { configure } from "safe-stable-stringify";
import { visibleJson } from "./text.ts";

const stringify = configure({ bigint: true, deterministic: false });

export function toJson(value: object): string {
  return visibleJson(stringify(value));
}
