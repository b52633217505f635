/** Work by key: one at a time of a key, what fails again later, what changes meanwhile once more. */

const BACKOFF_MS = { first: 200, most: 20_000 };

export interface Work {
  /** Seconds that a key waited, and that it took. */
  waited: number;
  took: number;
  result: "success" | "error" | "requeue" | "requeue_after";
}

export class Queue {
  readonly #work: (key: string) => Promise<number | undefined>;
  readonly #onDone: (key: string, work: Work, error?: unknown) => void;
  readonly #limit: number;
  /** The keys that wait, with since when. */
  readonly #waiting = new Map<string, number>();
  readonly #timers = new Map<string, { at: number; timer: NodeJS.Timeout }>();
  readonly #running = new Set<string>();
  readonly #failures = new Map<string, number>();
  #closed = false;
  #idle: () => void = () => {};
  retries = 0;
  adds = 0;

  /**
   * @param work returns after how many ms it wants to be called again, or undefined; what it
   *   throws is tried again, later each time, where it has `retryAfter` after so many ms
   * @param limit how many keys are worked at once
   */
  constructor(
    work: (key: string) => Promise<number | undefined>,
    onDone: (key: string, work: Work, error?: unknown) => void,
    limit = 4,
  ) {
    this.#work = work;
    this.#onDone = onDone;
    this.#limit = limit;
  }

  get depth(): number {
    return this.#waiting.size;
  }

  get busy(): number {
    return this.#running.size;
  }

  add(key: string): void {
    if (this.#closed) return;
    this.adds++;
    if (!this.#waiting.has(key)) this.#waiting.set(key, performance.now());
    this.#next();
  }

  /** Adds it after so many ms; of several times the earliest counts. */
  addAfter(key: string, ms: number): void {
    const at = performance.now() + ms;
    const planned = this.#timers.get(key);
    if (this.#closed || (planned && planned.at <= at)) return;
    clearTimeout(planned?.timer);
    const timer = setTimeout(() => {
      this.#timers.delete(key);
      this.add(key);
    }, ms);
    this.#timers.set(key, { at, timer });
  }

  /** Takes no more, and resolves once nothing runs. */
  async close(): Promise<void> {
    this.#closed = true;
    this.#waiting.clear();
    for (const { timer } of this.#timers.values()) clearTimeout(timer);
    this.#timers.clear();
    if (this.#running.size > 0) await new Promise<void>((resolve) => (this.#idle = resolve));
  }

  #next(): void {
    for (const [key, since] of this.#waiting) {
      if (this.#running.size >= this.#limit) return;
      if (this.#running.has(key)) continue;
      this.#waiting.delete(key);
      this.#running.add(key);
      void this.#run(key, since);
    }
  }

  async #run(key: string, since: number): Promise<void> {
    const begin = performance.now();
    const done = (result: Work["result"], error?: unknown) =>
      this.#onDone(
        key,
        { waited: (begin - since) / 1000, took: (performance.now() - begin) / 1000, result },
        error,
      );
    try {
      const again = await this.#work(key);
      this.#failures.delete(key);
      if (again !== undefined) this.addAfter(key, again);
      done(again === undefined ? "success" : "requeue_after");
    } catch (error) {
      const failures = this.#failures.get(key) ?? 0;
      this.#failures.set(key, failures + 1);
      const delay = Math.min(BACKOFF_MS.first * 2 ** failures, BACKOFF_MS.most);
      const { retryAfter } = error as { retryAfter?: number };
      this.retries++;
      this.addAfter(key, retryAfter ?? delay * (0.5 + Math.random() / 2));
      done("error", error);
    }
    this.#running.delete(key);
    if (this.#running.size === 0 && this.#closed) this.#idle();
    this.#next();
  }
}
