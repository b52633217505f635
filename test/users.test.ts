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

test("who takes long to answer is asked a twentieth of the time", () => {
  let clock = 0;
  let asked = 0;
  const name = userNames(
    (uid) => {
      asked++;
      clock += 1000;
      return `user${uid}`;
    },
    () => clock,
  );
  for (let uid = 0; uid < 100; uid++) name(uid);
  expect(asked).toBe(1);
  expect([name(0), name(1)]).toEqual(["user0", "1"]);
  for (const start = clock; clock < start + 200_000; clock += 100) name(1 + (clock % 1000));
  expect(asked).toBeGreaterThan(5);
  expect(asked).toBeLessThan(15);
});

test("where nobody can tell, the last answer stays", () => {
  let minutes = 0;
  let broken = false;
  const name = userNames(
    () => {
      if (broken) throw new Error("EIO");
      return "alice";
    },
    () => minutes * 60_000,
  );
  expect(name(1000)).toBe("alice");
  broken = true;
  minutes = 20;
  expect(name(1000)).toBe("alice");
  expect(name(1001)).toBe("1001");
});
