/** Takes the whole terminal, and leaves it as it was. */
import { readFileSync, writeSync } from "node:fs";
import { join } from "node:path";
import { emitKeypressEvents, type Interface } from "node:readline";
import { isatty } from "node:tty";
import { Lines } from "../base/stdout.ts";
import type { Key } from "./view.ts";

// The other screen, no cursor, no wrapping at the margin, empty.
const ENTER = "\x1b[?1049h\x1b[?25l\x1b[?7l\x1b[2J";
const LEAVE = "\x1b[m\x1b[?7h\x1b[?25h\x1b[?1049l";
/** Ends an escape sequence that is half-written. */
const CANCEL = "\x18";
/** Milliseconds to wait for a terminal that takes nothing. */
const DRAIN_MAX_MS = 500;
/** The same for the text that restores it. */
const RESTORE_MAX_MS = 5_000;
/** Milliseconds after an escape in which the next bytes belong to it. */
const ESCAPE_MAX_MS = 50;

export interface Events {
  key: (key: Key) => void;
  /** What was drawn is gone, or the terminal has another size. */
  redraw: () => void;
}

/** Whether stdout is a terminal that can be drawn on. */
export function canDraw(): boolean {
  return isatty(1) && !["", "dumb", undefined].includes(process.env.TERM);
}

/** What the environment says about the terminal. */
export function styleOf(env: NodeJS.ProcessEnv): { color: boolean; unicode: boolean } {
  return {
    color: !env.NO_COLOR && (colorsOf(env) ?? 8) >= 8,
    unicode: /utf-?8/i.test(env.LC_ALL || env.LC_CTYPE || env.LANG || ""),
  };
}

/** How many colours terminfo gives the terminal; undefined where it has no entry; see term(5). */
function colorsOf({ TERM = "", TERMINFO, HOME, TERMINFO_DIRS = "" }: NodeJS.ProcessEnv) {
  const directories = [
    ...[TERMINFO, HOME && join(HOME, ".terminfo"), ...TERMINFO_DIRS.split(":")],
    ...["/etc/terminfo", "/lib/terminfo", "/usr/share/terminfo"],
  ];
  for (const directory of directories) {
    if (!directory || TERM === "" || TERM.includes("/")) continue;
    try {
      const entry = readFileSync(join(directory, TERM.charAt(0), TERM));
      const wide = entry.readInt16LE(0) === 0o1036;
      const names = 12 + entry.readInt16LE(2) + entry.readInt16LE(4);
      const at = names + (names % 2) + 13 * (wide ? 4 : 2);
      if (entry.readInt16LE(6) <= 13) return 0;
      return wide ? entry.readInt32LE(at) : entry.readInt16LE(at);
    } catch {
      // not there, or no entry
    }
  }
  return undefined;
}

export class Terminal {
  /** Resolves once the terminal is gone; rejects where it cannot be written to any more. */
  readonly lost: Promise<unknown>;
  readonly #fd: number;
  readonly #events: Events;
  readonly #output: Lines;
  readonly #input = isatty(0) ? process.stdin : undefined;
  /** What is on the screen. */
  #drawn: readonly string[] = [];
  #lose: () => void = () => {};
  #taken = false;

  /**
   * Changes nothing yet.
   *
   * @param fd of openStdout()
   */
  constructor(fd: number, events: Events) {
    this.#fd = fd;
    this.#events = events;
    this.#output = new Lines(fd);
    const gone = new Promise<void>((resolve) => {
      this.#lose = resolve;
    });
    this.lost = Promise.race([gone, this.#output.broken]);
    this.lost.catch(() => {}); // callers that wait for it are told
  }

  get size(): { columns: number; rows: number } {
    const { columns, rows } = process.stdout;
    return { columns: columns || 80, rows: rows || 24 };
  }

  /** Takes the terminal until close(), or until the process exits for any reason. */
  open(): void {
    process.on("exit", this.#leave);
    process.on("SIGTSTP", this.#suspend);
    process.on("SIGCONT", this.#resume);
    process.stdout.on("resize", this.#redraw);
    if (this.#input) {
      emitKeypressEvents(this.#input, { escapeCodeTimeout: ESCAPE_MAX_MS } as unknown as Interface);
      this.#input.on("keypress", this.#key);
      for (const end of ["end", "close", "error"]) this.#input.on(end, this.#lose);
    }
    this.#enter();
  }

  close(): void {
    process.off("exit", this.#leave);
    process.off("SIGTSTP", this.#suspend);
    process.off("SIGCONT", this.#resume);
    process.stdout.off("resize", this.#redraw);
    this.#input?.off("keypress", this.#key);
    this.#leave();
    this.#output.close();
  }

  /** Draws these lines, unless the terminal is still busy with the ones before. */
  draw(lines: readonly string[]): void {
    if (this.#output.stuck === "EIO") this.#lose(); // hung up
    if (this.#output.stuck !== undefined) return;
    const changed = lines.flatMap((line, i) =>
      line === this.#drawn[i] ? [] : [`\x1b[${i + 1}H${line}`],
    );
    this.#drawn = lines;
    if (changed.length > 0) this.#output.send(changed.join(""));
  }

  /** Draws everything again, also over what other programs have written there. */
  redraw(): void {
    this.#insist("\x1b[2J");
    this.#drawn = [];
    this.#events.redraw();
  }

  readonly #redraw = () => this.redraw();

  readonly #key = (_: string | undefined, key: Key) => this.#events.key(key);

  #enter(): void {
    this.#input?.setRawMode(true).resume();
    if (!this.#taken) this.#insist(ENTER);
    this.#taken = true;
  }

  readonly #leave = () => {
    if (!this.#taken) return;
    this.#taken = false;
    this.#insist(`\x1b[${this.size.rows}H${LEAVE}`, RESTORE_MAX_MS);
    this.#input?.setRawMode(false).pause();
  };

  /** Stops, as the signal does to a process that does not handle it. */
  readonly #suspend = () => {
    this.#leave();
    process.off("SIGTSTP", this.#suspend);
    process.kill(process.pid, "SIGTSTP");
    // Here it goes on: with SIGCONT, or at once where no process could ever send that.
    process.on("SIGTSTP", this.#suspend);
    this.#resume();
  };

  /** The shell has set the terminal to its own modes, and the size may have changed. */
  readonly #resume = () => {
    this.#input?.setRawMode(false);
    this.#enter();
    process.emit("SIGWINCH");
    this.#redraw();
  };

  /** Writes what must not be left out, between two frames. */
  #insist(text: string, patience = DRAIN_MAX_MS): void {
    let rest = Buffer.from((this.#output.stuck === undefined ? "" : CANCEL) + text);
    const end = performance.now() + patience;
    while (rest.length > 0) {
      try {
        rest = rest.subarray(writeSync(this.#fd, rest));
      } catch (error) {
        const { code } = error as NodeJS.ErrnoException;
        if (code !== "EAGAIN" || performance.now() > end) return;
        Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 10);
      }
    }
  }
}
