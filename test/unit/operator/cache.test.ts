import fc from "fast-check";
import { afterEach, beforeEach, expect, test } from "vitest";
import type { Api, ApiError } from "../../../src/operator/api.ts";
import { Cache } from "../../../src/operator/cache.ts";
import type { KubernetesObject } from "../../../src/operator/types.ts";
import { ApiServer, type Fault, refuse } from "../../support/apiserver.ts";
import { until } from "../../support/meter.ts";

const LIST = "/api/v1/configmaps";
const path = (name: string) => `/api/v1/namespaces/n/configmaps/${name}`;

let server: ApiServer;
let api: Api;
let cache: Cache<KubernetesObject>;
let end: AbortController;
let errors: ApiError[];

beforeEach(async () => {
  server = await ApiServer.start();
  api = server.connect();
  errors = [];
  end = new AbortController();
});

afterEach(() => {
  end.abort();
  api.close();
  server.close();
});

function follow(idle = 60_000, patience = 20_000): void {
  cache = new Cache(api, {
    ...{ path: LIST, idle, patience, onChange: () => {} },
    onError: (_, error) => errors.push(error),
    onWell: () => {},
  });
  void cache.run(end.signal);
}

const inServer = () =>
  server
    .list("/v1/configmaps")
    .map(({ metadata }) => `${metadata.name} ${metadata.resourceVersion}`);
const inCache = () =>
  [...cache.values()].map(({ metadata }) => `${metadata.name} ${metadata.resourceVersion}`);
const isSame = () => JSON.stringify(inServer().sort()) === JSON.stringify(inCache().sort());
const same = () => until("the same in the cache", isSame, 20_000);
const asked = (verb: string) => server.asked.filter((each) => each.verb === verb).length;

test("it lists page by page, and follows what comes, changes and goes", async () => {
  for (let i = 0; i < 1234; i++) server.put(path(`a${i}`), { data: {} });
  follow();
  await cache.ready;
  expect(asked("list")).toBe(5);
  expect(inCache()).toHaveLength(1234);
  await until("a watch", () => server.watches === 1);
  // From where the list ends.
  const { query } = server.asked.at(-1) as { query: URLSearchParams };
  expect(query.get("resourceVersion")).toBe("1235");
  server.put(path("new"), { data: {} });
  server.put(path("a1"), { data: { changed: "yes" } });
  server.remove(path("a2"));
  await same();
  expect(asked("list")).toBe(5);
  expect(errors).toEqual([]);
});

/** What is done once to a request of this verb. */
function once(verb: string, fault: Fault): void {
  server.fault = (each) => {
    if (each.verb !== verb) return undefined;
    server.fault = () => undefined;
    return fault;
  };
}

const partly: Fault = (_, response) => {
  response.writeHead(200, { "content-type": "application/json" });
  response.write('{"metadata":{"resourceVersion":"1"},"items":[{"meta');
  setTimeout(() => response.destroy(), 20);
};
const error = (code: number) =>
  `${JSON.stringify({ type: "ERROR", object: { metadata: {}, code, reason: "Expired", message: "old" } })}\n`;

test.each<[string, () => void]>([
  ["a list that is refused", () => once("list", refuse(500, "InternalError"))],
  ["a list that is cut off", () => once("list", partly)],
  ["a list that is no JSON", () => once("list", (_, response) => response.end('{"items": ['))],
  ["a watch that is refused", () => once("watch", refuse(500, "InternalError"))],
  ["a watch that is too old", () => once("watch", refuse(410, "Expired"))],
  ["a watch whose version is no number", () => once("watch", refuse(400, "BadRequest"))],
  ["a watch that ends at once", () => once("watch", (_, response) => response.end())],
])("%s is begun anew", async (_, fault) => {
  fault();
  server.put(path("a"), { data: {} });
  follow();
  await cache.ready;
  await until("a watch", () => server.watches === 1, 5000);
  server.put(path("b"), { data: {} });
  await same();
  expect(server.asked.length).toBeLessThanOrEqual(5);
});

test("an answer that would fill the memory is not read to its end", async () => {
  once("list", (_, response) => response.end(Buffer.alloc(33 << 20)));
  follow();
  await cache.ready;
  expect(errors.map(({ reason }) => reason)).toEqual(["TooLong"]);
});

