import { randomInt } from "node:crypto";
import { createServer, type Server } from "node:http";
import { afterEach, expect, test } from "vitest";
import { Agents } from "../../../src/operator/agents.ts";
import type { Pod } from "../../../src/operator/types.ts";
import { pod } from "../../support/operator.ts";

/** Addresses of this test alone, on which the agents' port is free. */
const network = `127.${randomInt(1, 255)}.${randomInt(1, 255)}`;
const servers: Server[] = [];
const asked: string[] = [];

afterEach(() => {
  for (const server of servers.splice(0)) server.close().closeAllConnections();
  asked.length = 0;
});

/** A pod whose agent answers so; undefined for none that answers. */
async function agent(name: string, answer?: () => object | string): Promise<Pod> {
  const podIP = `${network}.${servers.length + 1}`;
  const server = createServer((_, response) => {
    asked.push(name);
    const body = answer?.();
    if (body === undefined) return response.destroy();
    return response.end(typeof body === "string" ? body : JSON.stringify(body));
  });
  servers.push(server);
  await new Promise<void>((resolve) => server.listen(11_059, podIP, resolve));
  return pod(name, { podIP, conditions: [{ type: "Ready", status: "True" }] });
}

const tables = (entries: number) => [
  { name: "calls", entries: 9, capacity: 9 },
  { name: "execs", entries, capacity: 16 },
];

test("they tell whether their table is full, and which list they have", async () => {
  const agents = new Agents();
  const a = await agent("a", () => ({ tables: tables(15), watch_list: "x" }));
  const b = await agent("b", () => ({ tables: tables(16), watch_list: "y" }));
  expect(agents.answerOf(a)).toBeUndefined();
  expect((await agents.ask([a, b], () => "x")).sort()).toEqual([a, b]);
  expect(agents.answerOf(a)).toEqual({ full: false, list: "x" });
  expect(agents.answerOf(b)).toEqual({ full: true, list: "y" });
});

test("one that has another list is asked again soon, others once a minute", async () => {
  const agents = new Agents();
  let list = "old";
  const [a, b] = [
    await agent("a", () => ({ tables: [], watch_list: "new" })),
    await agent("b", () => ({ tables: [], watch_list: list })),
  ];
  const ask = (now: number) => agents.ask([a, b], () => "new", now);
  await ask(0);
  expect(await ask(1000)).toEqual([]);
  expect(asked.sort()).toEqual(["a", "b"]);
  expect(await ask(6000)).toEqual([]);
  list = "new";
  expect(await ask(12_000)).toEqual([b]);
  await ask(59_000);
  expect(asked.filter((name) => name === "a")).toHaveLength(1);
  await ask(61_000);
  expect(asked.filter((name) => name === "a")).toHaveLength(2);
});

test("one that does not answer three times is silent, where others answer", async () => {
  const agents = new Agents();
  const broken = [await agent("a"), await agent("b", () => "no JSON")];
  for (const now of [0, 10_000, 20_000, 30_000]) await agents.ask(broken, () => "", now);
  // It may be the operator that reaches none.
  expect(broken.map((each) => agents.answerOf(each))).toEqual([undefined, undefined]);
  const good = await agent("c", () => ({ tables: [], watch_list: "" }));
  await agents.ask([...broken, good], () => "", 40_000);
  expect(broken.map((each) => agents.answerOf(each))).toEqual(["silent", "silent"]);
});

test("pods that are not ready, have no address or unpin are not asked", async () => {
  const agents = new Agents();
  const a = await agent("a", () => ({ tables: [] }));
  const { metadata, spec, status } = a;
  const labels = { ...metadata.labels, "app.kubernetes.io/component": "unpin" };
  const { podIP: _, ...without } = status ?? {};
  await agents.ask(
    [
      { metadata, spec, status: { ...status, conditions: [] } },
      { metadata, spec, status: without },
      { metadata: { ...metadata, labels }, spec, ...(status ? { status } : {}) },
    ],
    () => "",
  );
  expect(asked).toEqual([]);
});
