import { expect, test } from "vitest";
import { userNames } from "../../../src/kernel/users.ts";

test("a name is asked for once in ten minutes, whether there is one or not", () => {
  const asked: number[] = [];
  let minutes = 0;
  const name = userNames(
    (uid) => {
      asked.push(uid);
      return uid === 0 ? "root" : null;
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

/** A source of names that answers after so many milliseconds. */
function slow(takes: number) {
  const began = new Map<number, number>();
  const state = { clock: 0, waited: 0, asked: 0 };
  const look = (uid: number, patience: number) => {
    if (!began.has(uid)) state.asked++;
    const begin = began.get(uid) ?? state.clock;
    began.set(uid, begin);
    const waits = Math.min(patience, Math.max(0, begin + takes - state.clock));
    state.clock += waits;
    state.waited += waits;
    if (state.clock < begin + takes) return undefined;
    began.delete(uid);
    return `user${uid}`;
  };
  return { state, name: userNames(look, () => state.clock) };
}

test("an answer that comes soon is waited for", () => {
  const { name } = slow(20);
  expect([1, 2, 3].map(name)).toEqual(["user1", "user2", "user3"]);
});

test("an answer that takes long is waited for a twentieth of the time, and users are numbers until then", () => {
  const { state, name } = slow(12_000);
  for (let uid = 0; uid < 100; uid++) expect(name(uid)).toBe(`${uid}`);
  expect(state).toMatchObject({ asked: 100, waited: 100 });
  while (state.clock < 11_000) {
    state.clock += 100;
    expect(name(0)).toBe("0");
  }
  expect(state.waited).toBeGreaterThan(500);
  expect(state.waited).toBeLessThan(700);
  state.clock = 13_000;
  expect(name(0)).toBe("user0");
  expect(state.asked).toBe(100);
});

test("a name that is known is shown while it is asked for again, and no read waits", () => {
  const { state, name } = slow(50);
  expect(name(7)).toBe("user7");
  state.clock += 700_000;
  const { waited } = state;
  expect(name(7)).toBe("user7");
  expect(state).toMatchObject({ asked: 2, waited });
});

test("where there is no answer, the last one stays", () => {
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
