import { createLog } from "../../src/base/log.ts";
import { serve } from "../../src/http/server.ts";
import { Operator } from "../../src/operator/operator.ts";
import { GROUP } from "../../src/operator/resource.ts";
import type { Pod } from "../../src/operator/types.ts";
import { ApiServer } from "../support/apiserver.ts";
import { node, pod, resource } from "../support/operator.ts";

const NODES = 40;

/** A real operator of a cluster that the test makes up: its agents start, fail and are replaced. */
export class Fleet {
  readonly #server: ApiServer;
  readonly #end: () => Promise<void>;
  /** Where the operator's metrics are. */
  readonly host: string;

  private constructor(server: ApiServer, host: string, end: () => Promise<void>) {
    this.#server = server;
    this.host = host;
    this.#end = end;
  }

  static async start(): Promise<Fleet> {
    const server = await ApiServer.start();
    const api = server.connect();
    const operator = new Operator(api, "operators", createLog("error"));
    const addresses = [{ host: "127.0.0.1", port: 0 }];
    const web = await serve(addresses, operator.pages, (error) => {
      throw error;
    });
    let stop = () => {};
    const ended = operator.run(
      new Promise((resolve) => {
        stop = resolve;
      }),
    );
    return new Fleet(server, new URL(web.origins[0] as string).host, async () => {
      stop();
      await ended;
      web.close();
      api.close();
      server.close();
    });
  }

  /** @param gone how much of the time has gone by, from 0 to 1; called in steps */
  step(gone: number): void {
    if (!this.#server.get(this.#resource)) this.#begin();
    for (let i = 0; i < NODES; i++) this.#put(`node-${i}`, this.#statusAt(i, gone));
    // Two machines are down for a while.
    for (const i of [11, 12]) this.#node(i, {}, gone > 0.7 && gone < 0.85 ? "Unknown" : "True");
  }

  close(): Promise<void> {
    return this.#end();
  }

  readonly #resource = `/apis/${GROUP}/v1alpha1/namespaces/meters/execvecounters/fleet`;

  #begin(): void {
    for (let i = 0; i < NODES; i++) this.#node(i);
    for (const name of ["win-1", "win-2"])
      this.#server.put(`/api/v1/nodes/${name}`, node(name, { "kubernetes.io/os": "windows" }));
    this.#server.put(this.#resource, { ...resource(), metadata: {} });
  }

  #node(i: number, labels = {}, ready = "True"): void {
    this.#server.put(`/api/v1/nodes/node-${i}`, node(`node-${i}`, labels, ready));
  }

  #put(on: string, status: Pod["status"]): void {
    const one = pod(on, status);
    this.#server.put(`/api/v1/namespaces/meters/pods/${one.metadata.name}`, one);
  }

  /** One after the other they start, and one after the other they are replaced. */
  #statusAt(i: number, gone: number): Pod["status"] {
    const begins = 0.05 + (0.15 * i) / NODES;
    const replaced = 0.4 + (0.2 * i) / NODES;
    const startTime = new Date().toISOString();
    const waits = (reason: string): Pod["status"] => ({
      startTime,
      containerStatuses: [{ ready: false, state: { waiting: { reason } } }],
    });
    if (i === 7) {
      // It has a kernel that has no BTF.
      const message = "execve-counter: error: this kernel has no BTF";
      const terminated = { exitCode: 3, message, finishedAt: startTime };
      const state = { terminated };
      return { startTime, containerStatuses: [{ ready: false, state }] };
    }
    if (i % 13 === 5 && gone > replaced && gone < 0.9) return waits("ImagePullBackOff");
    const starts = gone < begins || (gone > replaced && gone < replaced + 0.02);
    return starts
      ? { startTime, conditions: [{ type: "Ready", status: "False" }] }
      : { startTime, conditions: [{ type: "Ready", status: "True" }] };
  }
}
