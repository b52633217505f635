import { afterAll, beforeAll, expect, test } from "vitest";
import { Passwords, Verifier } from "../src/passwords.ts";
import { SECRET } from "./support/webconfigs.ts";

/** Of the empty password. */
const EMPTY = "$2y$04$abcdefghijklmnopqrstuubyCG3zY1GIXMyxfivm.ClDiInHzxjiq";
const SLOW = "$2y$12$abcdefghijklmnopqrstuuT1Iwu6o8Wx7BoOyIMHfgVJq6JO/IJhW";

let verifier: Verifier;

beforeAll(async () => {
  verifier = await Verifier.start();
});

afterAll(() => verifier.close());

const basic = (text: string) => `Basic ${Buffer.from(text).toString("base64")}`;

test.each([
  ["alice:secret", "welcome"],
  ["alice:secre", "stranger"],
  ["alice:", "stranger"],
  ["Alice:secret", "stranger"],
  ["none:", "welcome"],
  ["none:x", "stranger"],
  ["alice", "stranger"],
  ["", "stranger"],
  [`alice:${"x".repeat(10_000)}`, "stranger"],
])("%s is a %s", async (given, verdict) => {
  const passwords = new Passwords(
    new Map(Object.entries({ alice: SECRET, none: EMPTY })),
    verifier,
  );
  expect(await passwords.admit(basic(given), "")).toBe(verdict);
  expect(await passwords.admit(basic(given), "")).toBe(verdict);
});

test.each([undefined, "", "Basic", "Basic !!!", "Bearer YWxpY2U6c2VjcmV0", "Digest x"])(
  "%j is nobody's",
  async (header) => {
    const passwords = new Passwords(new Map([["alice", SECRET]]), verifier);
    expect(await passwords.admit(header, "")).toBe("stranger");
  },
);

/** Stands for a verifier, notes what it is asked, and finds every password wrong or right. */
function noting(right: boolean) {
  const asked: string[] = [];
  const verify = (_: Uint8Array, hash: string) => {
    asked.push(hash);
    return Promise.resolve(right);
  };
  return { asked, verifier: { verify } as unknown as Verifier };
}

test("a user that there is not costs what another costs, always the same", async () => {
  const { asked, verifier } = noting(true);
  const passwords = new Passwords(new Map(Object.entries({ alice: SECRET, bob: SLOW })), verifier);
  const costs = new Set<string>();
  const users = new Map(Object.entries({ alice: SECRET, bob: SLOW }));
  for (let i = 0; i < 100; i++) {
    // Also after a new start.
    for (const each of [passwords, new Passwords(users, verifier)]) {
      expect(await each.admit(basic(`user${i}:x`), "")).toBe("stranger");
    }
    const [first, second] = asked.splice(0);
    expect(first).toBe(second);
    costs.add(first as string);
  }
  expect(costs).toEqual(new Set([SECRET, SLOW]));
});

test("a right password is looked at once, a wrong one each time", async () => {
  const { asked, verifier } = noting(true);
  const passwords = new Passwords(new Map([["alice", SECRET]]), verifier);
  for (let i = 0; i < 5; i++)
    expect(await passwords.admit(basic("alice:secret"), "")).toBe("welcome");
  expect(asked).toHaveLength(1);
  const wrong = noting(false);
  const others = new Passwords(new Map([["alice", SECRET]]), wrong.verifier);
  for (let i = 0; i < 5; i++) expect(await others.admit(basic("alice:x"), "")).toBe("stranger");
  expect(wrong.asked).toHaveLength(5);
});

test("a flood of wrong passwords holds up nothing, and nobody from elsewhere", async () => {
  const passwords = new Passwords(
    new Map([
      ["alice", SLOW.replace("$12$", "$14$")],
      ["bob", SECRET],
    ]),
    verifier,
  );
  let last = performance.now();
  let longest = 0;
  const timer = setInterval(() => {
    longest = Math.max(longest, performance.now() - last);
    last = performance.now();
  }, 10);
  const flood = Array.from({ length: 1000 }, (_, i) =>
    passwords.admit(basic(`alice:${i}`), "10.0.0.1"),
  );
  expect(await passwords.admit(basic("bob:secret"), "10.0.0.2")).toBe("welcome");
  const verdicts = await Promise.all(flood);
  clearInterval(timer);
  expect(verdicts.filter((verdict) => verdict === "stranger")).toHaveLength(4);
  expect(verdicts.filter((verdict) => verdict === "later")).toHaveLength(996);
  // Each takes a second, in another thread.
  expect(longest).toBeLessThan(900);
});
