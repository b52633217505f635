/**
 * JSON with bigints as integers, digit for digit, which JSON.stringify refuses;
 * properties stay in the order given.
 */
import stringify from "safe-stable-stringify";

export const toJson: (value: object | string) => string = stringify.configure({
  bigint: true,
  deterministic: false,
});
