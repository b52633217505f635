import { once } from "node:events";
import { request } from "node:http";
import { createConnection, type Socket } from "node:net";
import { networkInterfaces } from "node:os";
import { setTimeout as sleep } from "node:timers/promises";
import { gunzipSync } from "node:zlib";
import fc from "fast-check";
import { afterAll, beforeAll, expect, onTestFinished, test, vi } from "vitest";
import { ExitCode } from "../../../src/base/errors.ts";
import { BOUNDS, type Bounds } from "../../../src/http/connections.ts";
import { type Page, serve, TEXT, type Web } from "../../../src/http/server.ts";
import { CONTENT_TYPES } from "../../../src/web/metrics.ts";

vi.mock("node:os", async (original) => ({
  ...(await original<typeof import("node:os")>()),
  hostname: () => "Meter.example.net",
}));

const [PLAIN, OPEN_METRICS] = CONTENT_TYPES;
const LOOPBACK = { host: "127.0.0.1", port: 0 };
const errors: unknown[] = [];
const LARGE = "x".repeat(8 << 20);
let web: Web;
let origin: string;

function page(body: () => string, types: readonly string[] = [TEXT]): Page {
  return { types, make: () => ({ body: body() }) };
}

beforeAll(async () => {
  web = await serve(
    [LOOPBACK, LOOPBACK],
    new Map<string, Page>([
      ["/", page(() => "hello\n")],
      ["/metrics", page(() => "x 1\n", CONTENT_TYPES)],
      ["/large", page(() => LARGE)],
      ["/query", { types: [TEXT], byQuery: true, make: (_, query) => ({ body: `(${query})` }) }],
      ["/failing", { types: [TEXT], make: () => ({ status: 503, body: "why\n" }) }],
      [
        "/broken",
        page(() => {
          throw new Error("broken");
        }),
      ],
    ]),
    (error) => errors.push(error),
  );
  origin = web.origins[0] as string;
});

afterAll(() => web.close());

function get(path: string, headers: Record<string, string> = {}, method = "GET", from = origin) {
  return new Promise<{ status: number; headers: Record<string, unknown>; body: Buffer }>(
    (resolve, reject) => {
      request(`${from}${path}`, { headers, method, agent: false }, async (response) => {
        const chunks: Buffer[] = [];
        for await (const chunk of response) chunks.push(chunk);
        const { statusCode: status = 0, headers } = response;
        resolve({ status, headers, body: Buffer.concat(chunks) });
      })
        .on("error", reject)
        .end();
    },
  );
}

test("it answers on every address", async () => {
  expect(new Set(web.origins).size).toBe(2);
  for (const each of web.origins) expect(await (await fetch(each)).text()).toBe("hello\n");
});

test("a page has an answer for each query, where it says so, and only for short ones", async () => {
  const body = async (path: string) => `${(await get(path)).body}`;
  expect(await body("/query")).toBe("()");
  expect(await body("/query?filter=%2F&a=%")).toBe("(filter=%2F&a=%)");
  expect(await body("/metrics?anything")).toBe("x 1\n");
  const many = Array.from({ length: 50 }, (_, i) => `/query?${i % 7}`);
  expect(await Promise.all(many.map(body))).toEqual(many.map((path) => `(${path.slice(7)})`));
  expect(await body(`/query?${"x".repeat(2048)}`)).toHaveLength(2050);
  expect((await get(`/query?${"x".repeat(2049)}`)).status).toBe(414);
  expect((await get(`/metrics?${"x".repeat(2049)}`)).status).toBe(200);
});

test("queries are answered one after the other, and each client gets what was made after it asked", async () => {
  let running = 0;
  let made = 0;
  const slow: Page = {
    types: [TEXT],
    byQuery: true,
    make: async () => {
      expect(++running).toBe(1);
      await sleep(20);
      running--;
      return { body: `${++made}` };
    },
  };
  const server = await serve([LOOPBACK], new Map([["/", slow]]), (error) => errors.push(error));
  onTestFinished(() => server.close());
  const ask = (query: string) => get(`/?${query}`, {}, "GET", server.origins[0]);
  await Promise.all(["a", "b", "a", "c", "b", "a"].map(ask));
  expect(made).toBeLessThanOrEqual(6);
  const before = made;
  expect(Number((await ask("a")).body)).toBe(before + 1);
});

