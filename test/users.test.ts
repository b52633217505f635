import { expect, test } from "vitest";
import { userNames } from "../src/users.ts";

test("a name is asked for once in ten minutes, whether there is one or not", () => {
  const asked: number[] = [];
  let minutes = 0;
  const name = userNames(
    (uid) => {
      asked.push(uid);
      return uid === 0 ? "root" : undefined;
    },
    () => minutes * 60_000,
  );
  for (minutes = 0; minutes < 10; minutes++) {
    expect(name(0)).toBe("root");
    expect(name(4242)).toBe("4242");
  }
  expect(asked).toEqual([0, 4242]);
  name(4242);
  expect(asked).toEqual([0, 4242, 4242]);
});
