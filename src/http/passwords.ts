/**
 * Basic auth. Bcrypt takes a tenth of a second on purpose, so it runs in a thread of its
 * own, and for each right password only once.
 */
import { createHmac, randomBytes, timingSafeEqual } from "node:crypto";
import { once } from "node:events";
import { join } from "node:path";
import { Worker } from "node:worker_threads";
import { ExitCode, UserError } from "../base/errors.ts";
import type { Question } from "./bcrypt.ts";
import type { Verdict } from "./server.ts";

const THREAD = join(__dirname, "../../dist/http/bcrypt.js");
/** Passwords that may wait to be checked, of one client and of all. */
const MAX_WAITING_OF_CLIENT = 4;
const MAX_WAITING = 256;
/** Bcrypt uses no more of a password; like Go's, this one cuts longer ones. */
const MAX_PASSWORD_BYTES = 72;

interface Job extends Question {
  client: string;
  resolve: (right: boolean) => void;
  reject: (error: Error) => void;
}

/** Checks one password after the other. */
export class Verifier {
  readonly #thread: Worker;
  /** The first one is being checked. */
  readonly #jobs: Job[] = [];
  #failure: Error | undefined;

  private constructor(thread: Worker) {
    this.#thread = thread;
    thread.on("message", (right: boolean) => {
      this.#jobs.shift()?.resolve(right);
      this.#next();
    });
    thread.on("error", (error) => {
      this.#failure = error;
      for (const job of this.#jobs.splice(0)) job.reject(error);
    });
  }

  /** Resolves once the thread has loaded all that it needs; @throws UserError */
  static async start(): Promise<Verifier> {
    const thread = new Worker(THREAD, {
      resourceLimits: { maxOldGenerationSizeMb: 16, maxYoungGenerationSizeMb: 2 },
    });
    try {
      await once(thread, "message");
    } catch (error) {
      throw new UserError(
        `the thread that checks passwords does not start (${(error as Error).message})`,
        "raise the limits on open files and on processes (ulimit -n, ulimit -u)",
        ExitCode.failed,
      );
    }
    return new Verifier(thread);
  }

  /** Whether `password` is the one of `hash`; undefined where too many wait. */
  verify(password: Uint8Array, hash: string, client: string): Promise<boolean> | undefined {
    if (this.#failure) return Promise.reject(this.#failure);
    const jobs = this.#jobs;
    const own = jobs.filter((job) => job.client === client).length;
    if (own >= MAX_WAITING_OF_CLIENT || jobs.length >= MAX_WAITING) return undefined;
    return new Promise((resolve, reject) => {
      jobs.push({ password, hash, client, resolve, reject });
      if (jobs.length === 1) this.#next();
    });
  }

  close(): void {
    this.#thread.terminate();
  }

  #next(): void {
    const [job] = this.#jobs;
    if (job) this.#thread.postMessage({ password: job.password, hash: job.hash });
  }
}

/** Users and the hashes of their passwords. */
export class Passwords {
  readonly #users: ReadonlyMap<string, string>;
  readonly #verifier: Verifier;
  readonly #secret = randomBytes(32);
  /** A digest of what each user was last admitted with. */
  readonly #welcome = new Map<string, Buffer>();
  readonly #underWay = new Map<string, Promise<boolean>>();

  constructor(users: ReadonlyMap<string, string>, verifier: Verifier) {
    this.#users = users;
    this.#verifier = verifier;
  }

  /**
   * @param authorization the header
   * @param client the address that the request came from
   */
  async admit(authorization: string | undefined, client: string): Promise<Verdict> {
    const given = parse(authorization);
    if (!given) return "stranger";
    const { user, password } = given;
    const digest = this.#digest([user, password.toString("latin1")]);
    const welcome = this.#welcome.get(user);
    if (welcome && timingSafeEqual(welcome, digest)) return "welcome";

    const key = digest.toString("hex");
    let right = this.#underWay.get(key);
    // Made for every user, known or not, because it takes time too.
    const standIn = this.#standIn(user);
    if (!right) {
      right = this.#verifier.verify(password, this.#users.get(user) ?? standIn, client);
      if (!right) return "later";
      this.#underWay.set(key, right);
      const end = () => this.#underWay.delete(key);
      right.then(end, end);
    }
    if (!(await right) || !this.#users.has(user)) return "stranger";
    this.#welcome.set(user, digest);
    return "welcome";
  }

  /**
   * The hash to compare with for an unknown user. It is always the same one of a known
   * user, also after a restart, so that unknown users take as long as known ones, whatever
   * the hashes' costs.
   */
  #standIn(user: string): string {
    const hashes = [...this.#users.values()];
    const digest = createHmac("sha256", hashes.join()).update(user).digest();
    return hashes[digest.readUInt32LE() % hashes.length] as string;
  }

  #digest(parts: string[]): Buffer {
    return createHmac("sha256", this.#secret).update(JSON.stringify(parts)).digest();
  }
}

function parse(authorization = ""): { user: string; password: Buffer } | undefined {
  const bytes = Buffer.from(/^basic +(\S+)$/i.exec(authorization)?.[1] ?? "", "base64");
  const colon = bytes.indexOf(":");
  if (colon < 0) return undefined;
  const password = bytes.subarray(colon + 1).subarray(0, MAX_PASSWORD_BYTES);
  return {
    user: bytes.subarray(0, colon).toString(),
    // The library refuses an empty password. To bcrypt it is the same as its closing NUL.
    password: password.length > 0 ? password : Buffer.alloc(1),
  };
}
