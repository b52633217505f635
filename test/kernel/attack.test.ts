import { readdirSync, readFileSync } from "node:fs";
import { setTimeout as sleep } from "node:timers/promises";
import { Worker } from "node:worker_threads";
import { expect, test } from "vitest";
import { Meter, sh, until } from "../support/meter.ts";

/** Seconds that each attack goes on for. */
const DURATION = 4;

/**
 * What a client does to the port, over and over, in a thread of its own: each is the
 * body of `attack(connect)`, called every `pause` milliseconds with `connect` for a
 * new connection, of which at most `most` are kept.
 */
const ATTACKS = {
  "thousands of idle connections": { pause: 0, most: 4000, code: "connect()" },
  "headers a byte at a time": {
    pause: 1,
    most: 1000,
    code: `const socket = connect("GET / HTTP/1.1\\r\\nhost: localhost\\r\\nx: ");
      setInterval(() => socket.write("x"), 500)`,
  },
  "clients that never read": { pause: 1, most: 1000, code: `connect(GET.repeat(4)).pause()` },
  "a scrape every millisecond": { pause: 1, most: 1000, code: `connect(GET).resume()` },
  "more requests than a connection may have": {
    pause: 5,
    most: 1000,
    code: `connect(GET.repeat(5000)).resume()`,
  },
  "thousands of requests, of hundreds of connections at the same moment": {
    pause: 1,
    most: 200,
    code: `globalThis.start ??= Date.now() + 1000;
      const socket = connect("").resume();
      const tiny = "GET / HTTP/1.1\\r\\nhost:\\r\\n\\r\\n".repeat(2300);
      setTimeout(() => socket.write(tiny), start - Date.now())`,
  },
  "preferences beyond measure": {
    pause: 1,
    most: 1000,
    code: `connect(GET.replace("a: b", "accept: " + "a/b,".repeat(3700))).resume()`,
  },
  "a body without end": {
    pause: 1,
    most: 100,
    code: `const socket = connect("POST /metrics HTTP/1.1\\r\\nhost: localhost\\r\\ntransfer-encoding: chunked\\r\\n\\r\\n");
      setInterval(() => socket.writableLength || socket.write("400\\r\\n" + "x".repeat(1024) + "\\r\\n"), 1)`,
  },
  "garbage and broken connections": {
    pause: 1,
    most: 1000,
    code: `connect("\\x16\\x03\\x01" + GET).once("connect", function () { this.resetAndDestroy() })`,
  },
};

const THREAD = `
  const { createConnection } = require("node:net");
  const { workerData: { port, pause, most, code } } = require("node:worker_threads");
  const GET = "GET /metrics HTTP/1.1\\r\\nhost: localhost\\r\\na: b\\r\\n\\r\\n";
  const sockets = new Set();
  const connect = (text = "") => {
    const socket = createConnection(port, "127.0.0.1");
    sockets.add(socket);
    socket.on("error", () => {}).on("close", () => sockets.delete(socket)).write(text);
    return socket;
  };
  const attack = new Function("connect", "GET", code);
  setInterval(() => sockets.size < most && attack(connect, GET), pause);
`;

/** Attacks the meter for a while, and checks that meanwhile it prints in time. */
async function endure(meter: Meter, attack: keyof typeof ATTACKS): Promise<void> {
  const port = Number(new URL(meter.origin).port);
  const before = meter.lines.length;
  const workerData = { port, ...ATTACKS[attack] };
  const begun = Date.now();
  const thread = new Worker(THREAD, { eval: true, workerData });
  await sleep(DURATION * 1000);
  await until("lines", () => meter.lines.length > before + DURATION * 2);
  const ended = Date.now();
  await thread.terminate();
  const times = meter.lines
    .slice(before)
    .filter((line) => /^\d/.test(line))
    .map((line) => Date.parse(line.split(" ")[0] as string));
  const moments = [begun, ...times, ended];
  const gaps = moments.slice(1).map((time, i) => time - (moments[i] as number));
  expect(Math.max(...gaps)).toBeLessThan(5000);
}

function resident({ pid }: Meter): number {
  return Number(/VmRSS:\s+(\d+)/.exec(readFileSync(`/proc/${pid}/status`, "utf8"))?.[1]) * 1024;
}

test.each(Object.keys(ATTACKS) as (keyof typeof ATTACKS)[])(
  "under %s the meter prints in time, keeps within bounds, and answers",
  async (name) => {
    const meter = await Meter.start(["--interval", "100ms", "--by", "command,user,container"]);
    try {
      const before = resident(meter);
      let answered = 0;
      const scraper = setInterval(() => {
        meter.get("/metrics").then(
          ({ ok }) => {
            if (ok) answered++;
          },
          () => {},
        );
      }, 100);
      await endure(meter, name);
      clearInterval(scraper);
      const after = resident(meter);
      expect(after - before).toBeLessThan(100 << 20);
      expect(answered).toBeGreaterThan(0);
      await until(
        "an answer",
        async () => (await meter.get("/metrics").catch(() => undefined))?.ok,
      );
      expect(meter.stderr).not.toContain("error");
    } finally {
      expect(await meter.stop()).toBe(0);
    }
  },
);

test("out of file descriptors, the meter prints in time, and answers when it has some again", async () => {
  const meter = await Meter.start(["--interval", "100ms", "--run-as", "root"]);
  try {
    // Of root, because prlimit may not touch what is of another user.
    const limit = readdirSync(`/proc/${meter.pid}/fd`).length + 8;
    sh("prlimit", ["--pid", String(meter.pid), `--nofile=${limit}:${limit}`]);
    await endure(meter, "thousands of idle connections");
    await until("an answer", async () => (await meter.get("/metrics").catch(() => undefined))?.ok);
    expect(meter.stderr).not.toContain("error");
  } finally {
    expect(await meter.stop()).toBe(0);
  }
});
