/** A list of objects, kept as it is in the cluster by a watch. */
import { setTimeout as sleep } from "node:timers/promises";
import { type Api, ApiError, isGone, isMissing } from "./api.ts";
import type { KubernetesObject } from "./types.ts";

/** Seconds after which the server ends a watch; a bit more at random, so that not all end at once. */
const WATCH_SECONDS = 240;
/** Milliseconds without a byte, where the server sends a bookmark every minute. */
const IDLE_MS = 90_000;
const BACKOFF_MS = { first: 200, most: 20_000 };
/** Answers that say that a watch cannot go on where it was. */
const RELIST = [400, 404, 410, 422];

interface WatchEvent {
  type: "ADDED" | "MODIFIED" | "DELETED" | "BOOKMARK" | "ERROR";
  object: KubernetesObject & { code?: number; reason?: string; message?: string };
}

export interface CacheOptions<T> {
  /** The list's path. */
  path: string;
  labelSelector?: string;
  /** What of an object is kept. */
  keep?: (object: T) => T;
  /** Called for each object that has come, changed or gone; not for those of the first list. */
  onChange: (object: T, gone: boolean) => void;
  onError: (path: string, error: ApiError) => void;
  /** Called when a list or an event has come, so that errors are over. */
  onWell: (path: string) => void;
  /** For a kind that the cluster need not have: called, and the cache ends, once it has it not. */
  onMissing?: () => void;
  /** Milliseconds without a byte after which a watch is begun anew. */
  idle?: number;
  /** Milliseconds between two tries, at most. */
  patience?: number;
}

export const keyOf = ({ metadata: { namespace = "", name } }: KubernetesObject) =>
  `${namespace}/${name}`;

export class Cache<T extends KubernetesObject> {
  readonly #api: Api;
  readonly #options: CacheOptions<T>;
  readonly #objects = new Map<string, T>();
  #version = "";
  /** Milliseconds until the next try; short again once something has come. */
  #delay = BACKOFF_MS.first;
  #listed: () => void = () => {};
  /** Resolves once the first list is here. */
  readonly ready = new Promise<void>((resolve) => {
    this.#listed = resolve;
  });
  /** When the server was last heard of, and last asked, in ms of performance.now(). */
  heard = performance.now();
  tried = performance.now();

  constructor(api: Api, options: CacheOptions<T>) {
    this.#api = api;
    this.#options = options;
  }

  get path(): string {
    return this.#options.path;
  }

  get(key: string): T | undefined {
    return this.#objects.get(key);
  }

  values(): IterableIterator<T> {
    return this.#objects.values();
  }

  /** Lists and watches until it is told to stop; errors are told, and tried again. */
  async run(signal: AbortSignal): Promise<void> {
    while (!signal.aborted) {
      let retryAfter: number | undefined;
      this.tried = performance.now();
      try {
        if (this.#version === "") await this.#list(signal);
        await this.#watch(signal);
      } catch (error) {
        if (signal.aborted) return;
        if (!(error instanceof ApiError)) throw error;
        if (isMissing(error) && this.#options.onMissing) {
          this.#listed();
          this.#options.onMissing();
          return;
        }
        if (RELIST.includes(error.code)) this.#version = "";
        if (!isGone(error)) this.#options.onError(this.path, error);
        retryAfter = error.retryAfter;
      }
      await pause(retryAfter ?? this.#delay * (0.5 + Math.random() / 2), signal);
      this.#delay = Math.min(2 * this.#delay, this.#options.patience ?? BACKOFF_MS.most);
    }
  }

  async #list(signal: AbortSignal): Promise<void> {
    const found = new Map<string, T>();
    let version = "";
    const { labelSelector } = this.#options;
    for await (const { metadata, items } of this.#api.pages<T>(
      this.path,
      { labelSelector },
      signal,
    )) {
      this.heard = performance.now();
      for (const item of items) found.set(keyOf(item), this.#kept(item));
      version = metadata.resourceVersion;
    }
    for (const [key, object] of this.#objects) if (!found.has(key)) this.#take(object, true);
    for (const object of found.values()) this.#take(object, false);
    this.#version = version;
    this.#options.onWell(this.path);
    this.#listed();
  }

  async #watch(signal: AbortSignal): Promise<void> {
    const { labelSelector, idle = IDLE_MS } = this.#options;
    const query = {
      labelSelector,
      resourceVersion: this.#version,
      allowWatchBookmarks: true,
      timeoutSeconds: Math.round(WATCH_SECONDS * (1 + Math.random() / 4)),
    };
    const onHeard = () => {
      this.heard = performance.now();
    };
    for await (const event of this.#api.watch(this.path, query, idle, onHeard, signal)) {
      const { type, object } = event as WatchEvent;
      if (type === "ERROR") {
        throw new ApiError(
          object.code ?? 0,
          object.reason ?? "Error",
          object.message ?? "a watch failed",
        );
      }
      this.#delay = BACKOFF_MS.first;
      this.#options.onWell(this.path);
      if (type !== "BOOKMARK")
        this.#take(this.#kept(object as KubernetesObject as T), type === "DELETED");
      this.#version = object.metadata.resourceVersion ?? this.#version;
    }
  }

  #kept(object: T): T {
    return this.#options.keep?.(object) ?? object;
  }

  #take(object: T, gone: boolean): void {
    const key = keyOf(object);
    const before = this.#objects.get(key);
    if (gone) this.#objects.delete(key);
    else this.#objects.set(key, object);
    if (gone || !before || !same(before, object)) this.#options.onChange(object, gone);
  }
}

/** Whether nothing of what is kept has changed: a node says every few minutes that it is there. */
function same(one: KubernetesObject, other: KubernetesObject): boolean {
  const { resourceVersion } = one.metadata;
  return resourceVersion === undefined
    ? JSON.stringify(one) === JSON.stringify(other)
    : resourceVersion === other.metadata.resourceVersion;
}

/** Waits, at most until the signal. */
export async function pause(ms: number, signal: AbortSignal): Promise<void> {
  await sleep(ms, undefined, { signal }).catch(() => {});
}
