/** The whole terminal, for as long as it is taken, and as it was found afterwards. */
import { readFileSync, writeSync } from "node:fs";
import { join } from "node:path";
import { emitKeypressEvents, type Interface } from "node:readline";
import { isatty } from "node:tty";
import { Lines } from "../base/stdout.ts";
import type { Key } from "./view.ts";

// The other screen, no cursor, no wrapping at the margin, nothing there.
const ENTER = "\x1b[?1049h\x1b[?25l\x1b[?7l\x1b[2J";
const LEAVE = "\x1b[m\x1b[?7h\x1b[?25h\x1b[?1049l";
/** Ends an escape sequence that is half-written. */
const CANCEL = "\x18";
/** How long a terminal that takes nothing is waited for, in milliseconds. */
const DRAIN_MAX_MS = 500;
/** The same for what leaves it as it was found. */
const RESTORE_MAX_MS = 5_000;
/** How long after an escape what follows belongs to it. */
const ESCAPE_MAX_MS = 50;

export interface Events {
  key: (key: Key) => void;
  /** What was drawn is there no more, or has not the size of the terminal. */
  redraw: () => void;
}

/** Whether stdout is a terminal that can be drawn on. */
export function canDraw(): boolean {
  return isatty(1) && !["", "dumb", undefined].includes(process.env.TERM);
}

/** What the environment says of the terminal. */
export function styleOf(env: NodeJS.ProcessEnv): { color: boolean; unicode: boolean } {
  return {
    color: !env.NO_COLOR && (colorsOf(env) ?? 8) >= 8,
    unicode: /utf-?8/i.test(env.LC_ALL || env.LC_CTYPE || env.LANG || ""),
  };
}

/** How many colours terminfo says that there are; undefined where it says nothing; see term(5). */
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
  /** Resolves once there is nobody any more to draw for. */
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
    this.lost.catch(() => {}); // whoever waits for it is told
  }

  get size(): { columns: number; rows: number } {
    const { columns, rows } = process.stdout;
    return { columns: columns || 80, rows: rows || 24 };
  }

  /** Takes the terminal, until close() or until the process exits, whyever. */
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

  /** Shows these lines; not now where the terminal still takes what came before. */
  draw(lines: readonly string[]): void {
    if (this.#output.stuck === "EIO") this.#lose(); // hung up
    if (this.#output.stuck !== undefined) return;
    const changed = lines.flatMap((line, i) =>
      line === this.#drawn[i] ? [] : [`\x1b[${i + 1}H${line}`],
    );
    this.#drawn = lines;
    if (changed.length > 0) this.#output.send(changed.join(""));
  }

  /** Draws everything again, whatever somebody else has put there. */
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

  /** Stops as if nobody had asked to be told of the signal. */
  readonly #suspend = () => {
    this.#leave();
    process.off("SIGTSTP", this.#suspend);
    process.kill(process.pid, "SIGTSTP");
    // Here it goes on: with SIGCONT, or at once where nobody could ever send that.
    process.on("SIGTSTP", this.#suspend);
    this.#resume();
  };

  /** The shell has set the terminal to its own modes, and the size may be another. */
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
