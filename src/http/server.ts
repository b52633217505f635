/** HTTP: serves a table of pages, read only. It knows nothing of their content. */
import { createServer, type IncomingMessage, type ServerResponse } from "node:http";
import {
  type AddressInfo,
  createServer as createListener,
  isIP,
  isIPv6,
  type Server,
  type Socket,
} from "node:net";
import { hostname } from "node:os";
import type { Duplex } from "node:stream";
import { pipeline } from "node:stream/promises";
import { setImmediate } from "node:timers/promises";
import { createGzip } from "node:zlib";
import Negotiator from "negotiator";
import { ExitCode, MORE_FILES, UserError } from "../base/errors.ts";
import { BOUNDS, type Bounds, type Client, Connections } from "./connections.ts";

export interface Address {
  /** A name or an address; undefined for every address of the machine. */
  host: string | undefined;
  port: number;
}

/** A socket that listens already: its file descriptor. */
export interface Inherited {
  fd: number;
}

export interface Answer {
  /** 200 by default. */
  status?: number;
  /** The type that was asked for, by default. */
  type?: string;
  /** Its Content-Security-Policy, which no setting overrides; by default it may load and run nothing. */
  policy?: string;
  /** In pieces where it is long: then it need not be in memory as a whole. */
  body: string | Iterable<string>;
}

export interface Page {
  /** The content types it comes in. A client that accepts none gets the first: no scraper is turned away. */
  types: readonly string[];
  /** Whether each query has an answer of its own; for other pages it is ignored. */
  byQuery?: boolean;
  /** Makes it, for all clients that wait for it in this type, and by this query: what follows the "?". */
  make(type: string, query: string): Answer | Promise<Answer>;
}

/** What guards the pages. */
export interface Protection {
  /** Makes a server that speaks TLS and hands over the clients it admits; undefined for plain HTTP. */
  readonly tls?: (welcome: (socket: Socket) => void) => Server;
  /** Headers of every answer. */
  readonly headers: Readonly<Record<string, string>>;
  /** Whether a client is admitted, by the header with user and password; undefined to admit all. */
  readonly admit?: (authorization: string | undefined, client: string) => Promise<Verdict>;
}

/** "later": too many passwords of this client wait to be checked. */
export type Verdict = "welcome" | "stranger" | "later";

export interface Web {
  /** Where it listens, as URLs without a path. */
  readonly origins: string[];
  close(): void;
}

export const TEXT = "text/plain; charset=utf-8";
export const HTML = "text/html; charset=utf-8";
export const JSON_TYPE = "application/json; charset=utf-8";

const METHODS = ["GET", "HEAD"];
/** The policy of answers that bring none of their own. */
const NOTHING = "default-src 'none'; frame-ancestors 'none'";
/** A longer header that says what a client accepts is ignored: reading it can take long. */
const MAX_ACCEPT_CHARS = 1024;
/** A longer query is refused, where it counts. */
const MAX_QUERY_CHARS = 2048;
/** Milliseconds that a page is held back while more and more clients ask for it. */
const GATHER_MAX_MS = 50;
type Encoding = "gzip" | "identity";

/** An answer as it is sent. */
interface Sheet {
  status: number;
  type: string;
  policy: string | undefined;
  encoding: Encoding;
  body: Buffer;
}

const NOT_FOUND = sheet({ status: 404, body: "not found\n" });
const NOT_ALLOWED = sheet({ status: 405, body: "only GET and HEAD\n" });
const STRANGER = sheet({ status: 401, body: "user and password needed\n" });
const LATER = sheet({ status: 429, body: "too many passwords at once\n" });
const TOO_LONG = sheet({ status: 414, body: "the query is too long\n" });
const MISDIRECTED = sheet({
  status: 421,
  body: "the Host of this request is not a name of this machine: use its address, localhost or its host name; a reverse proxy has to send one of these as Host\n",
});
const BROKEN = sheet({ status: 500, body: "this is a bug: see the log\n" });

export interface ServeOptions {
  /** Returns the settings in force; called at every connection and every request. */
  protection?: () => Protection;
  bounds?: Bounds;
}

const OPEN: Protection = { headers: {} };

/**
 * Serves the pages, by path, on every address.
 *
 * @throws UserError where it cannot listen on an address; then it listens on none
 */
