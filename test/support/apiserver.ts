import { randomUUID } from "node:crypto";
import { createServer, type IncomingMessage, type Server, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";
import { KubeConfig } from "@kubernetes/client-node";
import { Api } from "../../src/operator/api.ts";

// biome-ignore lint/suspicious/noExplicitAny: objects of any kind
export type Any = any;

export interface Asked {
  method: string;
  /** "get", "list", "watch", "create", "patch", "update" or "delete", as RBAC calls it. */
  verb: string;
  group: string;
  /** With the subresource: "execvecounters/status". */
  resource: string;
  path: string;
  query: URLSearchParams;
}

/** What is done in the place of an answer. */
export type Fault = (request: IncomingMessage, response: ServerResponse) => void;

interface Entry {
  collection: string;
  object: Any;
}

/**
 * An API server in this process, which keeps objects of any kind and does what it is asked, or a
 * fault instead: for what a real one does not do on demand. It knows one that applies, and adds
 * no defaults.
 */
export class ApiServer {
  readonly asked: Asked[] = [];
  /** Called for each request; what it returns is done in the place of the answer. */
  fault: (asked: Asked) => Fault | undefined = () => undefined;
  /** Kinds that the cluster does not have. */
  absent: (resource: string) => boolean = (resource) =>
    ["podmonitors", "prometheusrules"].includes(resource);
  /** Changes what is patched, as defaults and webhooks do. */
  admit: (object: Any) => Any = (object) => object;
  /** What was applied last, by uid. */
  readonly #applied = new Map<string | undefined, Any>();
  readonly #entries = new Map<string, Entry>();
  readonly #history: { collection: string; type: string; version: number; object: Any }[] = [];
  readonly #watchers = new Set<{ take: (from: number) => void; response: ServerResponse }>();
  #version = 1;
  #oldest = 0;
  readonly #server: Server;

  private constructor() {
    this.#server = createServer((request, response) => {
      this.#answer(request, response).catch((error) => {
        response.destroy();
        throw error;
      });
    });
  }

  static async start(): Promise<ApiServer> {
    const server = new ApiServer();
    await new Promise<void>((resolve) => server.#server.listen(0, "127.0.0.1", resolve));
    return server;
  }

  get url(): string {
    return `http://127.0.0.1:${(this.#server.address() as AddressInfo).port}`;
  }

  connect(): Api {
    const config = new KubeConfig();
    config.loadFromOptions({
      clusters: [{ name: "here", server: this.url }],
      users: [{ name: "me" }],
      contexts: [{ name: "here", cluster: "here", user: "me" }],
      currentContext: "here",
    });
    return new Api(config);
  }

  close(): void {
    this.#server.close();
    this.#server.closeAllConnections();
  }

  /** The object at a path; undefined where there is none. */
  get(path: string): Any {
    return this.#entries.get(path)?.object;
  }

  list(collection: string): Any[] {
    return [...this.#entries.values()]
      .filter((entry) => entry.collection === collection)
      .map(({ object }) => object);
  }

  /** Makes or changes an object, as others would. */
  put(path: string, object: Any): Any {
    const { collection, name, namespace } = parsePath(path);
    const before = this.#entries.get(path)?.object;
    const metadata = {
      ...{ name, ...(namespace ? { namespace } : {}) },
      ...{ uid: randomUUID(), creationTimestamp: now(), generation: 1 },
      ...before?.metadata,
      ...Object.fromEntries(Object.entries(object.metadata ?? {}).filter(([, value]) => value)),
    };
    const next = { ...object, metadata };
    if (before) {
      const { metadata: _, status: __, ...content } = next;
      const { metadata: ___, status: ____, ...old } = before;
      if (JSON.stringify(content) !== JSON.stringify(old)) metadata.generation++;
      if (JSON.stringify(next) === JSON.stringify(before)) return before;
    }
    metadata.resourceVersion = `${++this.#version}`;
    this.#entries.set(path, { collection, object: next });
    this.#tell(collection, before ? "MODIFIED" : "ADDED", next);
    if (metadata.deletionTimestamp && !metadata.finalizers?.length) this.remove(path);
    return next;
  }

  /** Deletes an object, or where it has finalizers, marks it. */
  remove(path: string): void {
    const entry = this.#entries.get(path);
    if (!entry) return;
    const { object, collection } = entry;
    if (object.metadata.finalizers?.length) {
      if (!object.metadata.deletionTimestamp) {
        this.put(path, { ...object, metadata: { ...object.metadata, deletionTimestamp: now() } });
      }
      return;
    }
    this.#entries.delete(path);
    const metadata = { ...object.metadata, resourceVersion: `${++this.#version}` };
    this.#tell(collection, "DELETED", { ...object, metadata });
    for (const [other, { object: child }] of this.#entries) {
      const owners: Any[] = child.metadata.ownerReferences ?? [];
      if (owners.some(({ uid }) => uid === object.metadata.uid)) this.remove(other);
    }
  }

  /** Forgets what has changed until now: watches from before are answered with 410. */
  compact(): void {
    this.#oldest = this.#version;
  }

  /** Writes something into every watch that is open, and ends it where there is nothing to write. */
  interrupt(text?: string): void {
    for (const { response } of this.#watchers) {
      if (text === undefined) response.destroy();
      else response.write(text);
    }
  }

  /** Ends every watch's connection on this side, in the middle of the answer. */
  halfClose(): void {
    for (const { response } of this.#watchers) response.socket?.end();
  }

  get watches(): number {
    return this.#watchers.size;
  }

  #tell(collection: string, type: string, object: Any): void {
    this.#history.push({ collection, type, version: this.#version, object });
    for (const { take } of this.#watchers) take(this.#version - 1);
  }

  async #answer(request: IncomingMessage, response: ServerResponse): Promise<void> {
    const url = new URL(request.url ?? "", "http://localhost");
    const { group, collection, resource, name, namespace, subresource } = parsePath(url.pathname);
    const method = request.method ?? "";
    const watching = url.searchParams.has("watch");
    const verbs: Record<string, string> = {
      ...{ GET: watching ? "watch" : name ? "get" : "list", POST: "create", PUT: "update" },
      ...{ PATCH: "patch", DELETE: "delete" },
    };
    const asked: Asked = {
      ...{
        method,
        verb: verbs[method] as string,
        group,
        path: url.pathname,
        query: url.searchParams,
      },
      resource: subresource ? `${resource}/${subresource}` : resource,
    };
    this.asked.push(asked);
    let text = "";
    for await (const data of request.setEncoding("utf8")) text += data;
    const body = text ? JSON.parse(text) : undefined;
    const fault = this.fault(asked);
    if (fault) return fault(request, response);
    const send = (object: Any) => {
      response.setHeader("content-type", "application/json");
      response.end(JSON.stringify(object));
    };
    if (this.absent(resource)) return refuse(404, "NotFound")(request, response);
    const path = subresource ? url.pathname.slice(0, -subresource.length - 1) : url.pathname;
    const there = this.get(path);
    const [label = "", value = ""] = (url.searchParams.get("labelSelector") ?? "").split("=");
    const fields = url.searchParams.get("fieldSelector") ?? "";
    const [, reason] = /reason=(\w+)/.exec(fields) ?? [];
    const [, about] = /involvedObject\.uid=([^,]+)/.exec(fields) ?? [];
    const matches = (object: Any) =>
      (reason === undefined || object.reason === reason) &&
      (about === undefined || object.involvedObject?.uid === about) &&
      (label === "" || object.metadata.labels?.[label] === value) &&
      (!namespace || object.metadata.namespace === namespace);
    switch (asked.verb) {
      case "list": {
        const all = this.list(collection).filter(matches);
        const from = Number(url.searchParams.get("continue") ?? 0);
        const limit = Number(url.searchParams.get("limit") ?? all.length);
        const rest = from + limit < all.length ? { continue: `${from + limit}` } : {};
        const metadata = { resourceVersion: `${this.#version}`, ...rest };
        return send({ metadata, items: all.slice(from, from + limit) });
      }
      case "watch": {
        const from = Number(url.searchParams.get("resourceVersion"));
        if (from < this.#oldest) return refuse(410, "Expired")(request, response);
        const take = (since: number) => {
          for (const event of this.#history) {
            if (event.version <= since || event.collection !== collection) continue;
            if (matches(event.object)) {
              response.write(`${JSON.stringify({ type: event.type, object: event.object })}\n`);
            }
          }
        };
        response.flushHeaders();
        take(from);
        const watcher = { take, response };
        this.#watchers.add(watcher);
        response.on("close", () => this.#watchers.delete(watcher));
        return;
      }
      case "get":
        return there ? send(there) : refuse(404, "NotFound")(request, response);
      case "create": {
        const at = `${url.pathname}/${body.metadata.name}`;
        if (this.get(at)) return refuse(409, "AlreadyExists")(request, response);
        return send(this.put(at, body));
      }
      case "update":
        if (!there) return refuse(404, "NotFound")(request, response);
        if (body.metadata.resourceVersion !== there.metadata.resourceVersion) {
          return refuse(409, "Conflict")(request, response);
        }
        return send(this.put(path, body));
      case "patch": {
        const { uid, resourceVersion } = body.metadata ?? {};
        const old = there?.metadata;
        const isOther = uid !== undefined && uid !== old?.uid;
        if (there && (isOther || (resourceVersion && resourceVersion !== old.resourceVersion))) {
          return refuse(409, "Conflict")(request, response);
        }
        const isApply = request.headers["content-type"] === "application/apply-patch+yaml";
        if (!there && !isApply) return refuse(404, "NotFound")(request, response);
        if (!there && isOther) return refuse(409, "Conflict")(request, response);
        if (subresource)
          return send(this.put(path, { ...there, status: merged(there, body).status }));
        if (!isApply) return send(this.put(path, this.admit(merged(there, body))));
        const { uid: _, ...metadata } = body.metadata;
        const wanted = { ...body, metadata };
        const next = applied(there, this.#applied.get(old?.uid), wanted);
        const made = this.put(path, this.admit(next));
        this.#applied.set(made.metadata.uid, wanted);
        return send(made);
      }
      default:
        if (!there) return refuse(404, "NotFound")(request, response);
        if (![undefined, there.metadata.uid].includes(body?.preconditions?.uid)) {
          return refuse(409, "Conflict")(request, response);
        }
        this.remove(path);
        return send({});
    }
  }
}

const now = () => new Date().toISOString().replace(/\.\d+Z$/, "Z");

/** An answer that refuses, as the API does. */
export function refuse(code: number, reason: string, headers: Record<string, string> = {}): Fault {
  return (_, response) => {
    response.writeHead(code, { "content-type": "application/json", ...headers });
    response.end(
      JSON.stringify({ kind: "Status", code, reason, message: `${reason} by the test` }),
    );
  };
}

function parsePath(path: string) {
  const [, root = "", ...parts] = path.split("/");
  const group = root === "apis" ? (parts.shift() ?? "") : "";
  const version = parts.shift() ?? "";
  const namespace = parts[0] === "namespaces" && parts.length > 2 ? parts[1] : undefined;
  if (namespace) parts.splice(0, 2);
  const [resource = "", name, subresource] = parts;
  return {
    ...{ group, namespace, resource, name, subresource },
    collection: `${group}/${version}/${resource}`,
  };
}

/** As RFC 7386 merges a patch. */
function merged(there: Any, patch: Any): Any {
  if (typeof patch !== "object" || patch === null || Array.isArray(patch)) return patch;
  const base = typeof there === "object" && there !== null && !Array.isArray(there) ? there : {};
  const next = { ...base };
  for (const [key, value] of Object.entries(patch)) {
    if (value === null) delete next[key];
    else next[key] = merged(base[key], value);
  }
  return next;
}

const isMap = (value: Any) => typeof value === "object" && value !== null && !Array.isArray(value);

/**
 * As an object is applied server-side: what was applied `before` and is not now is removed, what
 * others have added stays. Lists of named objects are merged by name, others replaced.
 */
function applied(there: Any, before: Any, wanted: Any): Any {
  if (isNamed(wanted) && Array.isArray(there)) {
    const [have, had, want] = [there, isNamed(before) ? before : [], wanted].map(
      (list) => new Map<string, Any>(list.map((each: Any) => [each.name, each])),
    ) as [Map<string, Any>, Map<string, Any>, Map<string, Any>];
    const kept = [...have.keys()].filter((name) => want.has(name) || !had.has(name));
    return [...new Set([...kept, ...want.keys()])].map((name) =>
      want.has(name) ? applied(have.get(name), had.get(name), want.get(name)) : have.get(name),
    );
  }
  if (!isMap(wanted)) return wanted;
  const next: Any = isMap(there) ? { ...there } : {};
  for (const [key, value] of Object.entries(isMap(before) ? before : {})) {
    if (key in wanted) continue;
    const rest = isMap(value) && isMap(next[key]) ? applied(next[key], value, {}) : {};
    if (Object.keys(rest).length > 0) next[key] = rest;
    else delete next[key];
  }
  for (const [key, value] of Object.entries(wanted)) {
    next[key] = applied(next[key], before?.[key], value);
  }
  return next;
}

const isNamed = (list: Any) =>
  Array.isArray(list) && list.length > 0 && list.every((each) => typeof each?.name === "string");
