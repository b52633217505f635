/** Leadership by a Lease: of several operators one writes at a time. */
import { type Api, isConflict, isMissing, pathOf } from "./api.ts";
import { pause } from "./cache.ts";
import type { KubernetesObject } from "./types.ts";

/** A Lease that was not renewed for so many seconds may be taken; a leader gives up before. */
const LEASE_SECONDS = 15;
const RENEW_MS = 10_000;
const RETRY_MS = 2000;
/** An answer that does not come leaves time for another try. */
const ANSWER_MS = 4000;
export const LEASE = "execve-counter-operator";

interface Lease extends KubernetesObject {
  spec: {
    holderIdentity?: string;
    leaseDurationSeconds?: number;
    acquireTime?: string;
    renewTime?: string;
    leaseTransitions?: number;
  };
}

export class Leadership {
  readonly #api: Api;
  readonly #namespace: string;
  readonly #identity: string;
  readonly #onTry: (error?: unknown) => void;
  /** The Lease as it was seen last, and when it was first seen so: clocks of nodes may differ. */
  #seen: { version: string | undefined; at: number } = { version: undefined, at: 0 };
  /** Whether the Lease is another's. */
  #taken = false;

  /** @param onTry called after each try, with the error of one that failed */
  constructor(api: Api, namespace: string, identity: string, onTry: (error?: unknown) => void) {
    this.#api = api;
    this.#namespace = namespace;
    this.#identity = identity;
    this.#onTry = onTry;
  }

  /** Resolves once this operator leads, or the signal ends the wait. */
  async acquire(signal: AbortSignal): Promise<boolean> {
    while (!signal.aborted) {
      if (await this.#try(signal)) return true;
      await pause(RETRY_MS * (0.75 + Math.random() / 2), signal);
    }
    return false;
  }

  /** Keeps the Lease; resolves once it is lost, or the signal ends it. */
  async keep(signal: AbortSignal): Promise<void> {
    let renewed = performance.now();
    while (!signal.aborted) {
      await pause(RETRY_MS, signal);
      if (signal.aborted) return;
      const late = AbortSignal.any([
        signal,
        AbortSignal.timeout(Math.max(1, Math.round(renewed + RENEW_MS - performance.now()))),
      ]);
      const begin = performance.now();
      if (await this.#try(late)) renewed = begin;
      if (this.#taken) return;
      if (performance.now() - renewed >= RENEW_MS) return;
    }
  }

  /** Lets the next one take it at once. */
  async release(): Promise<void> {
    for (let tries = 0; tries < 3; tries++) {
      try {
        const lease = await this.#get(AbortSignal.timeout(ANSWER_MS));
        if (lease?.spec.holderIdentity !== this.#identity) return;
        const spec = { ...lease.spec, holderIdentity: "", leaseDurationSeconds: 1 };
        await this.#put({ ...lease, spec }, AbortSignal.timeout(ANSWER_MS));
        return;
      } catch (error) {
        // The last renewal was under way still.
        if (isConflict(error)) continue;
        this.#onTry(error);
        return;
      }
    }
  }

  async #try(until: AbortSignal): Promise<boolean> {
    const signal = AbortSignal.any([until, AbortSignal.timeout(ANSWER_MS)]);
    const now = new Date().toISOString().replace("Z", "000Z");
    try {
      const lease = await this.#get(signal);
      const {
        holderIdentity = "",
        leaseDurationSeconds = LEASE_SECONDS,
        leaseTransitions = 0,
      } = lease?.spec ?? {};
      const mine = holderIdentity === this.#identity;
      this.#taken = !mine && holderIdentity !== "";
      this.#onTry();
      const version = lease?.metadata.resourceVersion;
      if (version !== this.#seen.version) this.#seen = { version, at: performance.now() };
      const fresh = performance.now() - this.#seen.at < leaseDurationSeconds * 1000;
      if (this.#taken && fresh) return false;
      const spec = {
        holderIdentity: this.#identity,
        leaseDurationSeconds: LEASE_SECONDS,
        acquireTime: mine ? (lease?.spec.acquireTime ?? now) : now,
        renewTime: now,
        leaseTransitions: mine || !lease ? leaseTransitions : leaseTransitions + 1,
      };
      lease
        ? await this.#put({ ...lease, spec }, signal)
        : await this.#api.request(
            "POST",
            pathOf("coordination.k8s.io/v1", "leases", this.#namespace),
            {
              body: {
                ...{ apiVersion: "coordination.k8s.io/v1", kind: "Lease" },
                ...{ metadata: { name: LEASE, namespace: this.#namespace }, spec },
              },
              signal,
            },
          );
      this.#taken = false;
      return true;
    } catch (error) {
      // Another one was faster.
      if (!isConflict(error) && !until.aborted) this.#onTry(error);
      return false;
    }
  }

  async #get(signal: AbortSignal): Promise<Lease | undefined> {
    try {
      return await this.#api.request("GET", this.#path, { signal });
    } catch (error) {
      if (isMissing(error)) return undefined;
      throw error;
    }
  }

  #put(lease: Lease, signal: AbortSignal): Promise<Lease> {
    return this.#api.request("PUT", this.#path, { body: lease, signal });
  }

  get #path(): string {
    return pathOf("coordination.k8s.io/v1", "leases", this.#namespace, LEASE);
  }
}