test.each<[string, () => void, number]>([
  ["whose version is too old", () => server.interrupt(error(410)), 2],
  [
    "in which a line is cut off",
    () => {
      server.interrupt('{"type":"ADDED","obj');
      server.interrupt();
    },
    1,
  ],
  ["in which a line is no JSON", () => server.interrupt("{]\n"), 1],
  ["whose connection breaks", () => server.interrupt(), 1],
  ["whose connection is half closed", () => server.halfClose(), 1],
])("a watch %s misses nothing", async (_, fault, lists) => {
  server.put(path("a"), { data: {} });
  follow();
  await until("a watch", () => server.watches === 1);
  fault();
  server.put(path("b"), { data: {} });
  server.remove(path("a"));
  await same();
  expect(asked("list")).toBe(lists);
});

test("what was missed beyond what the server remembers is listed again, and told", async () => {
  server.put(path("a"), { data: {} });
  const told: string[] = [];
  cache = new Cache(api, {
    ...{ path: LIST, onError: (_, error) => errors.push(error), onWell: () => {} },
    onChange: ({ metadata }, gone) => told.push(`${metadata.name} ${gone}`),
  });
  void cache.run(end.signal);
  await until("a watch", () => server.watches === 1);
  server.fault = ({ verb }) => (verb === "watch" ? refuse(500, "InternalError") : undefined);
  server.interrupt();
  server.remove(path("a"));
  server.put(path("b"), { data: {} });
  server.compact();
  server.fault = () => undefined;
  await same();
  expect(told).toEqual(["a false", "a true", "b false"]);
});

test("it waits as long as the server asks", async () => {
  once("list", refuse(429, "TooManyRequests", { "retry-after": "1" }));
  const begin = performance.now();
  follow();
  await cache.ready;
  expect(performance.now() - begin).toBeGreaterThan(900);
  expect(asked("list")).toBe(2);
  expect(errors.map(({ code }) => code)).toEqual([429]);
});

test("a watch that goes silent is noticed, and goes on where it was", async () => {
  server.put(path("a"), { data: {} });
  follow(300);
  await until("a watch", () => server.watches === 1);
  // The server keeps the connection, and writes nothing.
  const heard = cache.heard;
  await until("another watch", () => asked("watch") > 1, 5000);
  expect(errors.map(({ reason }) => reason)).toContain("Silent");
  expect(asked("list")).toBe(1);
  await until("an answer to it", () => cache.heard > heard, 5000);
  server.put(path("b"), { data: {} });
  await same();
});

test("bookmarks keep a watch alive, and are where it goes on", async () => {
  server.put(path("a"), { data: {} });
  follow(400);
  await until("a watch", () => server.watches === 1);
  const bookmark = { type: "BOOKMARK", object: { metadata: { name: "", resourceVersion: "2" } } };
  const timer = setInterval(() => server.interrupt(`${JSON.stringify(bookmark)}\n`), 100);
  await new Promise((resolve) => setTimeout(resolve, 1500));
  clearInterval(timer);
  expect(asked("watch")).toBe(1);
  expect(inCache()).toHaveLength(1);
});

test("a server that answers nothing for long is not stormed", async () => {
  server.fault = () => refuse(500, "InternalError");
  follow();
  await new Promise((resolve) => setTimeout(resolve, 3000));
  // 0.2 s, doubled each time: 4 or 5 tries.
  expect(server.asked.length).toBeLessThan(8);
  server.fault = () => undefined;
  await cache.ready;
});

test("whatever happens to the connection, the cache becomes what the server has", async () => {
  const fault = fc.constantFrom<(() => void)[]>(
    ...[
      () => server.interrupt(),
      () => server.interrupt(error(410)),
      () => server.interrupt("{]\n"),
      () => server.compact(),
      () => once("watch", refuse(410, "Expired")),
      () => once("list", partly),
    ],
  );
  const change = fc.record({ name: fc.constantFrom("a", "b", "c", "d"), gone: fc.boolean() });
  const step = fc.oneof(fault, change);
  // Many faults in a row make it wait for long, which proves nothing.
  follow(60_000, 300);
  await cache.ready;
  let i = 0;
  await fc.assert(
    fc.asyncProperty(fc.array(step, { minLength: 1, maxLength: 12 }), async (steps) => {
      for (const each of steps) {
        if (typeof each === "function") each();
        else if (each.gone) server.remove(path(each.name));
        else server.put(path(each.name), { data: { i: `${i++}` } });
        await new Promise(setImmediate);
      }
      await same();
    }),
    { numRuns: 12 },
  );
});
