/** Stdout, line by line, without waiting: for a reader, a terminal or a disk. */
import { constants, openSync, writeSync } from "node:fs";
import { isatty } from "node:tty";
import { ExitCode, UserError } from "./errors.ts";

/**
 * A file descriptor for stdout whose writes do not wait. Of a terminal, for which Node.js
 * waits where Ctrl-S has stopped it, it is one of the agent's own: not to wait is a property
 * that all who share a descriptor share, the shell among them. Files do not wait, nor do
 * pipes and sockets once process.stdout was made of them.
 */
export function openStdout(): number {
  if (!isatty(1)) {
    void process.stdout;
    return 1;
  }
  try {
    const { O_WRONLY, O_NONBLOCK, O_NOCTTY } = constants;
    return openSync("/proc/self/fd/1", O_WRONLY | O_NONBLOCK | O_NOCTTY);
  } catch {
    return 1; // another user's terminal: it waits
  }
}

/** What a write fails with where a later one may not: all else is for good. */
const PASSING = ["EAGAIN", "ENOSPC", "EDQUOT", "EFBIG", "EIO", "ENOMEM"];
/** When to try again, in milliseconds. */
const RETRY_MIN_MS = 10;
const RETRY_MAX_MS = 1000;

/** Lines to a file descriptor, one at a time, each to its end. */
export class Lines {
  /** Rejects with a UserError once nothing can be written any more, ever. */
  readonly broken: Promise<never>;
  readonly #fd: number;
  #break: (error: UserError) => void = () => {};
  /** What is left of the last line. */
  #rest: Buffer = Buffer.alloc(0);
  #stuck: string | undefined;
  #timer: NodeJS.Timeout | undefined;

  constructor(fd: number) {
    this.#fd = fd;
    this.broken = new Promise((_, reject) => {
      this.#break = reject;
    });
  }

  /** Why the last line is not written to its end: "EAGAIN" where nobody reads, "ENOSPC". */
  get stuck(): string | undefined {
    return this.#stuck;
  }

  /** Takes a line; not to be called while it is stuck with another. */
  write(line: string): void {
    this.send(`${line}\n`);
  }

  /** Takes text that is more or less than a line, likewise. */
  send(text: string): void {
    this.#rest = Buffer.from(text);
    this.#flush(RETRY_MIN_MS);
  }

  close(): void {
    clearTimeout(this.#timer);
  }

  #flush(delay: number): void {
    const { length } = this.#rest;
    try {
      while (this.#rest.length > 0) {
        this.#rest = this.#rest.subarray(writeSync(this.#fd, this.#rest));
      }
      this.#stuck = undefined;
    } catch (error) {
      const { code = "" } = error as NodeJS.ErrnoException;
      if (!PASSING.includes(code)) {
        this.#break(cannotPrint(error as NodeJS.ErrnoException));
        return;
      }
      this.#stuck = code;
      // At once again while somebody reads, else more and more rarely.
      const next = this.#rest.length < length ? RETRY_MIN_MS : Math.min(2 * delay, RETRY_MAX_MS);
      this.#timer = setTimeout(() => this.#flush(next), next);
    }
  }
}

export function cannotPrint(error: NodeJS.ErrnoException): UserError {
  const { code, message } = error;
  const explained = new UserError(
    `cannot write to stdout (${code ?? message})`,
    "send stdout to something that takes it; > /dev/null if only /metrics is wanted",
    ExitCode.failed,
  );
  explained.cause = error;
  return explained;
}
