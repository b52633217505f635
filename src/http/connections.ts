/** Bounds what clients take up: connections, time, and memory for answers that they do not read. */
import type { Socket } from "node:net";
import { Duplex } from "node:stream";

export interface Bounds {
  /** Connections at once; for one more, the oldest is closed. */
  connections: number;
  /** Milliseconds that a client has, from its start or its last answer, to have read the next one. */
  patience: number;
  /** Requests of one connection that may wait for their answers. */
  pipelined: number;
  /** Bytes of answers that clients have not read, all together. */
  unread: number;
}

export const BOUNDS: Bounds = {
  connections: 256,
  patience: 30_000,
  pipelined: 4,
  unread: 64 << 20,
};

/** Bytes that a connection hands over in one turn of the event loop: a whole scrape, or thirty tiny requests. */
const SLICE_BYTES = 1024;

/**
 * The open connections. No client is turned away: where there are too many, the oldest one
 * is closed, so that a scrape gets through while others hold as many as they can.
 */
export class Connections {
  readonly #bounds: Bounds;
  /** The connections of the network, the oldest first. */
  readonly #sockets = new Set<Socket>();
  readonly #clients = new Set<Client>();
  #unread = 0;

  constructor(bounds: Bounds) {
    this.#bounds = bounds;
  }

  /** Adds a connection of the network. */
  accept(socket: Socket): void {
    const [oldest] = this.#sockets;
    if (oldest && this.#sockets.size >= this.#bounds.connections) {
      this.#sockets.delete(oldest);
      oldest.destroy();
    }
    this.#sockets.add(socket);
    socket.once("close", () => this.#sockets.delete(socket));
  }

  /** Adds a connection that is about to speak HTTP: one of the network, or the TLS over it. */
  open(socket: Socket): Client {
    const client = new Client(socket);
    const deadline = setTimeout(() => client.destroy(), this.#bounds.patience);
    client.deadline = deadline;
    this.#clients.add(client);
    client.once("close", () => {
      clearTimeout(deadline);
      this.#forget(client);
    });
    return client;
  }

  /** Notes a request; false where it is one too many. */
  ask(client: Client): boolean {
    if (++client.waiting <= this.#bounds.pipelined) return true;
    client.destroy();
    return false;
  }

  /** Notes an answer that is about to be sent; to make room, closes clients with unread ones. */
  answer(client: Client, bytes: number): void {
    this.#count(client, bytes);
    for (const other of this.#clients) {
      if (this.#unread <= this.#bounds.unread) return;
      if (other.unread === 0 || other === client) continue;
      this.#forget(other);
      other.destroy();
    }
  }

  /** Notes an answer that was sent. */
  sent(client: Client, bytes: number): void {
    this.#count(client, -bytes);
    client.waiting--;
    client.deadline?.refresh();
    client.endWhenAnswered();
  }

  closeAll(): void {
    for (const socket of this.#sockets) socket.destroy();
  }

  #count(client: Client, bytes: number): void {
    if (!this.#clients.has(client)) return;
    client.unread += bytes;
    this.#unread += bytes;
  }

  #forget(client: Client): void {
    if (this.#clients.delete(client)) this.#unread -= client.unread;
  }
}

/**
 * A socket that hands over what it receives slice by slice. Node.js would parse all that
 * has arrived at once: a thousand requests of each of many connections would hold up
 * everything else for seconds, even if none of them is answered.
 */
export class Client extends Duplex {
  readonly #socket: Socket;
  #wanted = false;
  #ended = false;
  /** When it must have read its next answer. */
  deadline: NodeJS.Timeout | undefined;
  /** Requests that were not answered yet. */
  waiting = 0;
  /** Bytes of answers that were not read yet. */
  unread = 0;

  constructor(socket: Socket) {
    super({ readableHighWaterMark: SLICE_BYTES });
    this.#socket = socket;
    socket
      .on("readable", () => this.#wanted && this.#hand())
      .on("end", () => {
        this.#ended = true;
        setImmediate(() => this.endWhenAnswered());
      })
      .on("error", () => {}) // a client that breaks off; close follows
      .on("close", () => this.destroy());
  }

  get remoteAddress(): string {
    return this.#socket.remoteAddress ?? "";
  }

  /** Empty for a socket of the file system. */
  get localAddress(): string {
    return this.#socket.localAddress ?? "";
  }

  /** Passes on the end of the client's requests, once all have answers: Node.js sends none after it. */
  endWhenAnswered(): void {
    if (!this.#ended || this.waiting > 0) return;
    this.#ended = false;
    this.push(null);
  }

  /** Node.js calls this to end a connection after the last answer. */
  destroySoon(): void {
    this.end(() => this.destroy());
  }

  override _read(): void {
    setImmediate(() => this.#hand());
  }

  override _write(chunk: Buffer, _: BufferEncoding, done: (error?: Error | null) => void): void {
    this.#socket.write(chunk, done);
  }

  override _final(done: (error?: Error | null) => void): void {
    this.#socket.end(done);
  }

  override _destroy(error: Error | null, done: (error?: Error | null) => void): void {
    this.#socket.destroy();
    done(error);
  }

  #hand(): void {
    const { readableLength } = this.#socket;
    const slice: Buffer | null = this.#socket.read(
      Math.min(SLICE_BYTES, readableLength) || undefined,
    );
    this.#wanted = slice === null;
    if (slice) this.push(slice);
  }
}
