import { execFileSync } from "node:child_process";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { sh, until } from "./meter.ts";

/** A real terminal with a shell in it: tmux, on a server of its own. */
export class Tmux {
  readonly #directory = mkdtempSync(join(tmpdir(), "execve-counter-"));
  readonly #socket = join(this.#directory, "tmux");

  constructor(columns = 80, rows = 24, env: Record<string, string> = {}) {
    const size = ["-x", `${columns}`, "-y", `${rows}`];
    // One that is not asked for its name, nor does anything at its start.
    const shell = "exec env PS1='$ ' bash --norc --noprofile";
    this.#tmux(["-f", "/dev/null", "new-session", "-d", ...size, shell], {
      ...process.env,
      ...{ LANG: "C.UTF-8", LC_ALL: "C.UTF-8", NO_COLOR: undefined },
      ...env,
    });
  }

  #tmux(args: readonly string[], env: NodeJS.ProcessEnv = process.env): string {
    return sh("tmux", ["-S", this.#socket, ...args], { env });
  }

  /** Keys by tmux' names: "Enter", "C-c", "a". */
  press(...keys: string[]): void {
    this.#tmux(["send-keys", ...keys]);
  }

  /** Types a line into the shell. */
  type(line: string): void {
    this.#tmux(["send-keys", "-l", line]);
    this.press("Enter");
  }

  resize(columns: number, rows: number): void {
    this.#tmux(["resize-window", "-x", `${columns}`, "-y", `${rows}`]);
  }

  /** What is on the screen, a line each; with `escapes` as it was painted. */
  screen(escapes = false): string[] {
    const text = this.#tmux(["capture-pane", "-p", ...(escapes ? ["-e"] : [])]);
    return text.split("\n").slice(0, -1);
  }

  /** The line that matches, once there is one. */
  async line(what: RegExp, ms = 20_000): Promise<string> {
    try {
      return await until(`${what}`, () => this.screen().find((line) => what.test(line)), ms);
    } catch (error) {
      throw new Error(`${(error as Error).message}\n${this.screen().join("\n")}`);
    }
  }

  /** Waits until a line matches no more. */
  async gone(what: RegExp): Promise<void> {
    await until(`no ${what}`, () => !this.screen().some((line) => what.test(line)), 20_000);
  }

  /** How programs have set the terminal: another screen, a cursor, wrapping at the margin. */
  get modes(): { alternate: boolean; cursor: boolean; wrap: boolean } {
    const format = "#{alternate_on} #{cursor_flag} #{wrap_flag}";
    const flags = this.#tmux(["display-message", "-p", format]).trim().split(" ");
    const [alternate, cursor, wrap] = flags.map((flag) => flag === "1");
    return { alternate, cursor, wrap } as Tmux["modes"];
  }

  /** The shell's process. */
  get pid(): number {
    return Number(this.#tmux(["display-message", "-p", "#{pane_pid}"]));
  }

  close(): void {
    execFileSync("tmux", ["-S", this.#socket, "kill-server"], { stdio: "ignore" });
    rmSync(this.#directory, { recursive: true });
  }
}
