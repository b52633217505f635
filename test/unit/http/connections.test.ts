import { once } from "node:events";
import { createConnection, type Socket } from "node:net";
import { PassThrough } from "node:stream";
import { setTimeout as sleep, setImmediate as turn } from "node:timers/promises";
import { afterEach, expect, onTestFinished, test, vi } from "vitest";
import { BOUNDS, type Client, Connections } from "../../../src/http/connections.ts";
import { type Page, serve, TEXT } from "../../../src/http/server.ts";

// The agent's bounds, each at its very edge.

const MIB = 1 << 20;
const ASK = "GET / HTTP/1.1\r\nhost: localhost\r\n\r\n";

afterEach(() => {
  vi.useRealTimers();
});

/** A server with one page, until the test ends; its port. */
async function serving(make: Page["make"] = () => ({ body: "hello\n" })): Promise<number> {
  const pages = new Map([["/", { types: [TEXT], make }]]);
  const web = await serve([{ host: "127.0.0.1", port: 0 }], pages, (error) => {
    throw error;
  });
  onTestFinished(() => web.close());
  return Number(new URL(web.origins[0] as string).port);
}

interface Peer {
  socket: Socket;
  /** Whether the server has closed it, and what it has said. */
  closed: boolean;
  text: string;
}

async function connect(port: number, text = ""): Promise<Peer> {
  const socket = createConnection({ port, host: "127.0.0.1" });
  const peer = { socket, closed: false, text: "" };
  onTestFinished(() => {
    socket.destroy();
  });
  socket
    .on("error", () => {})
    .on("close", () => {
      peer.closed = true;
    });
  socket.on("data", (data) => {
    peer.text += data;
  });
  await once(socket, "connect");
  socket.write(text);
  return peer;
}

/** Waits by the real clock, whatever the timers are. */
async function seen(check: () => boolean): Promise<void> {
  for (let i = 0; !check(); i++) {
    if (i === 2000) expect.unreachable("waited in vain");
    await sleep(5);
  }
}

function answers({ text }: Peer): number {
  return text.split("HTTP/1.1 200 OK").length - 1;
}

/** What a socket of the network is to the connections. */
function stub(): Socket {
  return new PassThrough() as unknown as Socket;
}

test("256 connections stay, and for each one more the oldest goes", async () => {
  const port = await serving();
  const peers: Peer[] = [];
  for (let i = 0; i < 256; i++) peers.push(await connect(port));
  const last = peers[255] as Peer;
  last.socket.write(ASK);
  await seen(() => answers(last) === 1);
  expect(peers.filter(({ closed }) => closed)).toEqual([]);
  for (const gone of [1, 2]) {
    const another = await connect(port, ASK);
    await seen(
      () => answers(another) === 1 && peers.filter(({ closed }) => closed).length === gone,
    );
    expect(peers.slice(0, gone).every(({ closed }) => closed)).toBe(true);
  }
});

test("of connections that come in one turn each has another one go", () => {
  const connections = new Connections(BOUNDS);
  const sockets = Array.from({ length: 2 * BOUNDS.connections }, stub);
  for (const socket of sockets) connections.accept(socket);
  const open = sockets.filter(({ destroyed }) => !destroyed);
  expect(open).toEqual(sockets.slice(BOUNDS.connections));
});

test("connections that have ended take up no room", async () => {
  const connections = new Connections(BOUNDS);
  const first = stub();
  connections.accept(first);
  for (let i = 0; i < 2 * BOUNDS.connections; i++) {
    const socket = stub();
    connections.accept(socket);
    socket.destroy();
    await once(socket, "close");
  }
  expect(first.destroyed).toBe(false);
});

const onlyTimers = { toFake: ["setTimeout" as const, "clearTimeout" as const] };

test.each([
  ["nothing", ""],
  ["half of a request", ASK.slice(0, -2)],
  ["a request whose answer does not come", ASK],
])("a client that sends %s has 30 seconds", async (_, text) => {
  const port = await serving(() => new Promise(() => {}));
  vi.useFakeTimers(onlyTimers);
  const peer = await connect(port, text);
  await seen(() => vi.getTimerCount() === 1);
  vi.advanceTimersByTime(29_999);
  await sleep(50);
  expect(peer.closed).toBe(false);
  vi.advanceTimersByTime(1);
  await seen(() => peer.closed);
  expect(vi.getTimerCount()).toBe(0);
});

test("an answer that was sent gives 30 seconds more", async () => {
  const port = await serving();
  vi.useFakeTimers(onlyTimers);
  const peer = await connect(port);
  for (const asked of [1, 2]) {
    await seen(() => vi.getTimerCount() === 1);
    vi.advanceTimersByTime(29_999);
    peer.socket.write(ASK);
    await seen(() => answers(peer) === asked);
  }
  await sleep(50);
  vi.advanceTimersByTime(29_999);
  await sleep(50);
  expect(peer.closed).toBe(false);
  vi.advanceTimersByTime(1);
  await seen(() => peer.closed);
});

