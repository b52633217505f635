/** Requests to the API server. @kubernetes/client-node finds it, and signs in. */
import { Agent as HttpAgent, type IncomingMessage, request as requestHttp } from "node:http";
import { Agent, type RequestOptions, request as requestHttps } from "node:https";
import type { KubeConfig } from "@kubernetes/client-node";
import { ExitCode, UserError } from "../base/errors.ts";
import type { KubernetesObject } from "./types.ts";

/** Milliseconds that an answer may take, from its request to its end. */
const REQUEST_MS = 10_000;
/**
 * An answer takes about four times its bytes while it is read, and the operator's container has
 * 256 MiB. A node or pod has some 20 KiB, so a page stays far below.
 */
const MAX_ANSWER_BYTES = 1 << 25;
const PAGE = 250;
const MANAGER = "execve-counter-operator";
export const APPLY = "application/apply-patch+yaml";
export const MERGE = "application/merge-patch+json";

/** An answer that is an error. */
export class ApiError extends Error {
  override readonly name = "ApiError";
  /** The status of HTTP; 0 where no answer came. */
  readonly code: number;
  /** The API's own word: "AlreadyExists". */
  readonly reason: string;
  /** Milliseconds after which the server wants to be asked again. */
  readonly retryAfter: number | undefined;

  constructor(code: number, reason: string, message: string, retryAfter?: number) {
    super(message);
    this.code = code;
    this.reason = reason;
    this.retryAfter = retryAfter;
  }
}

export const isGone = (error: unknown) => error instanceof ApiError && error.code === 410;
export const isMissing = (error: unknown) => error instanceof ApiError && error.code === 404;
export const isConflict = (error: unknown) => error instanceof ApiError && error.code === 409;

export interface RequestOf {
  query?: Record<string, string | number | boolean | undefined>;
  body?: object;
  type?: string;
  signal?: AbortSignal;
}

/** Where an object, or with no name a list, is. */
export function pathOf(
  apiVersion: string,
  plural: string,
  namespace?: string,
  name?: string,
): string {
  const root = apiVersion.includes("/") ? `/apis/${apiVersion}` : `/api/${apiVersion}`;
  const parts = [namespace ? `namespaces/${namespace}` : [], plural, name ?? []].flat();
  return [root, ...parts].join("/");
}

/** The plural of a kind, in paths. */
export function pluralOf(kind: string): string {
  return kind === "NetworkPolicy" ? "networkpolicies" : `${kind.toLowerCase()}s`;
}

export interface List<T> {
  metadata: { resourceVersion: string; continue?: string };
  items: T[];
}

