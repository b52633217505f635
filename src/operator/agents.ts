/** Asks the agents how they are: whether their table is full, and which watch list they have. */
import { get } from "node:http";
import { COMPONENT_LABEL } from "./children.ts";
import { PORT } from "./manifests.ts";
import type { Answer } from "./nodes.ts";
import type { Pod } from "./types.ts";

const PATH = "/api/v1/status?rows=1&watched=1";
/** Milliseconds between two questions to an agent, and those that an answer may take. */
const EVERY_MS = 60_000;
const SOON_MS = 5000;
const ANSWER_MS = 3000;
const MAX_BYTES = 1 << 20;
/** Questions at once, and those in a row without an answer after which an agent is silent. */
const AT_ONCE = 16;
const PATIENCE = 3;

interface Known {
  answer: Answer | undefined;
  failures: number;
  asked: number;
}

export class Agents {
  /** By the uid of the pod. */
  readonly #known = new Map<string, Known>();

  /** "silent" only where others have answered: else it may be this operator that reaches none. */
  answerOf({ metadata: { uid = "" } }: Pod): Answer | "silent" | undefined {
    const known = this.#known.get(uid);
    if (!known || known.failures < PATIENCE) return known?.answer;
    return [...this.#known.values()].some(({ failures, answer }) => answer && failures === 0)
      ? "silent"
      : undefined;
  }

  /**
   * Asks those whose turn it is, and returns the pods of which something new is known.
   *
   * @param digestOf the list that an agent should have: until it has, it is asked more often
   * @param now in ms of performance.now()
   */
  async ask(
    pods: Iterable<Pod>,
    digestOf: (pod: Pod) => string | undefined,
    now = performance.now(),
  ): Promise<Pod[]> {
    const present = new Set<string>();
    const due: Pod[] = [];
    for (const pod of pods) {
      const { uid = "", labels = {} } = pod.metadata;
      present.add(uid);
      const isReady = pod.status?.conditions?.some(
        ({ type, status }) => type === "Ready" && status === "True",
      );
      if (!isReady || !pod.status?.podIP || labels[COMPONENT_LABEL] === "unpin") continue;
      const known = this.#known.get(uid);
      const soon = known?.failures !== 0 || known.answer?.list !== digestOf(pod);
      if (!known || now - known.asked >= (soon ? SOON_MS : EVERY_MS)) due.push(pod);
    }
    for (const uid of this.#known.keys()) if (!present.has(uid)) this.#known.delete(uid);
    const changed: Pod[] = [];
    const work = async () => {
      for (let pod = due.pop(); pod; pod = due.pop())
        if (await this.#one(pod, now)) changed.push(pod);
    };
    await Promise.all(Array.from({ length: AT_ONCE }, work));
    return changed;
  }

  /** @returns whether something else is known now */
  async #one(pod: Pod, now: number): Promise<boolean> {
    const { uid = "" } = pod.metadata;
    const before = JSON.stringify(this.answerOf(pod));
    const known = this.#known.get(uid) ?? { answer: undefined, failures: 0, asked: 0 };
    this.#known.set(uid, known);
    try {
      known.answer = await ask(pod.status?.podIP ?? "");
      known.failures = 0;
    } catch {
      known.failures++;
    }
    known.asked = now;
    return JSON.stringify(this.answerOf(pod)) !== before;
  }
}

async function ask(host: string): Promise<Answer> {
  const signal = AbortSignal.timeout(ANSWER_MS);
  const text = await new Promise<string>((resolve, reject) => {
    const request = get(
      { host, port: PORT, path: PATH, signal, agent: false },
      async (response) => {
        try {
          let body = "";
          for await (const chunk of response.setEncoding("utf8")) {
            body += chunk;
            if (body.length > MAX_BYTES) throw new Error("too long");
          }
          resolve(body);
        } catch (error) {
          reject(error);
        }
      },
    );
    request.on("error", reject);
  });
  const status = JSON.parse(text) as {
    tables: { name: string; entries: number; capacity: number }[];
    watch_list?: string;
  };
  const execs = status.tables.find(({ name }) => name === "execs");
  return { full: execs !== undefined && execs.entries >= execs.capacity, list: status.watch_list };
}
