/** Writes lines to stdout without waiting for a reader, a terminal or a disk. */
import { constants, openSync, writeSync } from "node:fs";
import { isatty } from "node:tty";
import { ExitCode, UserError } from "./errors.ts";

/**
 * A file descriptor for stdout whose writes do not wait. Node.js would wait for a terminal
 * that Ctrl-S has stopped, so the agent opens a terminal for itself: O_NONBLOCK applies to all
 * processes that share a descriptor, the shell among them. Files do not wait, nor do pipes and
 * sockets once process.stdout was made of them.
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

/** Errors of a write after which a later one may succeed; all others are final. */
const PASSING = ["EAGAIN", "ENOSPC", "EDQUOT", "EFBIG", "EIO", "ENOMEM"];
/** Milliseconds until the next try. */
const RETRY_MIN_MS = 10;
const RETRY_MAX_MS = 1000;

/** Writes lines to a file descriptor, one at a time, each to its end. */
export class Lines {
  /** Rejects with a UserError once nothing can ever be written again. */
  readonly broken: Promise<never>;
  readonly #fd: number;
  #break: (error: UserError) => void = () => {};
  /** The part of the last line that is not written yet. */
  #rest: Buffer = Buffer.alloc(0);
  #stuck: string | undefined;
  #timer: NodeJS.Timeout | undefined;

  constructor(fd: number) {
    this.#fd = fd;
    this.broken = new Promise((_, reject) => {
      this.#break = reject;
    });
  }

  /** Why the last line is not written to its end: "EAGAIN" where the reader is behind, "ENOSPC". */
  get stuck(): string | undefined {
    return this.#stuck;
  }

  /** Takes a line. Must not be called while it is stuck with another. */
  write(line: string): void {
    this.send(`${line}\n`);
  }

  /** The same for text that need not be one line. */
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
      // Soon again while the reader goes on, else less and less often.
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
