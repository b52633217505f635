/** Takes the changes of --watch-file over while the agent runs. */
import { ExitCode, type UserError } from "../base/errors.ts";
import type { Log } from "../base/log.ts";
import type { ListChange } from "../kernel/ownlist.ts";
import { look, QUIET_MS, quietOf, readFirst, readNames } from "./watchfile.ts";

/**
 * Milliseconds between two looks at a file that does not change. Looks rather than inotify: a
 * watch of the file does not see that a link on the way to it leads elsewhere, as kubelet
 * changes a ConfigMap, and a look takes microseconds.
 */
export const LOOK_MS = 1000;

/** Makes these names the whole list of the meter; @throws UserError where it stays the old one */
export type Take = (names: readonly string[]) => ListChange;

/** The file, and how it was read last. */
export class WatchFile {
  readonly path: string;
  /** The list in force. */
  names: readonly string[];
  /** Whether the file as it was last seen is in force. */
  successful = true;
  /** When it was last taken over, in seconds since 1970. */
  successTime = Date.now() / 1000;
  /** What was seen of the file that is in force, or was refused; "" to try again. */
  #done: string;
  /** What was seen at the last look, where it is new, and for how long. */
  #new: { stamp: string; quiet: number } | undefined;
  /** What was said last; undefined while all is well. */
  #said: string | undefined;
  #timer: NodeJS.Timeout | undefined;

  private constructor(path: string, names: readonly string[], stamp: string) {
    this.path = path;
    this.names = names;
    this.#done = stamp;
  }

  /** @throws UserError where it cannot be read, or has what is not allowed */
  static async open(path: string): Promise<WatchFile> {
    const { names, stamp } = await readFirst(path);
    return new WatchFile(path, names, stamp);
  }

  /** What is said of a change. */
  summary({ added, removed }: ListChange): string {
    const { length } = this.names;
    const what = `watches ${length} ${length === 1 ? "command" : "commands"} by ${this.path}`;
    return `${what}: ${added} added, ${removed} removed`;
  }

  /** Whether this process, once it is another user, cannot read the file, and why: "EACCES". */
  unreadable(): { file: string; code: string }[] {
    try {
      readNames(this.path);
      return [];
    } catch (error) {
      const { message, exitCode, cause } = error as UserError;
      if (exitCode === ExitCode.usage) return [];
      this.#fail("", message);
      return [{ file: this.path, code: `${(cause as NodeJS.ErrnoException).code}` }];
    }
  }

  /** Looks at the file from now on, until close(). */
  follow(take: Take, log: Log): void {
    const next = (delay: number) => {
      this.#timer = setTimeout(() => next(this.#look(take, log)), delay);
    };
    next(LOOK_MS);
  }

  close(): void {
    clearTimeout(this.#timer);
  }

  /** Returns the milliseconds until the next look. */
  #look(take: Take, log: Log): number {
    const now = look(this.path);
    if (now.stamp === this.#done) {
      this.#new = undefined;
      return LOOK_MS;
    }
    if (now.stamp !== this.#new?.stamp) {
      this.#new = { stamp: now.stamp, quiet: 0 };
      return QUIET_MS;
    }
    this.#new.quiet += QUIET_MS;
    if (this.#new.quiet < quietOf(now)) return QUIET_MS;
    this.#take(now.stamp, take, log);
    return LOOK_MS;
  }

  #take(stamp: string, take: Take, log: Log): void {
    try {
      const read = readNames(this.path);
      // It has changed since the look: the next one sees that.
      if (read.stamp !== stamp) return;
      this.#done = stamp;
      const change = take(read.names);
      this.names = read.names;
      this.successful = true;
      this.successTime = Date.now() / 1000;
      const again = this.#said === undefined ? "" : `${this.path} is good again: `;
      this.#said = undefined;
      log.info(again + this.summary(change));
    } catch (error) {
      const { message, remedy = "report this bug", exitCode } = error as UserError;
      const isNew = message !== this.#said;
      // What is in the file stays wrong until it changes; other reasons may pass.
      this.#fail(exitCode === ExitCode.usage ? stamp : "", message);
      if (!isNew) return;
      log.warn(`the old list of watched commands stays in force: ${message}`);
      log.warn(`to do: ${remedy}`);
    }
  }

  #fail(stamp: string, message: string): void {
    this.#done = stamp;
    this.#said = message;
    this.successful = false;
  }
}