test("many different queries do not hold up another page", async () => {
  let made = 0;
  const busy: Page = {
    types: [TEXT],
    byQuery: true,
    make: () => {
      const until = performance.now() + 20;
      while (performance.now() < until);
      return { body: `${++made}` };
    },
  };
  const pages = new Map([
    ["/", busy],
    ["/metrics", page(() => "x 1\n")],
  ]);
  const server = await serve([LOOPBACK], pages, (error) => errors.push(error));
  onTestFinished(() => server.close());
  const ask = (path: string) => get(path, {}, "GET", server.origins[0]);
  const all = Promise.all(Array.from({ length: 40 }, (_, i) => ask(`/?${i}`)));
  await vi.waitUntil(() => made > 0, { interval: 1 });
  await ask("/metrics");
  expect(made).toBeLessThan(20);
  await all;
  expect(made).toBe(40);
});

test("other answers than pages may load and run nothing; a page has a policy of its own, whatever is set for all", async () => {
  const policy = "script-src 'self'";
  const pages = new Map<string, Page>([
    ["/", { types: [TEXT], make: () => ({ body: "hello\n", policy }) }],
    ["/metrics", page(() => "x 1\n")],
  ]);
  const own = {
    headers: { "Content-Security-Policy": "default-src *", "X-Frame-Options": "DENY" },
  };
  for (const [protection, others] of [
    [{ headers: {} }, "default-src 'none'; frame-ancestors 'none'"],
    [own, "default-src *"],
  ] as const) {
    const web = await serve([LOOPBACK], pages, () => {}, { protection: () => protection });
    for (const [path, expected] of [
      ["/", policy],
      ["/metrics", others],
      ["/nothing", others],
    ] as const) {
      const { headers } = await get(path, {}, "GET", web.origins[0]);
      expect(headers["content-security-policy"]).toBe(expected);
      expect(headers["x-content-type-options"]).toBe("nosniff");
      expect(headers["referrer-policy"]).toBe("no-referrer");
    }
    web.close();
  }
});

test.each([
  [undefined, PLAIN],
  ["*/*", PLAIN],
  ["text/plain", PLAIN],
  ["text/plain;version=0.0.4", PLAIN],
  ["application/openmetrics-text", OPEN_METRICS],
  ["application/openmetrics-text; version=1.0.0", OPEN_METRICS],
  // Prometheus 2.42
  [
    "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,text/plain;version=0.0.4;q=0.5,*/*;q=0.1",
    OPEN_METRICS,
  ],
  // Prometheus 3
  [
    "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,application/openmetrics-text;version=0.0.1;q=0.5,text/plain;version=1.0.0;escaping=allow-utf-8;q=0.4,text/plain;version=0.0.4;q=0.3,*/*;q=0.2",
    OPEN_METRICS,
  ],
  ["application/openmetrics-text;q=0.1, text/plain;q=0.9", PLAIN],
  ["text/html", PLAIN],
  ["image/png, nonsense, ;;;q=x,,", PLAIN],
])("Accept: %s is answered with %s", async (accept, type) => {
  const { status, headers } = await get("/metrics", accept === undefined ? {} : { accept });
  expect(status).toBe(200);
  expect(headers["content-type"]).toBe(type);
  expect(headers.vary).toBe("accept, accept-encoding");
});

test.each(["gzip", "deflate, gzip;q=0.5", "*", "gzip;q=1.0, identity; q=0.5"])(
  "Accept-Encoding: %s gets gzip",
  async (encoding) => {
    const { headers, body } = await get("/", { "accept-encoding": encoding });
    expect(headers["content-encoding"]).toBe("gzip");
    expect(Number(headers["content-length"])).toBe(body.length);
    expect(gunzipSync(body).toString()).toBe("hello\n");
  },
);

test.each(["", "identity", "br", "gzip;q=0", "nonsense;;q="])(
  "Accept-Encoding: %j gets it as it is",
  async (encoding) => {
    const { headers, body } = await get("/", { "accept-encoding": encoding });
    expect(headers["content-encoding"]).toBeUndefined();
    expect(body.toString()).toBe("hello\n");
  },
);

test("HEAD has the headers of GET and no body", async () => {
  const head = await get("/metrics", {}, "HEAD");
  expect(head.status).toBe(200);
  expect(head.headers["content-length"]).toBe("4");
  expect(head.body).toHaveLength(0);
});

