/**
 * JSON with bigints as integers, digit for digit, which JSON.stringify refuses.
 * Properties stay in the order given. A terminal can show it: it obeys nothing in it.
 */
import { visibleJson } from "./text.ts";

type Library = typeof import("safe-stable-stringify");
let stringify: ReturnType<Library["configure"]> | undefined;

export function toJson(value: object): string {
  // Loaded when it is first needed: no start waits for it.
  const library = () => require("safe-stable-stringify") as Library;
  stringify ??= library().configure({ bigint: true, deterministic: false });
  return visibleJson(stringify(value) as string);
}
