/**
 * JSON with bigints as integers, digit for digit, which JSON.stringify refuses;
 * properties stay in the order given. On a terminal it does nothing but show.
 */
import { configure } from "safe-stable-stringify";
import { visibleJson } from "./text.ts";

const stringify = configure({ bigint: true, deterministic: false });

export function toJson(value: object): string {
  return visibleJson(stringify(value));
}
