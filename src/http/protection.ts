/** --web.config.file: TLS and basic auth, read again when the files change. */
import { closeSync, constants, fstatSync, openSync, readFileSync } from "node:fs";
import { ExitCode, MORE_FILES, UserError } from "../base/errors.ts";
import { Passwords, Verifier } from "./passwords.ts";
import type { Protection } from "./server.ts";
import { parseWebConfig, type WebSettings } from "./settings.ts";
import { toServer } from "./tls.ts";

/** Milliseconds between two checks of the files, while requests come in. */
const RECHECK_MIN_MS = 1000;
const MAX_FILE_BYTES = 1 << 20;
/** Else opening a pipe would wait, and a terminal would become this process's. */
const AT_ONCE = constants.O_RDONLY | constants.O_NONBLOCK | constants.O_NOCTTY;

/** The settings in force, and the files they come from, which are read again when they change. */
export class WebConfig {
  /**
   * The files that are read again: the one given, and those it names. A process that
   * becomes another user calls unreadable() afterwards.
   */
  files: readonly string[];
  readonly #path: string;
  readonly #onChange: (error?: UserError) => void;
  #protection: Protection = { headers: {} };
  #verifier: Verifier | undefined;
  /** What each file held when it was last read. */
  readonly #texts = new Map<string, string>();
  /** Files that cannot be read any more: their last content stays in force. */
  readonly #kept = new Set<string>();
  /** What the files held, or why they could not be read, at the last check. */
  #seen = "";
  #looked = performance.now();

  private constructor(path: string, onChange: (error?: UserError) => void) {
    this.#path = path;
    this.files = [path];
    this.#onChange = onChange;
  }

  /**
   * @param onChange called when changed files are in force or, with the reason, when
   *   they cannot be: then the old settings stay in force
   * @throws UserError where a file is wrong or cannot be read
   */
  static async open(path: string, onChange: (error?: UserError) => void): Promise<WebConfig> {
    const config = new WebConfig(path, onChange);
    const settings = config.#take();
    // Started now: the user that the agent becomes may not be able to load it.
    if (settings.users.size > 0) config.#verifier = await Verifier.start();
    config.#protection = config.#load(settings);
    return config;
  }

  /** The settings in force: those of the files now, or a second ago. */
  get protection(): Protection {
    const now = performance.now();
    if (now - this.#looked < RECHECK_MIN_MS) return this.#protection;
    this.#looked = now;
    if (this.#look() === this.#seen) return this.#protection;
    try {
      this.#protection = this.#load(this.#take());
      this.#onChange();
    } catch (error) {
      this.#onChange(error as UserError);
    }
    return this.#protection;
  }

  /** The files that this process may not read, and why: "EACCES". Their last content stays in force. */
  unreadable(): { file: string; code: string }[] {
    return this.files.flatMap((file) => {
      try {
        closeSync(openSync(file, AT_ONCE));
        return [];
      } catch (error) {
        const { code = "" } = error as NodeJS.ErrnoException;
        if (code === "EACCES" || code === "EPERM") this.#kept.add(file);
        return [{ file, code }];
      }
    });
  }

  close(): void {
    this.#verifier?.close();
  }

  #look(): string {
    const found = this.files.map((file) => {
      try {
        return this.#read(file, "");
      } catch (error) {
        return (error as Error).message;
      }
    });
    return JSON.stringify(found);
  }

  #read(file: string, what: string): string {
    try {
      const text = readFile(file, what);
      this.#texts.set(file, text);
      this.#kept.delete(file);
      return text;
    } catch (error) {
      const text = this.#kept.has(file) ? this.#texts.get(file) : undefined;
      if (text === undefined) throw error;
      return text;
    }
  }

  /** The settings of the file as it is, which names the files to look at from now on. */
  #take(): WebSettings {
    for (;;) {
      // Checked before it is used, so that the next check sees a change in between.
      this.#seen = this.#look();
      const settings = parseWebConfig(this.#read(this.#path, "--web.config.file"), this.#path);
      const { cert, key, clientCa } = settings.tls ?? {};
      const named = [cert, key, clientCa].flatMap((source) =>
        source && "file" in source ? [source.file] : [],
      );
      const files = [this.#path, ...named];
      if (files.join("\0") === this.files.join("\0")) return settings;
      this.files = files;
    }
  }

  #load({ tls, headers, users }: WebSettings): Protection {
    const makeServer = tls && toServer(tls, (file, what) => this.#read(file, what));
    if (users.size === 0) return { headers, ...(makeServer && { tls: makeServer }) };
    if (!this.#verifier) {
      throw new UserError(
        `${this.#path}: basic_auth_users are new`,
        "restart the agent, which can begin to check passwords only at its start",
        ExitCode.failed,
      );
    }
    const passwords = new Passwords(users, this.#verifier);
    return {
      headers,
      ...(makeServer && { tls: makeServer }),
      admit: (authorization, client) => passwords.admit(authorization, client),
    };
  }
}

/** @param what the flag or the setting that names the file */
function readFile(file: string, what: string): string {
  let fd: number | undefined;
  try {
    fd = openSync(file, AT_ONCE);
    // Checked once it is open: the directory's owner may put another file in its place.
    const stats = fstatSync(fd);
    if (!stats.isFile() || stats.size > MAX_FILE_BYTES) {
      throw Object.assign(new Error(), { code: stats.isFile() ? "EFBIG" : "not a file" });
    }
    return readFileSync(fd, "utf8");
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    const denied = code === "EACCES" || code === "EPERM";
    throw new UserError(
      `cannot read ${what} ${file} (${code})`,
      denied
        ? "let the agent's user read it, with chgrp and chmod"
        : code === "EFBIG"
          ? "name a file of at most 1 MiB"
          : code === "EMFILE"
            ? MORE_FILES
            : "name a file that is there",
      denied ? ExitCode.unable : ExitCode.usage,
    );
  } finally {
    if (fd !== undefined) closeSync(fd);
  }
}
