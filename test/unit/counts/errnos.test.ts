import { expect, test } from "vitest";
import { EXPECTED, errnoName } from "../../../src/counts/errnos.ts";

test("every errno that the kernel has for this has one name", () => {
  expect([2, 7, 8, 13, 26, 80, 513].map(errnoName)).toEqual([
    ...["ENOENT", "E2BIG", "ENOEXEC", "EACCES", "ETXTBSY", "ELIBBAD", "ERESTARTNOINTR"],
  ]);
  expect(errnoName(11)).toBe("EAGAIN"); // EWOULDBLOCK is the same
  expect(errnoName(4095)).toBe("4095");
  const names = Array.from({ length: 4096 }, (_, errno) => errnoName(errno));
  expect(new Set(names).size).toBe(4096);
  for (const name of EXPECTED) expect(names).toContain(name);
});
