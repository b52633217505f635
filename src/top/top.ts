/** A live table of execs: on a terminal drawn again and again, else printed. */

import { createLog, type Level } from "../base/log.ts";
import { Lines } from "../base/stdout.ts";
import { planRestriction } from "../kernel/privileges.ts";
import { frame, plain } from "./frame.ts";
import { Source, type SourceOptions } from "./source.ts";
import { canDraw, styleOf, Terminal } from "./terminal.ts";
import { press, viewBy } from "./view.ts";

export interface TopOptions extends SourceOptions {
  /** Milliseconds between two frames. */
  interval: number;
  logLevel: Level;
}

/**
 * Shows the table until `stop` resolves, or the user quits.
 *
 * @param stdout a file descriptor
 * @throws UserError where it cannot start, or where `stdout` has no reader any more
 */
export async function top(options: TopOptions, stop: Promise<void>, stdout: number): Promise<void> {
  const log = createLog(options.logLevel);
  const source = new Source(options, log);
  try {
    const restrict = planRestriction(undefined, source.isRunning ? "find" : "read");
    const show = canDraw() ? showFrames : printTables;
    await show(source, options, stdout, stop, () => log.debug(restrict()));
  } finally {
    source.close();
  }
}

async function printTables(
  source: Source,
  { interval, by }: TopOptions,
  stdout: number,
  stop: Promise<void>,
  restrict: () => void,
): Promise<void> {
  restrict();
  const lines = new Lines(stdout);
  const { unicode } = styleOf(process.env);
  const print = () => {
    const moment = source.look();
    // Tables that stdout does not take are left out.
    if (lines.stuck === undefined) lines.send(plain(viewBy(by ?? source.by), moment, unicode));
  };
  print();
  const timer = setInterval(print, interval);
  try {
    await Promise.race([stop, lines.broken]);
  } catch (error) {
    // The reader has seen enough, like head.
    const { cause } = error as { cause?: NodeJS.ErrnoException };
    if (cause?.code !== "EPIPE") throw error;
  } finally {
    clearInterval(timer);
    lines.close();
  }
}

async function showFrames(
  source: Source,
  { interval, by }: TopOptions,
  stdout: number,
  stop: Promise<void>,
  restrict: () => void,
): Promise<void> {
  const style = styleOf(process.env);
  let view = viewBy(by ?? source.by);
  let moment = source.look();
  const draw = () => {
    const drawn = frame(view, moment, terminal.size, style);
    view = drawn.view;
    terminal.draw(drawn.lines);
  };
  const look = () => {
    const now = source.look();
    // The next meter may have fewer labels.
    if (!view.paused) moment = now;
    const counted = moment.snapshot.by;
    if (!view.by.every((label) => counted.includes(label))) {
      const sort = view.by.some((label) => label === view.sort) ? "second" : view.sort;
      view = { ...view, by: by ?? counted, sort };
    }
    draw();
  };
  let next: NodeJS.Immediate | undefined;
  let quit = () => {};
  const asked = new Promise<void>((resolve) => {
    quit = resolve;
  });
  const terminal: Terminal = new Terminal(stdout, {
    redraw: draw,
    key: (key) => {
      const pressed = press(view, key, moment.snapshot.by);
      if (pressed === "quit") return quit();
      if (pressed === "redraw") return terminal.redraw();
      // As the terminal would: to all processes in the foreground, sudo among them.
      if (pressed === "suspend") return process.kill(0, "SIGTSTP");
      const goesOn = view.paused && !pressed.paused;
      view = pressed;
      if (goesOn) return look();
      // Once for all keys that have come: pasted text is thousands of them.
      next ??= setImmediate(() => {
        next = undefined;
        draw();
      });
    },
  });
  // Only now: the terminal may be another user's.
  restrict();
  source.quiet();
  let timer: NodeJS.Timeout | undefined;
  try {
    terminal.open();
    draw();
    timer = setInterval(look, interval);
    await Promise.race([stop, asked, terminal.lost]);
  } finally {
    clearInterval(timer);
    clearImmediate(next);
    terminal.close();
  }
}