export async function serve(
  addresses: readonly (Address | Inherited)[],
  pages: ReadonlyMap<string, Page>,
  onError: (error: unknown) => void,
  { protection = () => OPEN, bounds = BOUNDS }: ServeOptions = {},
): Promise<Web> {
  const connections = new Connections(bounds);
  const table = new Map([...pages].map(([path, page]) => [path, toSheets(page, onError)]));
  // It does not listen, so its own time limits never apply: those of the connections do.
  const http = createServer({ keepAliveTimeout: bounds.patience }, (request, response) => {
    const client = request.socket as Duplex as Client;
    if (client.destroyed || !connections.ask(client)) return;
    answer(request, response, table, connections, protection()).catch((error) => {
      onError(error);
      client.destroy();
    });
  });

  const speak = (socket: Socket) => http.emit("connection", connections.open(socket));
  let secured: { by: Protection; server: Server | undefined } | undefined;
  const welcome = (socket: Socket) => {
    connections.accept(socket);
    const by = protection();
    if (by !== secured?.by) secured = { by, server: by.tls?.(speak) };
    if (secured.server) secured.server.emit("connection", socket);
    else speak(socket);
  };

  // Starts the threads that compress. Later libuv might not be able to, and abort: the user that
  // the agent becomes may have no processes left (RLIMIT_NPROC), or the control group no pids.
  await compressed([""]);

  const listeners: Server[] = [];
  const close = () => {
    for (const listener of listeners) listener.close();
    connections.closeAll();
  };
  try {
    for (const address of addresses) {
      // Half open: a client that has sent all may still wait for the answer.
      const listener = createListener({ allowHalfOpen: true, noDelay: true }, welcome);
      listeners.push(listener);
      await listen(listener, address);
      listener.on("error", onError);
    }
  } catch (error) {
    close();
    throw error;
  }
  const scheme = protection().tls ? "https" : "http";
  return { origins: listeners.map((listener) => origin(scheme, listener)), close };
}

type Sheets = ReadonlyMap<string, (query: string, encoding: Encoding) => Promise<Sheet>>;

/** The page in each of its types and encodings, made at most once at a time. */
function toSheets({ types, byQuery, make }: Page, onError: (error: unknown) => void): Sheets {
  const made = (type: string, encoding: Encoding) =>
    shared(async (query) => {
      try {
        const answer = await make(type, query);
        const pieces = typeof answer.body === "string" ? [answer.body] : answer.body;
        const body = await (encoding === "gzip" ? compressed(pieces) : joined(pieces));
        return { ...sheet({ type, ...answer, body: "" }), encoding, body };
      } catch (error) {
        onError(error);
        return BROKEN;
      }
    });
  return new Map(
    types.map((type) => {
      const all = { gzip: made(type, "gzip"), identity: made(type, "identity") };
      if (!byQuery) return [type, (_, encoding) => all[encoding]("")];
      return [
        type,
        async (query, encoding) =>
          query.length > MAX_QUERY_CHARS ? TOO_LONG : all[encoding](query),
      ];
    }),
  );
}

function sheet({ status = 200, type = TEXT, policy, body }: Answer & { body: string }): Sheet {
  return { status, type, policy, encoding: "identity", body: Buffer.from(body) };
}

/** Piece by piece, so that the whole is never in memory. Another thread does the work. */
async function compressed(pieces: Iterable<string>): Promise<Buffer> {
  const parts: Buffer[] = [];
  // The fastest level: the usual one takes three times as long, and saves a tenth.
  await pipeline(pieces, createGzip({ level: 1 }), async (output) => {
    for await (const part of output) parts.push(part);
  });
  return Buffer.concat(parts);
}

/** Others have their turn between two pieces. */
async function joined(pieces: Iterable<string>): Promise<Buffer> {
  const parts: Buffer[] = [];
  for (const piece of pieces) {
    if (parts.length > 0) await setImmediate();
    parts.push(Buffer.from(piece));
  }
  return Buffer.concat(parts);
}

/**
 * Calls `make` once for all clients that ask by the same query before it begins, and waits for
 * those that are about to. Each gets what was made after it asked. However many clients and
 * queries there are, one is made after the other, and timers run between two calls.
 */
function shared<T>(make: (query: string) => Promise<T>): (query: string) => Promise<T> {
  let last: Promise<unknown> = Promise.resolve();
  const next = new Map<string, Promise<T>>();
  let more = false;
  return (query) => {
    more = true;
    const waiting = next.get(query);
    if (waiting) return waiting;
    const made = last.then(async () => {
      // A turn of the event loop accepts one connection, and ends here.
      const latest = performance.now() + GATHER_MAX_MS;
      await setImmediate();
      do {
        more = false;
        await setImmediate();
      } while (more && performance.now() < latest);
      next.delete(query);
      return make(query);
    });
    next.set(query, made);
    last = made.then(() => {});
    return made;
  };
}

