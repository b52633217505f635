import { request } from "node:http";
import { createConnection } from "node:net";
import { gunzipSync } from "node:zlib";
import { afterAll, beforeAll, expect, test } from "vitest";
import { ExitCode } from "../src/errors.ts";
import { CONTENT_TYPES } from "../src/metrics.ts";
import { type Page, serve, TEXT, type Web } from "../src/web.ts";

const [PLAIN, OPEN_METRICS] = CONTENT_TYPES;
const LOOPBACK = { host: "127.0.0.1", port: 0 };
const errors: unknown[] = [];
let web: Web;
let origin: string;

beforeAll(async () => {
  web = await serve(
    [LOOPBACK, LOOPBACK],
    new Map<string, Page>([
      ["/", () => ({ type: TEXT, body: "hello\n" })],
      ["/metrics", (prefer) => ({ type: prefer(CONTENT_TYPES), body: "x 1\n" })],
      ["/failing", () => ({ status: 503, type: TEXT, body: "why\n" })],
      [
        "/broken",
        () => {
          throw new Error("broken");
        },
      ],
    ]),
    (error) => errors.push(error),
  );
  origin = web.origins[0] as string;
});

afterAll(() => web.close());

function get(path: string, headers: Record<string, string> = {}, method = "GET") {
  return new Promise<{ status: number; headers: Record<string, unknown>; body: Buffer }>(
    (resolve, reject) => {
      request(`${origin}${path}`, { headers, method, agent: false }, async (response) => {
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
  expect(await raw("GET http://example.org/metrics HTTP/1.1")).toContain("HTTP/1.1 200");
  expect(await raw("GET http://[/ HTTP/1.1")).toContain("HTTP/1.1 404");
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

/** Sends one request line as it is. */
function raw(line: string): Promise<string> {
  return new Promise((resolve, reject) => {
    const socket = createConnection(Number(new URL(origin).port), "127.0.0.1");
    let text = "";
    socket.on("data", (data) => {
      text += data;
    });
    socket.on("end", () => resolve(text)).on("error", reject);
    socket.write(`${line}\r\nhost: x\r\nconnection: close\r\n\r\n`);
  });
}
