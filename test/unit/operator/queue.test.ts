import { setTimeout as sleep } from "node:timers/promises";
import { expect, test } from "vitest";
import { Queue, type Work } from "../../../src/operator/queue.ts";
import { until } from "../../support/meter.ts";

test("of one key only one is worked on at a time, and changes meanwhile are worked on once more", async () => {
  let [running, most, runs] = [0, 0, 0];
  const queue = new Queue(
    async () => {
      most = Math.max(most, ++running);
      runs++;
      await sleep(30);
      running--;
      return undefined;
    },
    () => {},
  );
  for (let i = 0; i < 10; i++) queue.add("a");
  await sleep(10);
  for (let i = 0; i < 10; i++) queue.add("a");
  await until("the end", () => running === 0 && queue.depth === 0);
  expect({ most, runs }).toEqual({ most: 1, runs: 2 });
});

test("several keys are worked on at once, within the limit", async () => {
  let [running, most] = [0, 0];
  const queue = new Queue(
    async () => {
      most = Math.max(most, ++running);
      await sleep(20);
      running--;
      return undefined;
    },
    () => {},
    3,
  );
  for (let i = 0; i < 9; i++) queue.add(`${i}`);
  await until("the end", () => running === 0 && queue.depth === 0);
  expect(most).toBe(3);
});

test("what fails is tried again, later each time, until it succeeds", async () => {
  const times: number[] = [];
  const results: Work["result"][] = [];
  const queue = new Queue(
    async () => {
      times.push(performance.now());
      if (times.length < 4) throw new Error("not yet");
      return undefined;
    },
    (_, { result }) => results.push(result),
  );
  queue.add("a");
  await until("success", () => results.includes("success"));
  expect(results).toEqual(["error", "error", "error", "success"]);
  const waits = times.slice(1).map((time, i) => time - (times[i] as number));
  for (const [i, wait] of waits.entries()) {
    expect(wait).toBeGreaterThanOrEqual(0.5 * 200 * 2 ** i - 5);
  }
  expect(queue.retries).toBe(3);
});

test("it waits as long as an error asks", async () => {
  const times: number[] = [];
  const queue = new Queue(
    async () => {
      times.push(performance.now());
      if (times.length === 1) throw Object.assign(new Error("busy"), { retryAfter: 700 });
      return undefined;
    },
    () => {},
  );
  queue.add("a");
  await until("another try", () => times.length === 2);
  expect((times[1] as number) - (times[0] as number)).toBeGreaterThan(690);
});

test("of several times the earliest counts", async () => {
  let runs = 0;
  const queue = new Queue(
    async () => {
      runs++;
      return undefined;
    },
    () => {},
  );
  const begin = performance.now();
  queue.addAfter("a", 5000);
  queue.addAfter("a", 50);
  queue.addAfter("a", 3000);
  await until("a run", () => runs === 1);
  expect(performance.now() - begin).toBeLessThan(2000);
});

test("closed, it finishes what is under way, and begins nothing", async () => {
  let [begun, ended] = [0, 0];
  const queue = new Queue(
    async () => {
      begun++;
      await sleep(50);
      ended++;
      return 1;
    },
    () => {},
    1,
  );
  queue.add("a");
  queue.add("b");
  await queue.close();
  expect({ begun, ended }).toEqual({ begun: 1, ended: 1 });
  queue.add("c");
  await sleep(60);
  expect(begun).toBe(1);
});
