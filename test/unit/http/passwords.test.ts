import { createHmac, timingSafeEqual } from "node:crypto";
import { afterAll, beforeAll, expect, onTestFinished, test, vi } from "vitest";
import { Passwords, Verifier } from "../../../src/http/passwords.ts";
import { projectPath } from "../../support/files.ts";
import { result } from "../../support/meter.ts";
import { SECRET } from "../../support/webconfigs.ts";

// The real functions, but their calls are noted: the results do not show what they are for.
vi.mock("node:crypto", async (original) => {
  const real = await original<typeof import("node:crypto")>();
  const { createHmac, timingSafeEqual } = real;
  return { ...real, createHmac: vi.fn(createHmac), timingSafeEqual: vi.fn(timingSafeEqual) };
});

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
  "%j belongs to no user",
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

test("an unknown user costs as much as a known one, and always the same", async () => {
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

test("a right password is checked once, a wrong one each time", async () => {
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

test("a flood of wrong passwords holds up nothing, and no other client", async () => {
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

test("of all clients together 256 passwords may wait, and no more", async () => {
  const own = await Verifier.start();
  onTestFinished(() => own.close());
  const ask = (client: number) => own.verify(Buffer.from("secret"), SECRET, `${client}`);
  const asked = Array.from({ length: 257 }, (_, i) => ask(i));
  expect(asked.filter((each) => each === undefined)).toHaveLength(1);
  expect(asked[256]).toBeUndefined();
  expect(new Set(await Promise.all(asked.slice(0, 256)))).toEqual(new Set([true]));
  // There is room again.
  expect(await ask(0)).toBe(true);
});

test("of one client four passwords may wait, whatever others do", async () => {
  const own = await Verifier.start();
  onTestFinished(() => own.close());
  const ask = (client: string) => own.verify(Buffer.from("secret"), SECRET, client);
  const asked = ["a", "a", "b", "a", "a", "a", "b"].map(ask);
  expect(asked.map((each) => each !== undefined)).toEqual([
    ...[true, true, true, true, true, false, true],
  ]);
  await Promise.all(asked);
});

test("a password that several clients send at once is checked once", async () => {
  const { asked, verifier } = noting(true);
  const passwords = new Passwords(new Map([["alice", SECRET]]), verifier);
  const come = () => passwords.admit(basic("alice:secret"), "");
  expect(await Promise.all([come(), come(), come()])).toEqual(Array(3).fill("welcome"));
  expect(asked).toHaveLength(1);
});

test("two users with the same password at once are checked one by one", async () => {
  const users = new Map(Object.entries({ alice: SECRET, none: EMPTY }));
  const passwords = new Passwords(users, verifier);
  const come = (user: string) => passwords.admit(basic(`${user}:secret`), "");
  expect(await Promise.all([come("alice"), come("none")])).toEqual(["welcome", "stranger"]);
});

test("what is remembered of a password is keyed by a secret of its own, and compared in constant time", async () => {
  vi.mocked(createHmac).mockClear();
  const secrets: string[] = [];
  for (let i = 0; i < 2; i++) {
    const passwords = new Passwords(new Map([["alice", SECRET]]), noting(true).verifier);
    await passwords.admit(basic("alice:secret"), "");
    vi.mocked(timingSafeEqual).mockClear();
    await passwords.admit(basic("alice:secret"), "");
    await passwords.admit(basic("alice:wrong"), "");
    expect(timingSafeEqual).toHaveBeenCalledTimes(2);
    // The others are of stand-ins, made from the hashes.
    const keys = vi.mocked(createHmac).mock.calls.map(([, key]) => key);
    const own = keys.filter(Buffer.isBuffer).map((key) => key.toString("hex"));
    expect(own[0]).toMatch(/^[0-9a-f]{64}$/);
    expect(new Set(own.slice(-3)).size).toBe(1);
    secrets.push(own.at(-1) as string);
  }
  expect(secrets[0]).not.toBe(secrets[1]);
});

test("where the thread has died, no request waits for it", async () => {
  const own = await Verifier.start();
  onTestFinished(() => own.close());
  const wrong = own.verify(Buffer.from("x"), "no hash", "a");
  const waiting = own.verify(Buffer.from("x"), SECRET, "b");
  await expect(wrong).rejects.toThrow();
  await expect(waiting).rejects.toThrow();
  await expect(own.verify(Buffer.from("x"), SECRET, "c")).rejects.toThrow();
});

test("the thread ends when it is closed", () => {
  const program = `const { Verifier } = require(${JSON.stringify(projectPath("dist/http/passwords.js"))});
    Verifier.start().then((verifier) => verifier.close());`;
  // A thread that goes on keeps the process from ending.
  expect(result(process.execPath, ["-e", program])).toEqual({ status: 0, stdout: "", stderr: "" });
});