test.each(["POST", "PUT", "DELETE", "OPTIONS", "PATCH"])("%s is not allowed", async (method) => {
  const { status, headers } = await get("/metrics", {}, method);
  expect(status).toBe(405);
  expect(headers.allow).toBe("GET, HEAD");
});

test("a query changes nothing, and what is not there is 404", async () => {
  expect((await get("/?a=b")).status).toBe(200);
  for (const path of ["/nothing", "/metrics/", "//", "//metrics", "/constructor"]) {
    expect((await get(path)).status).toBe(404);
  }
});

test("a page's own status is passed on", async () => {
  const { status, body } = await get("/failing");
  expect(status).toBe(503);
  expect(body.toString()).toBe("why\n");
});

test("a broken page is reported, and answered with 500", async () => {
  expect((await get("/broken")).status).toBe(500);
  expect(errors).toHaveLength(1);
  expect((await get("/")).status).toBe(200);
});

test("a target in absolute form and one that is no URL are answered", async () => {
  expect(await raw("GET http://localhost/metrics HTTP/1.1")).toContain("HTTP/1.1 200");
  expect(await raw("GET http://[/ HTTP/1.1")).toContain("HTTP/1.1 404");
});

test.each([
  ...["127.0.0.1", "127.0.0.1:11059", "[::1]:9", "[::1]", "10.1.2.3:80", "[fe80::1]"],
  ...["localhost", "LocalHost:11059", "localhost.", "meter.localhost:80"],
  ...["meter.example.net", "Meter.Example.NET.:11059", "meter:80", "METER"],
])("over loopback, a request for %s is answered", async (host) => {
  expect((await get("/", { host })).status).toBe(200);
});

test.each([
  ...["example.org", "example.org:11059", "EXAMPLE.ORG.", "localhost.example.org", "nolocalhost"],
  ...["127.0.0.1.example.org", "meter.example.org", "example.net", "xn--a"],
  ...["example.org@", "[::1", "a b", "1.2.3.4.5", "::1"],
])("over loopback, a request for %s is refused, whatever it asks for", async (host) => {
  for (const [path, method] of [
    ["/", "GET"],
    ["/metrics", "HEAD"],
    ["/nothing", "POST"],
  ] as const) {
    const { status, headers, body } = await get(path, { host }, method);
    expect(status).toBe(421);
    expect(headers["content-type"]).toBe(TEXT);
    expect(body.toString()).toMatch(method === "HEAD" ? /^$/ : /^.*: use its .*\n$/);
  }
});

test("a target that names another host is refused, whatever its header says", async () => {
  for (const target of ["http://example.org/metrics", "https://example.org", "x://example.org/"]) {
    expect(await raw(`GET ${target} HTTP/1.1`)).toContain("HTTP/1.1 421");
  }
});

test("for another host not even a password is checked", async () => {
  const protection = () => ({ headers: {}, admit: () => expect.unreachable() });
  const web = await serve([LOOPBACK], new Map(), fail, { protection });
  onTestFinished(() => web.close());
  const from = web.origins[0];
  expect((await get("/", { host: "example.org" }, "GET", from)).status).toBe(421);
});

test("it is the connection that counts: on every address, loopback's are looked at, others are not", async () => {
  const pages = new Map([["/", page(() => "hello\n")]]);
  const every = await serve([{ host: undefined, port: 0 }], pages, fail);
  onTestFinished(() => every.close());
  const others = Object.values(networkInterfaces())
    .flatMap((each) => each ?? [])
    .filter(({ internal, family }) => !internal && family === "IPv4");
  for (const [address, status] of [
    ...["127.0.0.1", "127.0.1.1"].map((each) => [each, 421] as const),
    ...others.map(({ address }) => [address, 200] as const),
  ]) {
    const from = `http://${address}:${ports(every)[0].port}`;
    expect((await get("/", { host: "example.org" }, "GET", from)).status).toBe(status);
  }
});

test("an address that is taken is an error, and frees the others", async () => {
  const taken = { host: "127.0.0.1", port: Number(new URL(origin).port) };
  // A port that was free a moment ago.
  const probe = await serve([LOOPBACK], new Map(), () => {});
  const free = { host: "127.0.0.1", port: Number(new URL(probe.origins[0] as string).port) };
  probe.close();
  const failing = serve([free, taken], new Map(), () => {});
  await expect(failing).rejects.toMatchObject({
    message: `cannot listen on 127.0.0.1:${taken.port} (EADDRINUSE)`,
    exitCode: ExitCode.failed,
  });
  (await serve([free], new Map(), () => {})).close();
});