test("a client that has gone leaves no timer", async () => {
  const port = await serving();
  vi.useFakeTimers(onlyTimers);
  const peer = await connect(port);
  await seen(() => vi.getTimerCount() === 1);
  peer.socket.destroy();
  await seen(() => vi.getTimerCount() === 0);
});

test("four requests of a connection may wait, again and again; the fifth ends it", async () => {
  let release = () => {};
  let waits = Promise.resolve();
  const hold = () => {
    waits = new Promise((resolve) => {
      release = resolve;
    });
  };
  const port = await serving(async () => {
    await waits;
    return { body: "hello\n" };
  });
  const peer = await connect(port);
  for (let round = 1; round <= 3; round++) {
    hold();
    peer.socket.write(ASK.repeat(4));
    await sleep(100);
    expect({ ...peer, socket: undefined }).toMatchObject({ closed: false });
    release();
    await seen(() => answers(peer) === 4 * round);
  }
  hold();
  peer.socket.write(ASK.repeat(4));
  await sleep(100);
  expect(peer.closed).toBe(false);
  peer.socket.write(ASK);
  await seen(() => peer.closed);
  release();
  expect(answers(peer)).toBe(12);
});

test("a client that has sent all gets the answer that it waits for, and then the end", async () => {
  const port = await serving(async () => {
    await sleep(200);
    return { body: "hello\n" };
  });
  const peer = await connect(port);
  peer.socket.end(ASK);
  // Long before its time is up.
  await seen(() => peer.closed);
  expect(answers(peer)).toBe(1);
});

/** As many clients, the oldest first. */
function clients(connections: Connections, count: number): Client[] {
  return Array.from({ length: count }, () => connections.open(stub()));
}

const gone = (all: readonly Client[]) => all.map(({ destroyed }) => destroyed);

test("64 MiB of answers may be unread, and for a byte more the oldest goes", () => {
  const connections = new Connections(BOUNDS);
  const all = clients(connections, 4);
  onTestFinished(() => {
    for (const each of all) each.destroy();
  });
  const [idle, first, second, third] = all as [Client, Client, Client, Client];
  connections.answer(first, 32 * MIB);
  connections.answer(second, 32 * MIB);
  expect(gone(all)).toEqual([false, false, false, false]);
  connections.answer(third, 1);
  expect(gone(all)).toEqual([false, true, false, false]);
  // What has gone is not counted any more, and not twice.
  connections.sent(first, 32 * MIB);
  connections.answer(third, 32 * MIB - 1);
  expect(gone(all)).toEqual([false, true, false, false]);
  connections.answer(idle, 1);
  expect(gone(all)).toEqual([false, true, true, false]);
});

test("answers that were read, and those of clients that have gone, take up no room", async () => {
  const connections = new Connections(BOUNDS);
  const all = clients(connections, 3);
  onTestFinished(() => {
    for (const each of all) each.destroy();
  });
  const [first, second, third] = all as [Client, Client, Client];
  connections.answer(second, 64 * MIB);
  connections.sent(second, 64 * MIB);
  connections.answer(first, 1);
  connections.answer(second, 64 * MIB - 1);
  expect(gone(all)).toEqual([false, false, false]);
  second.destroy();
  await once(second, "close");
  connections.answer(third, 64 * MIB - 1);
  expect(gone(all)).toEqual([false, true, false]);
});

test("an answer that is larger than all the room is sent", () => {
  const connections = new Connections(BOUNDS);
  const all = clients(connections, 3);
  onTestFinished(() => {
    for (const each of all) each.destroy();
  });
  const [first, second] = all as [Client, Client];
  connections.answer(first, 1);
  connections.answer(second, 65 * MIB);
  expect(gone(all)).toEqual([true, false, false]);
});

test("of what a connection has received 1024 bytes are handed over in a turn", async () => {
  const connections = new Connections(BOUNDS);
  const socket = stub();
  const client = connections.open(socket);
  onTestFinished(() => {
    client.destroy();
  });
  (socket as unknown as PassThrough).write("x".repeat(12 * 1024));
  // Nor more than that before a client takes them.
  client.once("readable", () => {});
  for (let i = 0; i < 20; i++) await turn();
  expect(client.readableLength).toBe(1024);
  let turns = 0;
  const slices: [turn: number, bytes: number][] = [];
  client.on("data", (data) => slices.push([turns, data.length]));
  for (; slices.length < 12 && turns < 100; turns++) await turn();
  expect(slices.map(([, bytes]) => bytes)).toEqual(Array(12).fill(1024));
  // No two in the same one.
  expect(new Set(slices.map(([at]) => at)).size).toBe(12);
});