async function answer(
  request: IncomingMessage,
  response: ServerResponse,
  table: ReadonlyMap<string, Sheets>,
  connections: Connections,
  protection: Protection,
): Promise<void> {
  const { method = "", headers } = request;
  const client = request.socket as Duplex as Client;
  // Prometheus 3 adds how to escape unusual metric names to the types it asks
  // for; there are none here, so the types are matched without.
  const accept = preference(headers.accept)?.replaceAll(/;\s*escaping=[^;,]*/g, "");
  const encoding = preference(headers["accept-encoding"]);
  const negotiator = new Negotiator({ headers: { accept, "accept-encoding": encoding } });
  const { path, query } = targetOf(request);
  const sheets = table.get(path);
  // First of all: a request that a foreign web page makes gets no password checked, either.
  const verdict = isMisdirected(request, client.localAddress)
    ? "misdirected"
    : ((await protection.admit?.(headers.authorization, client.remoteAddress)) ?? "welcome");
  let sheet: Sheet;
  if (verdict === "misdirected") {
    sheet = MISDIRECTED;
  } else if (verdict === "stranger") {
    response.setHeader("www-authenticate", 'Basic realm="execve-counter"');
    sheet = STRANGER;
  } else if (verdict === "later") {
    response.setHeader("retry-after", "1");
    sheet = LATER;
  } else if (!sheets) {
    sheet = NOT_FOUND;
  } else if (!METHODS.includes(method)) {
    response.setHeader("allow", METHODS.join(", "));
    sheet = NOT_ALLOWED;
  } else {
    const gzip = negotiator.encoding(["gzip", "identity"]) === "gzip";
    sheet = await preferred(negotiator, sheets)(query, gzip ? "gzip" : "identity");
  }

  const { body } = sheet;
  if (sheet.encoding === "gzip") response.setHeader("content-encoding", "gzip");
  // The body of a request is not read, so no request can follow it.
  if (hasBody(request)) response.setHeader("connection", "close");
  const fields = {
    "content-type": sheet.type,
    "content-length": body.length,
    vary: "accept, accept-encoding",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "content-security-policy": NOTHING,
    ...protection.headers,
  };
  // Set one by one: of two spellings of a name only the last one counts.
  for (const [name, value] of Object.entries(fields)) response.setHeader(name, value);
  // Any other policy would stop its scripts, and none is stricter.
  if (sheet.policy) response.setHeader("content-security-policy", sheet.policy);
  response.writeHead(sheet.status);
  connections.answer(client, body.length);
  response.once("finish", () => connections.sent(client, body.length));
  response.end(method === "HEAD" ? undefined : body);
}

function preference(header: string | undefined): string | undefined {
  return header && header.length <= MAX_ACCEPT_CHARS ? header : undefined;
}

function hasBody({ headers }: IncomingMessage): boolean {
  return "transfer-encoding" in headers || (headers["content-length"] ?? "0") !== "0";
}

function preferred(negotiator: Negotiator, sheets: Sheets) {
  const types = [...sheets.keys()];
  const type = negotiator.mediaType(types) ?? (types[0] as string);
  return sheets.get(type) as (query: string, encoding: Encoding) => Promise<Sheet>;
}

function targetOf({ url: target = "" }: IncomingMessage): { path: string; query: string } {
  const url = toUrl(target.startsWith("/") ? `http://localhost${target}` : target);
  return { path: url?.pathname ?? target, query: url?.search.slice(1) ?? "" };
}

function toUrl(text: string): URL | undefined {
  return URL.canParse(text) ? new URL(text) : undefined;
}

/**
 * Whether a request that came in over loopback names another host. A web page can make its
 * own name lead here, and then a browser on this machine lets it read the answers (DNS
 * rebinding). It cannot do so under an address or a name of this machine. A client that names
 * no host is not a browser.
 */
function isMisdirected({ url = "", headers }: IncomingMessage, localAddress: string): boolean {
  if (!/^(::ffff:)?127\.|^::1$/.test(localAddress)) return false;
  // A target may be a whole URL, and then counts instead of the header.
  const named = [headers.host, url.startsWith("/") ? "" : toUrl(url)?.host];
  return named.some((host) => host && !isOwn(host));
}

/** Whether a host, with or without a port, is an address, localhost or this machine. */
function isOwn(host: string): boolean {
  const name = nameIn(host);
  if (name === undefined) return false;
  const [short = ""] = hostname().split(".");
  const own = ["localhost", nameIn(hostname()), nameIn(short)];
  return isIP(name.replace(/^\[|\]$/g, "")) > 0 || own.includes(name) || /\.localhost$/.test(name);
}

/** The host alone, as a URL has it: in lower case, without the dot of the root. */
function nameIn(host: string): string | undefined {
  return toUrl(`http://${host}`)?.hostname.replace(/\.$/, "");
}

function listen(server: Server, address: Address | Inherited): Promise<void> {
  const name = "fd" in address ? `descriptor ${address.fd}` : toText(address);
  return new Promise((resolve, reject) => {
    const refuse = (error: NodeJS.ErrnoException) => {
      const code = error.code ?? error.message;
      reject(
        new UserError(
          `cannot listen on ${name} (${code})`,
          code === "EADDRINUSE"
            ? "stop what listens there (another execve-counter?), or choose another --web.listen-address"
            : code === "EMFILE"
              ? MORE_FILES
              : "choose another --web.listen-address",
          ExitCode.failed,
        ),
      );
    };
    server.once("error", refuse);
    server.listen(address, () => {
      server.off("error", refuse);
      resolve();
    });
  });
}

function origin(scheme: string, server: Server): string {
  const address = server.address() as AddressInfo | string;
  // A string is a path: a socket that was inherited may be of the file system.
  if (typeof address === "string") return `unix:${address}:`;
  return `${scheme}://${toText({ host: address.address, port: address.port })}`;
}

function toText({ host = "", port }: Address): string {
  return `${isIPv6(host) ? `[${host}]` : host}:${port}`;
}