test("close ends open connections", async () => {
  const other = await serve([LOOPBACK], new Map(), () => {});
  const socket = createConnection(Number(new URL(other.origins[0] as string).port), "127.0.0.1");
  await new Promise((resolve) => socket.once("connect", resolve));
  const ended = new Promise((resolve) => socket.once("close", resolve));
  socket.on("error", () => {});
  socket.write("GET / HT");
  other.close();
  await ended;
});

test("a page that many ask for at once is made once for all, and timers run meanwhile", async () => {
  let made = 0;
  const slow = page(() => {
    for (const end = performance.now() + 20; performance.now() < end; );
    return `${++made}`;
  });
  const { port } = await bounded({}, new Map([["/", slow]]));
  const sockets = await Promise.all(Array.from({ length: 100 }, () => connect(port)));
  let last = performance.now();
  let longest = 0;
  const timer = setInterval(() => {
    longest = Math.max(longest, performance.now() - last);
    last = performance.now();
  }, 10);
  for (const socket of sockets) socket.write(GET);
  const texts = await Promise.all(sockets.map((socket) => answered(socket)));
  clearInterval(timer);
  for (const text of texts) expect(text).toContain("HTTP/1.1 200");
  expect(made).toBeLessThan(50);
  expect(longest).toBeLessThan(1500);

  const before = made;
  const socket = await connect(port);
  socket.write(GET);
  expect(await answered(socket)).toMatch(new RegExp(`\\D${before + 1}$`));
});

test("idle connections give way, the oldest first, and the newest is answered", async () => {
  const small = await bounded({ connections: 8 });
  const idle = await Promise.all(Array.from({ length: 8 }, () => connect(small.port)));
  for (const socket of idle) socket.resume();
  const [oldest] = idle;
  const ended = closed(oldest as Socket);
  expect(await get("/", {}, "GET", small.origin)).toMatchObject({ status: 200 });
  await ended;
  expect(idle.filter(({ destroyed }) => destroyed)).toHaveLength(1);
});

test.each([
  ["nothing", ""],
  ["half of the headers", "GET / HTTP/1.1\r\nhost: localhost\r\nx-slow: "],
  ["half of the body", "POST /x HTTP/1.1\r\nhost: localhost\r\ncontent-length: 9\r\n\r\nabc"],
  [
    "half of a chunk",
    "POST /x HTTP/1.1\r\nhost: localhost\r\ntransfer-encoding: chunked\r\n\r\n9\r\nabc",
  ],
])("a client that sends %s, and then a byte now and again, is shut out", async (_, start) => {
  const { port } = await bounded({ patience: 500 });
  const socket = await connect(port);
  socket.write(start);
  const timer = setInterval(() => socket.write("x"), 50);
  await closed(socket);
  clearInterval(timer);
});

test("a client that goes on asking stays connected for longer than one answer may take", async () => {
  const { port } = await bounded({ patience: 2000 });
  const socket = await connect(port);
  for (let i = 0; i < 30; i++) {
    socket.write("GET / HTTP/1.1\r\nhost: localhost\r\n\r\n");
    await once(socket, "data");
    await sleep(100);
  }
  expect(socket.destroyed).toBe(false);
  socket.destroy();
});

test("a client that does not read an answer is shut out", async () => {
  const { port } = await bounded({ patience: 500 });
  const socket = await connect(port);
  socket.write("GET /large HTTP/1.1\r\nhost: localhost\r\n\r\n");
  await sleep(1000);
  expect((await answered(socket)).length).toBeLessThan(LARGE.length);
});

test("answers that are not read give way to the next", async () => {
  const { port, origin } = await bounded({ unread: 3 * LARGE.length });
  const idle = await Promise.all(Array.from({ length: 8 }, () => connect(port)));
  for (const socket of idle) {
    socket.pause();
    socket.write("GET /large HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n");
    await once(socket, "readable");
  }
  expect(await get("/large", {}, "GET", origin)).toMatchObject({ status: 200 });
  const texts = await Promise.all(idle.map((socket) => answered(socket)));
  const whole = texts.filter((text) => text.length > LARGE.length);
  expect(whole).toHaveLength(2);
});

