/** HTTP: a table of pages, read only. Knows nothing of what they say. */
import { createServer, type IncomingMessage, type Server, type ServerResponse } from "node:http";
import { type AddressInfo, isIPv6 } from "node:net";
import { promisify } from "node:util";
import { gzip } from "node:zlib";
import Negotiator from "negotiator";
import { ExitCode, UserError } from "./errors.ts";

export interface Address {
  /** A name or an address; undefined for every address of the machine. */
  host: string | undefined;
  port: number;
}

export interface Answer {
  status?: number;
  type: string;
  body: string;
}

/**
 * Makes one page.
 *
 * @param prefer returns the content type that the client likes best, or the first
 *   where it likes none, so that no scraper is turned away
 */
export type Page = (
  prefer: <T extends string>(types: readonly T[]) => T,
) => Answer | Promise<Answer>;

export interface Web {
  /** Where it listens, as URLs without a path. */
  readonly origins: string[];
  close(): void;
}

export const TEXT = "text/plain; charset=utf-8";
export const HTML = "text/html; charset=utf-8";
export const JSON_TYPE = "application/json; charset=utf-8";

const METHODS = ["GET", "HEAD"];
const compress = promisify(gzip);

/**
 * Serves the pages, by path, on every address.
 *
 * @throws UserError where an address cannot be listened on; none is then
 */
export async function serve(
  addresses: readonly Address[],
  pages: ReadonlyMap<string, Page>,
  onError: (error: unknown) => void,
): Promise<Web> {
  const servers: Server[] = [];
  const close = () => {
    for (const server of servers) {
      server.close();
      server.closeAllConnections();
    }
  };
  try {
    for (const address of addresses) {
      const server = createServer((request, response) => {
        answer(request, response, pages).catch((error) => {
          onError(error);
          response.writeHead(500).end();
        });
      });
      servers.push(server);
      await listen(server, address);
      server.on("error", onError);
    }
  } catch (error) {
    close();
    throw error;
  }
  return { origins: servers.map(origin), close };
}

async function answer(
  request: IncomingMessage,
  response: ServerResponse,
  pages: ReadonlyMap<string, Page>,
): Promise<void> {
  // Prometheus 3 adds how to escape unusual metric names to the types it asks
  // for; there are none here, so the types are matched without.
  const accept = request.headers.accept?.replaceAll(/;\s*escaping=[^;,]*/g, "");
  const negotiator = new Negotiator({ headers: { ...request.headers, accept } });
  const page = pages.get(pathOf(request));
  const method = request.method ?? "";
  let reply: Answer;
  if (!page) {
    reply = { status: 404, type: TEXT, body: "not found\n" };
  } else if (!METHODS.includes(method)) {
    response.setHeader("allow", METHODS.join(", "));
    reply = { status: 405, type: TEXT, body: "only GET and HEAD\n" };
  } else {
    reply = await page((types) => preferred(negotiator, types));
  }

  let body = Buffer.from(reply.body);
  if (negotiator.encoding(["gzip", "identity"]) === "gzip") {
    body = await compress(body);
    response.setHeader("content-encoding", "gzip");
  }
  response.writeHead(reply.status ?? 200, {
    "content-type": reply.type,
    "content-length": body.length,
    vary: "accept, accept-encoding",
    "x-content-type-options": "nosniff",
    "content-security-policy": "default-src 'none'; style-src 'unsafe-inline'",
  });
  response.end(method === "HEAD" ? undefined : body);
}

function preferred<T extends string>(negotiator: Negotiator, types: readonly T[]): T {
  const best = negotiator.mediaType([...types]) ?? types[0];
  return types.find((type) => type === best) as T;
}

function pathOf(request: IncomingMessage): string {
  const target = request.url ?? "";
  // The origin is a placeholder: a client may name one, and only the path is used.
  const url = target.startsWith("/") ? `http://localhost${target}` : target;
  return URL.canParse(url) ? new URL(url).pathname : target;
}

function listen(server: Server, { host, port }: Address): Promise<void> {
  return new Promise((resolve, reject) => {
    const refuse = (error: NodeJS.ErrnoException) => {
      const code = error.code ?? error.message;
      reject(
        new UserError(
          `cannot listen on ${formatHost(host)}:${port} (${code})`,
          code === "EADDRINUSE"
            ? "stop what listens there (another execve-counter?), or choose another --web.listen-address"
            : "choose another --web.listen-address",
          ExitCode.failed,
        ),
      );
    };
    server.once("error", refuse);
    server.listen(host === undefined ? { port } : { host, port }, () => {
      server.off("error", refuse);
      resolve();
    });
  });
}

function origin(server: Server): string {
  const { address, port } = server.address() as AddressInfo;
  return `http://${formatHost(address)}:${port}`;
}

function formatHost(host: string | undefined): string {
  return host === undefined ? "" : isIPv6(host) ? `[${host}]` : host;
}