export class Api {
  readonly #config: KubeConfig;
  readonly #server: URL;
  readonly #agents = {
    http: new HttpAgent({ keepAlive: true }),
    https: new Agent({ keepAlive: true }),
  };

  constructor(config: KubeConfig) {
    const cluster = config.getCurrentCluster();
    if (!cluster) {
      throw new UserError(
        "there is no cluster: neither a kubeconfig nor a service account",
        "run it in a pod, or name a file by --kubeconfig",
        ExitCode.usage,
      );
    }
    this.#config = config;
    this.#server = new URL(cluster.server);
  }

  /** @throws ApiError */
  async request<T>(method: string, path: string, options: RequestOf = {}): Promise<T> {
    const late = AbortSignal.timeout(REQUEST_MS);
    const signal = options.signal ? AbortSignal.any([options.signal, late]) : late;
    const response = await this.#send(method, path, { ...options, signal });
    return parse<T>(await textOf(response));
  }

  /** A list, page by page. @throws ApiError */
  async *pages<T>(
    path: string,
    query: RequestOf["query"] = {},
    signal?: AbortSignal,
  ): AsyncGenerator<List<T>> {
    let more: string | undefined;
    do {
      const page = await this.request<List<T>>("GET", path, {
        query: { ...query, limit: PAGE, continue: more },
        ...(signal ? { signal } : {}),
      });
      yield page;
      more = page.metadata.continue;
    } while (more);
  }

  /** Applies an object server-side: what others have added to it stays. */
  apply<T extends KubernetesObject>(path: string, body: T, signal?: AbortSignal): Promise<T> {
    const query = { fieldManager: MANAGER, force: true };
    return this.request("PATCH", path, { query, body, type: APPLY, ...(signal ? { signal } : {}) });
  }

  /**
   * The lines of a watch, as objects. Ends where the server ends it.
   *
   * @param idle milliseconds without a byte after which it is given up
   * @param onHeard called whenever something has come
   */
  async *watch(
    path: string,
    query: RequestOf["query"],
    idle: number,
    onHeard: () => void,
    signal: AbortSignal,
  ): AsyncGenerator<unknown> {
    const silent = new AbortController();
    let timer = setTimeout(() => silent.abort(), REQUEST_MS);
    const heard = () => {
      onHeard();
      clearTimeout(timer);
      timer = setTimeout(() => silent.abort(), idle);
    };
    try {
      const either = AbortSignal.any([signal, silent.signal]);
      const response = await this.#send("GET", path, {
        query: { ...query, watch: 1 },
        signal: either,
      });
      heard();
      let rest = "";
      const decoder = new TextDecoder();
      for await (const chunk of response as AsyncIterable<Buffer>) {
        heard();
        const lines = (rest + decoder.decode(chunk, { stream: true })).split("\n");
        rest = lines.pop() ?? "";
        if (rest.length > MAX_ANSWER_BYTES)
          throw new ApiError(0, "TooLong", "a line of a watch is too long");
        for (const line of lines) if (line.trim() !== "") yield parse(line);
      }
    } catch (error) {
      throw silent.signal.aborted
        ? new ApiError(0, "Silent", "a watch has gone silent")
        : asApiError(error);
    } finally {
      clearTimeout(timer);
      silent.abort();
    }
  }

  async #send(
    method: string,
    path: string,
    { query = {}, body, type = "application/json", signal }: RequestOf,
  ): Promise<IncomingMessage> {
    const url = new URL(this.#server.pathname.replace(/\/$/, "") + path, this.#server);
    for (const [name, value] of Object.entries(query)) {
      if (value !== undefined) url.searchParams.set(name, `${value}`);
    }
    const headers: Record<string, string | number> = { accept: "application/json" };
    const options: RequestOptions = { method, headers };
    await this.#sign(options);
    const content = body && Buffer.from(JSON.stringify(body));
    if (content) Object.assign(headers, { "content-type": type, "content-length": content.length });
    const response = await new Promise<IncomingMessage>((resolve, reject) => {
      const open = url.protocol === "http:" ? requestHttp : requestHttps;
      const request = open(url, { ...options, headers, ...(signal ? { signal } : {}) }, resolve);
      request.on("error", (error) => reject(asApiError(error)));
      request.on("socket", (socket) => socket.setKeepAlive(true, 30_000));
      request.end(content);
    });
    const { statusCode = 0 } = response;
    if (statusCode >= 200 && statusCode < 300) return response;
    throw refusal(response, await textOf(response).catch(() => ""));
  }

  /** Adds what proves who is asking; tokens are read again before they expire. */
  async #sign(options: RequestOptions): Promise<void> {
    if (this.#server.protocol === "http:") {
      options.agent = this.#agents.http;
      return;
    }
    try {
      await this.#config.applyToHTTPSOptions(options);
    } catch (error) {
      throw new ApiError(0, "NotSignedIn", (error as Error).message);
    }
    // Its agents are new for each request; but one that leads through a proxy is its own.
    if (!this.#config.getCurrentCluster()?.proxyUrl) options.agent = this.#agents.https;
  }

  close(): void {
    for (const agent of Object.values(this.#agents)) agent.destroy();
  }
}

async function textOf(response: IncomingMessage): Promise<string> {
  const chunks: Buffer[] = [];
  let bytes = 0;
  try {
    for await (const chunk of response) {
      bytes += chunk.length;
      if (bytes > MAX_ANSWER_BYTES) throw new ApiError(0, "TooLong", "an answer is too long");
      chunks.push(chunk);
    }
  } catch (error) {
    throw asApiError(error);
  }
  return Buffer.concat(chunks).toString();
}

function parse<T>(text: string): T {
  try {
    return JSON.parse(text);
  } catch {
    throw new ApiError(0, "Truncated", "an answer of the API server is not JSON");
  }
}

function refusal(response: IncomingMessage, text: string): ApiError {
  const { statusCode = 0, headers } = response;
  const seconds = Number(headers["retry-after"]);
  let status: { reason?: string; message?: string } = {};
  try {
    status = JSON.parse(text);
  } catch {}
  return new ApiError(
    statusCode,
    status.reason ?? `${statusCode}`,
    status.message ?? `the API server answers ${statusCode}`,
    seconds >= 0 ? seconds * 1000 : undefined,
  );
}

function asApiError(error: unknown): ApiError {
  if (error instanceof ApiError) return error;
  const { name, code, message } = error as NodeJS.ErrnoException;
  if (name === "AbortError" || name === "TimeoutError")
    return new ApiError(0, "Timeout", "no answer of the API server");
  return new ApiError(0, code ?? name, `cannot reach the API server (${code ?? message})`);
}

/** What to do about an error; undefined where it may pass by itself. */
export function remedyOf({ code, reason }: ApiError): string | undefined {
  if (reason === "Silent" || reason === "Timeout") return undefined;
  if (code === 404) return "install the resource's definition: kubectl apply -k deploy/operator";
  if (code === 403) return "give the operator its rights: kubectl apply -k deploy/operator";
  if (code === 401)
    return "see whether the service account, or the user of the kubeconfig, still exists";
  return undefined;
}

/**
 * Finds the cluster: the file, else $KUBECONFIG, ~/.kube/config, or the pod's service account.
 *
 * @throws UserError where the package that knows how is not installed, or the file is not good
 */
export async function connect(kubeconfig?: string): Promise<{ api: Api; namespace: string }> {
  let client: typeof import("@kubernetes/client-node");
  try {
    client = await import("@kubernetes/client-node");
  } catch (error) {
    const { code = "" } = error as NodeJS.ErrnoException;
    throw new UserError(
      `@kubernetes/client-node cannot be loaded (${code})`,
      code === "ERR_REQUIRE_ESM"
        ? "run it with Node.js 20.19 or newer"
        : "use the operator's image, or run npm install @kubernetes/client-node@1 beside execve-counter",
      ExitCode.unable,
    );
  }
  const config = new client.KubeConfig();
  try {
    if (kubeconfig) config.loadFromFile(kubeconfig);
    else config.loadFromDefault();
  } catch (error) {
    throw new UserError(
      `the kubeconfig cannot be used: ${(error as Error).message}`,
      "name one that kubectl can use, by --kubeconfig",
      ExitCode.usage,
    );
  }
  const { namespace = "default" } = config.getContextObject(config.getCurrentContext()) ?? {};
  return { api: new Api(config), namespace };
}