test("requests that come before the last is answered are answered in turn, up to a bound", async () => {
  const { port } = await bounded({ pipelined: 4 });
  const request = (path: string) => `GET ${path} HTTP/1.1\r\nhost: localhost\r\n\r\n`;
  const polite = await connect(port);
  polite.write(request("/") + request("/nothing") + request("/") + GET);
  const statuses = [...(await answered(polite)).matchAll(/HTTP\/1.1 (\d+)/g)];
  expect(statuses.map(([, status]) => status)).toEqual(["200", "404", "200", "200"]);
  const flood = await connect(port);
  flood.write(request("/").repeat(100_000));
  await answered(flood);
  expect(await (await fetch(`http://127.0.0.1:${port}/`)).text()).toBe("hello\n");
});

test("a request is answered without its body, which ends the connection", async () => {
  for (const body of [
    "content-length: 3\r\n\r\nabc",
    "transfer-encoding: chunked\r\n\r\n3\r\nabc\r\n",
  ]) {
    const socket = await connect(ports(web)[0].port);
    socket.write(`GET / HTTP/1.1\r\nhost: localhost\r\n${body}`);
    const text = await answered(socket);
    expect(text).toContain("HTTP/1.1 200");
    expect(text.toLowerCase()).toContain("connection: close");
  }
});

test("preferences beyond measure, which take long to read, are not read", async () => {
  const many = "a/b,".repeat(3700);
  const types = await get("/metrics", { accept: `${many}application/openmetrics-text` });
  expect(types.headers["content-type"]).toBe(PLAIN);
  const codings = await get("/", { "accept-encoding": `${many}gzip` });
  expect(codings.headers["content-encoding"]).toBeUndefined();
});

test("a client that has sent all, and closes that side, is answered", async () => {
  const socket = await connect(ports(web)[0].port);
  socket.end("GET / HTTP/1.1\r\nhost: localhost\r\n\r\n");
  expect(await answered(socket)).toMatch(/^HTTP\/1.1 200 .*\n\r\nhello\n$/s);
});

test.each([
  ["CONNECT x:1 HTTP/1.1\r\nhost: localhost\r\n\r\n", ""],
  ["OPTIONS * HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n", "404"],
  [
    "GET / HTTP/1.1\r\nhost: localhost\r\nconnection: upgrade, close\r\nupgrade: websocket\r\n\r\n",
    "200",
  ],
  ["PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "400"],
  ["GET / HTTP/1.0\r\n\r\n", "200"],
  ["GET / HTTP/1.0\n\n", "400"],
  ["GET / HTTP/1.1\n\n", "400"],
  ["GET / HTTP/1.1\r\n\r\n", "400"],
  ["GET / HTTP/0.9\r\n\r\n", "200"],
  ["GET /\r\n\r\n", "200"],
  ["GARBAGE / HTTP/1.1\r\nhost: localhost\r\n\r\n", "400"],
  ["\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", "400"],
  ["GET / HTTP/1.1\r\nhost: localhost\r\nhost: y\r\nconnection: close\r\n\r\n", "200"],
  ["GET / HTTP/1.1\r\nhost: \x01\r\n\r\n", "400"],
  ["GET /%00 HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n", "404"],
  ["GET /\x00 HTTP/1.1\r\nhost: localhost\r\n\r\n", "400"],
  ["GET /%zz/../..//%2e%2e HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n", "200"],
  ["GET /./ HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n", "200"],
  [`GET /${"a".repeat(15_000)} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n`, "404"],
  [`GET /${"a".repeat(100_000)} HTTP/1.1\r\nhost: localhost\r\n\r\n`, "431"],
  [`GET / HTTP/1.1\r\nhost: localhost\r\n${"a: b\r\n".repeat(10_000)}\r\n`, "431"],
  [`GET / HTTP/1.1\r\nhost: localhost\r\n${"a:\r\n".repeat(1900)}connection: close\r\n\r\n`, "200"],
  ["POST / HTTP/1.1\r\nhost: localhost\r\ncontent-length: -1\r\n\r\n", "400"],
  [
    "POST / HTTP/1.1\r\nhost: localhost\r\ncontent-length: 1\r\ntransfer-encoding: chunked\r\n\r\n",
    "400",
  ],
  ["POST / HTTP/1.1\r\nhost: localhost\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n", "400"],
  ["GET / HTTP/1.1\r\nhost: localhost\r\nexpect: 100-continue\r\ncontent-length: 3\r\n\r\n", "100"],
  ["GET / HTTP/1.1\r\nhost: localhost\r\nexpect: nonsense\r\nconnection: close\r\n\r\n", "417"],
])("%j is answered with %j", async (request, status) => {
  const socket = await connect(ports(web)[0].port);
  socket.write(request, "latin1");
  const text = await answered(socket);
  expect(text.slice(0, 12)).toBe(status && `HTTP/1.1 ${status}`);
  expect((await get("/")).status).toBe(200);
});

test("whatever bytes come, the next request is answered", async () => {
  const token = fc.constantFrom(
    ...[
      "GET",
      "HEAD",
      "POST",
      " ",
      "/",
      "/metrics",
      " HTTP/1.1",
      " HTTP/1.0",
      "\r\n",
      "\n",
      "\r\n\r\n",
    ],
    ...[
      "host: localhost",
      "accept: ",
      "accept-encoding: gzip",
      "*/*",
      ";q=",
      "content-length: ",
      "1",
      "-1",
    ],
    ...["transfer-encoding: chunked", "connection: close", "upgrade: h2c", "expect: 100-continue"],
    ...["\x00", "\xff", ",", '"', "http://[", "%"],
  );
  const noise = fc
    .uint8Array({ maxLength: 40 })
    .map((bytes) => Buffer.from(bytes).toString("latin1"));
  const bytes = fc.array(fc.oneof({ weight: 9, arbitrary: token }, noise), { maxLength: 40 });
  await fc.assert(
    fc.asyncProperty(bytes, async (parts) => {
      const socket = await connect(ports(web)[0].port);
      socket.end(parts.join(""), "latin1");
      await closed(socket);
    }),
    { numRuns: 300 },
  );
  expect((await get("/")).status).toBe(200);
});

test("clients that break off harm nothing", async () => {
  const before = errors.length;
  for (let i = 0; i < 40; i++) {
    const socket = await connect(ports(web)[0].port);
    socket.on("error", () => {});
    socket.write(`GET /${i % 2 ? "large" : ""} HTTP/1.1\r\nhost: localhost\r\n\r\n`);
    if (i % 3) await sleep(i % 5);
    socket.resetAndDestroy();
  }
  expect((await get("/large")).body).toHaveLength(LARGE.length);
  expect(errors).toHaveLength(before);
});

const GET = "GET / HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n";

const fail = (error: unknown) => {
  throw error;
};

function ports({ origins }: Web): [{ port: number }] {
  return origins.map((each) => ({ port: Number(new URL(each).port) })) as [{ port: number }];
}

/** A server with other bounds, until the test ends. */
async function bounded(
  bounds: Partial<Bounds>,
  pages = new Map([
    ["/", page(() => "hello\n")],
    ["/large", page(() => LARGE)],
  ]),
): Promise<{ port: number; origin: string }> {
  const web = await serve([LOOPBACK], pages, fail, { bounds: { ...BOUNDS, ...bounds } });
  onTestFinished(() => web.close());
  return { ...ports(web)[0], origin: web.origins[0] as string };
}

async function connect(port: number): Promise<Socket> {
  const socket = createConnection({ port, host: "127.0.0.1", allowHalfOpen: true });
  await once(socket, "connect");
  return socket.on("error", () => {}).once("end", () => socket.destroy());
}

/** All that comes until the connection ends. */
async function answered(socket: Socket): Promise<string> {
  const chunks: Buffer[] = [];
  socket.on("data", (data) => chunks.push(data));
  await closed(socket);
  return Buffer.concat(chunks).toString("latin1");
}

function closed(socket: Socket): Promise<unknown> {
  return new Promise((resolve) => socket.once("close", resolve).resume());
}

/** Sends one request line as it is. */
function raw(line: string): Promise<string> {
  return new Promise((resolve, reject) => {
    const socket = createConnection(Number(new URL(origin).port), "127.0.0.1");
    let text = "";
    socket.on("data", (data) => {
      text += data;
    });
    socket.on("end", () => resolve(text)).on("error", reject);
    socket.write(`${line}\r\nhost: localhost\r\nconnection: close\r\n\r\n`);
  });
}
