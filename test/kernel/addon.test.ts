import { cpSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { constants, tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, expect, test } from "vitest";
import {
  type Follower,
  type LoadOptions,
  loadAddon,
  OTHER_ROW,
  RETIRED_ROW,
  type Session,
  type Tables,
} from "../../src/kernel/addon.ts";
import { projectPath } from "../support/files.ts";
import { loadedBy, result, SLOW_NAMES, STORM, sh, uniqueName, until } from "../support/meter.ts";

const {
  Session: NativeSession,
  Follower: NativeFollower,
  emptySlot,
  findCounters,
  mountBpffs,
  pinned,
  userName,
  account,
  restrict,
} = loadAddon();
const OBJECT = projectPath("dist/execve_counter.bpf.o");
const ALL = [
  ...["count_execve", "count_execveat", "count_execve_failure", "count_execveat_failure"],
  "count_exec",
];
const U64_MAX = 2n ** 64n - 1n;

let open: Tables[] = [];

function newSession(
  object: string | Uint8Array = OBJECT,
  log: (level: string, message: string) => void = () => {},
) {
  const session = new NativeSession(object, log);
  open.push(session);
  return session;
}

function loadedSession(programs = ALL): Session {
  const session = newSession();
  session.load({ programs });
  return session;
}

/** The id of a session's map of that name. */
function mapOf(session: Session, map = "execve_counter"): number {
  return session.maps().find(({ name }) => name === map)?.id as number;
}

function newFollower(mapId: number): Follower {
  const follower = new NativeFollower(OBJECT, () => {}, mapId);
  open.push(follower);
  return follower;
}

/** What the call throws, as plain data. */
function thrown(call: () => unknown) {
  try {
    call();
  } catch (error) {
    const { name, code, step, subject, errno } = error as Record<string, unknown>;
    return { name, code, step, subject, errno };
  }
  throw new Error("nothing was thrown");
}

const NO_FAILURES = { failed: [], checks: 0n, unfollowed: 0n };
const TABLES = ["readExecs", "readFailures", "programs", "maps", "flags"] as const;
const TABLE_CALLS: [string, (tables: Tables) => unknown][] = [
  ...TABLES.map((name) => [name, (tables: Tables) => tables[name]()] as [string, () => unknown]),
  ["begin", (tables) => tables.begin(0)],
];
const digits = (_: string, value: unknown) => (typeof value === "bigint" ? `${value}` : value);

const STATE = { name: "Error", code: "ERR_SESSION_STATE" };
const TYPE = { name: "TypeError" };

afterEach(() => {
  for (const session of open) {
    try {
      session.close();
    } catch {
      // closed by the test
    }
  }
  open = [];
});

test("values are u64 as bigint, to the last bit", () => {
  const session = loadedSession();
  for (const value of [0n, 1n, 2n ** 53n + 1n, 2n ** 63n, U64_MAX]) {
    session.update("k", value);
    expect(session.lookup("k")).toBe(value);
    expect(session.readCounters()).toEqual([["k", value]]);
  }
});

test("keys come and go", () => {
  const session = loadedSession();
  expect(session.readCounters()).toEqual([]);
  expect(session.lookup("a")).toBeUndefined();
  session.update("a", 1n);
  session.update("ä", 2n);
  session.update("x".repeat(63), 3n);
  expect(new Map(session.readCounters())).toEqual(
    new Map([
      ["a", 1n],
      ["ä", 2n],
      ["x".repeat(63), 3n],
    ]),
  );
  expect(session.remove("a")).toBe(true);
  expect(session.remove("a")).toBe(false);
  expect(session.readCounters()).toHaveLength(2);
});

test("an insert puts 0 there, and leaves alone what is there", () => {
  const session = loadedSession();
  expect(session.insert("k")).toBe(true);
  expect(session.lookup("k")).toBe(0n);
  session.update("k", 23n);
  expect(session.insert("k")).toBe(false);
  expect(session.lookup("k")).toBe(23n);
});

test("another session's counters can be edited, and before it is followed no more", () => {
  const session = loadedSession();
  session.update("k", 23n);
  const mapId = mapOf(session);
  expect(findCounters()).toContain(mapId);

  const editor = newFollower(mapId);
  expect(editor.readCounters()).toEqual([["k", 23n]]);
  expect(editor.remove("k")).toBe(true);
  expect(editor.insert("l")).toBe(true);
  expect(session.readCounters()).toEqual([["l", 0n]]);
  for (const [, call] of TABLE_CALLS) expect(thrown(() => call(editor))).toMatchObject(STATE);
  editor.close();
  expect(session.readCounters()).toEqual([["l", 0n]]);
  session.close();
});

test("another session can be followed, and read as by itself", () => {
  const session = newSession();
  session.load({ programs: ALL, flags: ["user", "command"], rows: 16 });
  for (const program of ALL) session.attach(program);
  const before = loadedBy("self");
  const follower = newFollower(mapOf(session));
  follower.follow();
  // So that nothing is counted in between, it is a moment at which the two agree.
  const agree = (read: (each: Tables) => unknown) => {
    for (let i = 0; ; i++) {
      const [own, other, again] = [session, follower, session].map(read);
      if (i < 100 && JSON.stringify(own, digits) !== JSON.stringify(again, digits)) continue;
      expect(other).toEqual(own);
      return;
    }
  };
  result(STORM, ["spawn", "1", "3", "/bin/true"]);
  result(STORM, ["execve", "1", "23"]);
  agree((each) => each.readCounters());
  agree((each) => each.readFailures());
  agree((each) => each.programs());
  // Each counts its own reads.
  agree((each) => ({ ...each.readExecs(), serial: undefined }));
  expect(session.readFailures().failed.map(([, errno]) => errno)).toContain(constants.errno.ENOENT);
  expect(follower.flags()).toEqual(["command", "user"]);
  const maps = session.maps();
  for (const map of follower.maps()) expect(maps).toContainEqual(map);
  expect(follower.maps().map(({ name }) => name)).toEqual([
    "execve_counter",
    "execs",
    "groups",
    "failures",
  ]);
  const now = Date.now();
  expect(follower.begin(now)).toBeLessThanOrEqual(now);
  expect(follower.begin(now)).toBeGreaterThan(now - 60_000);
  // Programs that it held would stay.
  expect(loadedBy("self").prog).toEqual(before.prog);
});

test("a session that has ended is followed no more, and what it counted stays to be read", async () => {
  const session = loadedSession(["count_exec"]);
  const follower = newFollower(mapOf(session));
  follower.follow();
  expect(follower.readFailures()).toEqual(NO_FAILURES);
  session.close();
  const { ESTALE, ESRCH } = constants.errno;
  await until("the end of the programs", () => {
    try {
      return !follower.programs();
    } catch (error) {
      expect(error).toMatchObject({ step: "follow", errno: ESTALE });
      return true;
    }
  });
  expect(thrown(() => follower.follow())).toMatchObject({ step: "follow", errno: ESRCH });
  expect(thrown(() => follower.programs())).toMatchObject({ step: "follow", errno: ESTALE });
  expect([...follower.readExecs().kinds]).toEqual([OTHER_ROW]);
  expect(follower.flags()).toEqual([]);
});

test.each([
  ["execve_counter.h", "unsigned long long container;", "unsigned long long container, more;"],
  [
    "execve_counter.bpf.c",
    "MAP_TYPE_HASH);\n\t__uint(max_entries, 2); /* user space chooses */\n\t__uint(key_size",
    "MAP_TYPE_PERCPU_HASH);\n\t__uint(max_entries, 2);\n\t__uint(key_size",
  ],
])("a session of another version, with another %s, is not followed", (file, before, after) => {
  const directory = mkdtempSync(join(tmpdir(), "execve-counter-"));
  try {
    cpSync(projectPath("bpf"), directory, { recursive: true });
    const path = join(directory, file);
    const text = readFileSync(path, "utf8");
    // Of the table of execs.
    expect(text.split(before)).toHaveLength(2);
    writeFileSync(path, text.replace(before, after));
    const object = join(directory, "execve_counter.bpf.o");
    const source = join(directory, "execve_counter.bpf.c");
    const flags = ["-target", "bpf", "-mcpu=v3", "-O2", "-g", "-I/usr/include/x86_64-linux-gnu"];
    sh("clang", [...flags, `-I/usr/include/aarch64-linux-gnu`, "-c", source, "-o", object]);
    const session = newSession(object);
    session.load({ programs: ["count_exec"] });
    const follower = newFollower(mapOf(session));
    const { EINVAL } = constants.errno;
    expect(thrown(() => follower.follow())).toMatchObject({ step: "follow", errno: EINVAL });
    expect(follower.readCounters()).toEqual([]);
    expect(thrown(() => follower.readExecs())).toMatchObject(STATE);
  } finally {
    rmSync(directory, { recursive: true });
  }
});

test("an object file is the same by its path and as it was read", () => {
  const bytes = readFileSync(projectPath("dist/execve_counter.bpf.o"));
  const session = newSession(new Uint8Array(bytes));
  session.load({ programs: ["count_exec"] });
  expect(session.maps().map(({ name }) => name)).toEqual(
    loadedSession()
      .maps()
      .map(({ name }) => name),
  );
  session.close();
  for (const content of ["", "nonsense", Buffer.alloc(100_000, 0x7f)]) {
    const open = () => newSession(new Uint8Array(Buffer.from(content)));
    expect(thrown(open)).toMatchObject({ step: "open" });
  }
  for (const each of [undefined, 1, {}, new Uint16Array(4), new ArrayBuffer(4)]) {
    expect(thrown(() => new NativeSession(each as string, () => {}))).toMatchObject(TYPE);
    expect(thrown(() => new NativeFollower(each as string, () => {}, 1))).toMatchObject(TYPE);
  }
});

test("a map of another kind is not opened as counters", () => {
  const execs = mapOf(loadedSession(), "execs");
  const { EINVAL, ENOENT } = constants.errno;
  expect(thrown(() => newFollower(execs))).toMatchObject({ step: "open_by_id", errno: EINVAL });
  const none = thrown(() => newFollower(2 ** 32 - 1));
  expect(none).toMatchObject({ step: "open_by_id", subject: "", errno: ENOENT });
  for (const id of [undefined, "1", -1, 1.5, 2 ** 32, Number.NaN, 1n]) {
    expect(thrown(() => newFollower(id as number))).toMatchObject(TYPE);
  }
});

test("a user has a name or none, and what is no user's number is refused", () => {
  expect(userName(0, 60_000)).toBe("root");
  expect(userName(4_294_967_294, 60_000)).toBeNull();
  for (const wrong of [undefined, "0", -1, 0.5, 2 ** 32]) {
    expect(thrown(() => userName(wrong as number, 0))).toMatchObject(TYPE);
    expect(thrown(() => userName(0, wrong as number))).toMatchObject(TYPE);
  }
});

test("a worker may end while a name is asked for", () => {
  const script = `
    const { Worker } = require("node:worker_threads");
    const addon = ${JSON.stringify(projectPath("build/Release/execve_counter.node"))};
    const ask = \`process.exitCode = require(\${JSON.stringify(addon)}).userName(0, 0) === undefined ? 0 : 1\`;
    new Worker(ask, { eval: true }).on("exit", (code) => setTimeout(() => console.log(code), 2500));`;
  const env = { ...process.env, ...SLOW_NAMES, SLOW_NAMES: "1" };
  const ended = result(process.execPath, ["-e", script], { env });
  expect(ended).toEqual({ status: 0, stdout: "0\n", stderr: "" });
});

test("an account has numbers or is none, and only true numbers and names are taken", () => {
  for (const who of ["daemon", 1]) expect(account(who)).toEqual({ uid: 1, gid: 1 });
  for (const who of ["", "no-such-user", "x".repeat(1 << 16), 4_294_967_294]) {
    expect(account(who)).toBeUndefined();
  }
  expect(thrown(() => account("root\0"))).toMatchObject(TYPE);
  for (const who of [undefined, -1, 0.5, 2 ** 32, 0n, {}]) {
    expect(thrown(() => account(who as string))).toMatchObject(TYPE);
  }
  // What would give up nothing of what it was asked to, or this very process's privileges.
  for (const [keep, uid, gid] of [
    ...[[undefined], [0], ["false"], [false], [[64]], [[-1]], [[0.5]], [["21"]], [[undefined]]],
    ...[
      [[], -1, 1],
      [[], 1],
      [[], 1, 2 ** 32],
      [[], 2 ** 32 - 1, 1],
      [[], 1, 2 ** 32 - 1],
      [[], 0.5, 1],
      [[], "1", "1"],
    ],
  ]) {
    expect(thrown(() => restrict(keep as number[], uid as number, gid as number))).toMatchObject(
      TYPE,
    );
  }
});

test("settling waits, and leaves nothing behind", () => {
  const session = loadedSession();
  const before = loadedBy("self");
  for (let i = 0; i < 3; i++) session.settle();
  expect(loadedBy("self")).toEqual(before);
});

test("the table of execs begins with the rows of many, in the size asked for", () => {
  for (const rows of [2, 16, 65_536]) {
    const session = newSession();
    const flags = ["command", "user", "container", "cgroup_v1"];
    session.load({ programs: ["count_exec"], flags, rows });
    expect(session.maps().find(({ name }) => name === "execs")?.capacity).toBe(rows);
    const { kinds, counts, uids, labels, retired } = session.readExecs();
    expect([...kinds].sort()).toEqual([OTHER_ROW, RETIRED_ROW]);
    expect({ counts: [...counts], uids: uids.length, retired }).toEqual({
      ...{ counts: [0n, 0n], uids: 2, retired: 0n },
    });
    expect(Object.keys(labels)).toEqual(["command", "container"]);
    expect(session.readFailures()).toEqual(NO_FAILURES);
  }
});

test("labels are told once to whoever remembers them, and all of them to anyone else", () => {
  const session = newSession();
  session.load({ programs: ["count_exec"], flags: ["command"], rows: 4096 });
  session.attach("count_exec");
  const name = uniqueName();
  const directory = mkdtempSync(join(tmpdir(), "execve-counter-"));
  const program = join(directory, name);
  cpSync("/bin/true", program);
  const first = session.readExecs();
  expect(first.anew).toBe(true);
  sh(program, []);
  const next = session.readExecs(first.serial);
  expect(next.anew).toBe(false);
  expect(next.labels.command).toContain(name);
  const numberOf = ({ labels, numbers, fresh }: typeof first) =>
    numbers[fresh[labels.command?.indexOf(name) ?? -1] ?? -1];
  const number = numberOf(next);
  sh(program, []);
  const last = session.readExecs(next.serial);
  expect(last.labels.command).not.toContain(name);
  expect(last.counts[last.numbers.indexOf(number ?? -1)]).toBe(2n);
  expect(last.total).toBe(last.counts.reduce((sum, count) => sum + count));
  // Two reads ago, or never.
  for (const had of [next.serial, undefined, 0]) {
    const all = session.readExecs(had);
    expect(all.anew).toBe(true);
    expect(all.labels.command).toHaveLength(all.kinds.length);
    expect(all.labels.command).toContain(name);
  }
  for (const had of [-1, 0.5, 2 ** 32, "1", null]) {
    expect(() => session.readExecs(had as number)).toThrow(TypeError);
  }
  rmSync(directory, { recursive: true });
});

test("rows that come and go change the number of no other", () => {
  const session = newSession();
  session.load({ programs: ["count_exec"], flags: ["command"], rows: 4096 });
  const { id } = session.maps().find(({ name }) => name === "execs") as { id: number };
  const hex = (bytes: Buffer) => bytes.toString("hex").replaceAll(/../g, "$& ");
  const key = (command: string) =>
    `key hex ${hex(Buffer.concat([Buffer.alloc(8), padded(command, 16)]))}`;
  const padded = (text: string, size: number) => Buffer.concat([Buffer.from(text)], size);
  const value = (count: number) => {
    const row = Buffer.alloc(56);
    row.writeBigUInt64LE(BigInt(count));
    return `value hex ${hex(row)}`;
  };
  const batch = join(tmpdir(), uniqueName());
  const edit = (lines: string[]) => {
    writeFileSync(batch, lines.join("\n"));
    sh("bpftool", ["batch", "file", batch]);
  };
  const there = new Map<string, bigint>();
  const named = new Map<number, string>();
  let made = 0;
  let serial: number | undefined;
  const add = () => {
    const command = `row${made++}`;
    there.set(command, BigInt(made));
    return `map update id ${id} ${key(command)} ${value(made)}`;
  };
  const remove = (command: string) => {
    there.delete(command);
    return `map delete id ${id} ${key(command)}`;
  };
  edit(Array.from({ length: 1000 }, add));
  for (let round = 0; round < 12; round++) {
    const read = session.readExecs(serial);
    expect(read.anew).toBe(round === 0);
    serial = read.serial;
    for (const [i, at] of read.fresh.entries()) {
      if (read.kinds[at] !== OTHER_ROW && read.kinds[at] !== RETIRED_ROW)
        named.set(read.numbers[at] as number, read.labels.command?.[i] as string);
    }
    const shown = [...read.numbers].map((number, i) => [named.get(number), read.counts[i]]);
    expect(Object.fromEntries(shown.filter(([name]) => name))).toEqual(Object.fromEntries(there));
    // The oldest and some of the newest; now and then a whole stretch.
    const names = [...there.keys()];
    const gone = names.filter((_, i) => i % (7 + round) === 0 || (round === 5 && i < 300));
    edit([...gone.map(remove), ...Array.from({ length: 10 * round }, add)]);
  }
  rmSync(batch);
});

test("a key that does not fit is a TypeError", () => {
  const session = loadedSession();
  for (const key of [
    "",
    "x".repeat(64),
    "ä".repeat(32),
    "a\0b",
    "\0",
    1,
    undefined,
    null,
    {},
    1n,
  ]) {
    for (const call of [
      () => session.lookup(key as string),
      () => session.update(key as string, 1n),
      () => session.insert(key as string),
      () => session.remove(key as string),
    ]) {
      expect(thrown(call)).toMatchObject(TYPE);
    }
  }
  expect(session.readCounters()).toEqual([]);
});

test("a value that does not fit is a TypeError", () => {
  const session = loadedSession();
  for (const value of [-1n, 2n ** 64n, 2n ** 200n, 1, "1", undefined, null, Number.NaN]) {
    expect(thrown(() => session.update("k", value as bigint))).toMatchObject(TYPE);
  }
  expect(session.lookup("k")).toBeUndefined();
});

test("a full map refuses one key more, and says so", () => {
  const session = loadedSession();
  for (let i = 0; i < 4096; i++) session.update(`key ${i}`, BigInt(i));
  expect(thrown(() => session.update("one more", 0n))).toMatchObject({ step: "update", errno: 7 });
  const counters = new Map(session.readCounters());
  expect(counters.size).toBe(4096);
  for (let i = 0; i < 4096; i++) expect(counters.get(`key ${i}`)).toBe(BigInt(i));
});

test("a read of 4,096 entries is one bpf() call", () => {
  const script = projectPath("test/support/read-full-map.mjs");
  const { status, stderr: trace } = result("strace", [
    "--follow-forks",
    "--trace=bpf,write",
    process.execPath,
    script,
  ]);
  expect(status).toBe(0);
  const reads = trace.split("before the reads")[1]?.split("after the reads")[0];
  expect(reads?.match(/\bbpf\(/g)).toHaveLength(10);
  expect(reads?.match(/BPF_MAP_LOOKUP_BATCH/g)).toHaveLength(10);
});

test("constructing checks its arguments", () => {
  const Loose = NativeSession as unknown as new (...args: unknown[]) => Session;
  expect(thrown(() => new Loose())).toMatchObject(TYPE);
  expect(thrown(() => new Loose(1, () => {}))).toMatchObject(TYPE);
  expect(thrown(() => new Loose(OBJECT))).toMatchObject(TYPE);
  expect(thrown(() => new Loose(OBJECT, "log"))).toMatchObject(TYPE);
  expect(thrown(() => (NativeSession as unknown as () => void)())).toMatchObject(TYPE);
});

test("an object file that is missing, empty or nonsense is an error of the step open", () => {
  expect(thrown(() => newSession("/nonexistent"))).toMatchObject({ step: "open", errno: 2 });
  const file = join(tmpdir(), `execve-counter-${process.pid}.o`);
  try {
    for (const content of ["", "nonsense", Buffer.alloc(100_000, 0x7f)]) {
      writeFileSync(file, content);
      expect(thrown(() => newSession(file))).toMatchObject({ step: "open" });
    }
  } finally {
    rmSync(file);
  }
});

test("load checks its options, and happens once", () => {
  const session = newSession();
  for (const options of [
    ...[undefined, null, "count_exec", ALL, {}, [], () => {}],
    ...[undefined, "count_exec", [1], { length: 1 }].map((programs) => ({ programs })),
    ...["command", [1], ["pid"], [undefined], null].map((flags) => ({ programs: ALL, flags })),
    ...[0, 1, -1, 2.5, 2 ** 32, "16", null].map((rows) => ({ programs: ALL, rows })),
    ...["", 1, null, {}].map((pins) => ({ programs: ALL, pins })),
    ...[1, "true", null, {}, true].map((reuse) => ({ programs: ALL, reuse })),
    ...[{ program: ALL }, { Flags: [] }, { row: undefined }].map((odd) => ({
      programs: ALL,
      ...odd,
    })),
  ]) {
    expect(
      thrown(() => session.load(options as LoadOptions)),
      `${options}`,
    ).toMatchObject(TYPE);
  }
  const unset = { flags: undefined, rows: undefined, pins: undefined, reuse: undefined };
  session.load({ programs: ["count_exec"], ...unset });
  expect(session.programs().map(({ name }) => name)).toEqual(["count_exec"]);
  expect(thrown(() => session.load({ programs: ALL }))).toMatchObject(STATE);
  session.close();

  const failed = newSession();
  const failure = { step: "load", subject: "nonsense", errno: constants.errno.ENOENT };
  expect(thrown(() => failed.load({ programs: ["nonsense"] }))).toMatchObject(failure);
  expect(thrown(() => failed.load({ programs: ALL }))).toMatchObject(STATE);
  expect(thrown(() => failed.readExecs())).toMatchObject(STATE);
});

test.each([
  [
    "an array",
    (run: () => void) => ({
      programs: Object.defineProperty(["count_exec"], 0, { get: () => run() ?? "count_exec" }),
    }),
  ],
  [
    "an option",
    (run: () => void) => ({
      programs: ["count_exec"],
      get rows() {
        run();
        return 2;
      },
    }),
  ],
  [
    "the list of the options",
    (run: () => void) =>
      new Proxy({ programs: ["count_exec"] }, { ownKeys: () => run() ?? ["programs"] }),
  ],
])("%s that closes the session while it is read is an error", (_what, options) => {
  const session = newSession();
  expect(thrown(() => session.load(options(() => session.close())))).toMatchObject(STATE);
});

test("a program is attached once, or it would count twice", () => {
  const session = loadedSession();
  for (const program of ALL) {
    session.attach(program);
    const { EEXIST } = constants.errno;
    const failure = { step: "attach", subject: program, errno: EEXIST };
    expect(thrown(() => session.attach(program))).toMatchObject(failure);
  }
});

test("a string with a NUL is a TypeError, and never stands for what is before it", () => {
  expect(thrown(() => newSession(`${OBJECT}\0`))).toMatchObject(TYPE);
  const session = loadedSession();
  session.attach("count_exec");
  // Found by its C string, kept by the whole: it would be attached, and count, twice.
  expect(thrown(() => session.attach("count_exec\0"))).toMatchObject(TYPE);
  for (const call of [
    () => newSession().load({ programs: ["count_exec\0"] }),
    () => newSession().load({ programs: ALL, flags: ["command\0"] }),
    () => newSession().load({ programs: ALL, pins: "\0" }),
    () => newSession().lock("/\0"),
    () => mountBpffs("/nonexistent\0"),
    () => pinned("/nonexistent\0"),
    () => emptySlot("/nonexistent\0"),
  ]) {
    expect(thrown(call)).toMatchObject(TYPE);
  }
});

test("attach refuses what is not loaded", () => {
  const session = newSession();
  session.load({ programs: ["count_exec"] });
  expect(thrown(() => session.attach("count_execve"))).toMatchObject({ errno: 2 });
  expect(thrown(() => session.attach("nonsense"))).toMatchObject({ errno: 2 });
  expect(thrown(() => session.attach(1 as unknown as string))).toMatchObject(TYPE);
});

const CALLS: [string, (session: Session) => unknown][] = [
  ["load", (session) => session.load({ programs: ALL })],
  ["attach", (session) => session.attach("count_exec")],
  ["lookup", (session) => session.lookup("k")],
  ["update", (session) => session.update("k", 1n)],
  ["insert", (session) => session.insert("k")],
  ["remove", (session) => session.remove("k")],
  ["readCounters", (session) => session.readCounters()],
  ...TABLE_CALLS,
  ["lock", (session) => session.lock("/")],
  ["close", (session) => session.close()],
];
/** Those that a follower has, too. */
const SHARED = CALLS.filter(([name]) => !["load", "attach"].includes(name)) as [
  string,
  (tables: Tables) => unknown,
][];

test.each(CALLS)("%s after close is an error", (_name, call) => {
  const session = loadedSession();
  session.attach("count_exec");
  session.close();
  expect(thrown(() => call(session))).toMatchObject(STATE);
});

test.each([...SHARED, ["follow", (follower: Tables) => (follower as Follower).follow()] as const])(
  "%s of a follower after close is an error",
  (_name, call) => {
    const follower = newFollower(mapOf(loadedSession()));
    follower.follow();
    follower.close();
    expect(thrown(() => call(follower))).toMatchObject(STATE);
  },
);

test.each(CALLS.filter(([name]) => !["load", "lock", "close"].includes(name)))(
  "%s before load is an error",
  (_name, call) => {
    expect(thrown(() => call(newSession()))).toMatchObject(STATE);
  },
);

test("a method on another object is a TypeError, and a follower is another than a session", () => {
  const session = loadedSession();
  const follower = newFollower(mapOf(session));
  type Methods = Record<string, () => void>;
  for (const [one, others] of [
    [NativeSession, [{}, follower, NativeFollower.prototype, Object.create(session)]],
    [NativeFollower, [{}, session, NativeSession.prototype, Object.create(follower)]],
  ] as const) {
    const methods = Object.getOwnPropertyNames(one.prototype).filter(
      (name) => name !== "constructor",
    );
    expect(methods.length).toBeGreaterThan(SHARED.length);
    for (const name of methods) {
      for (const other of others) {
        const method = (one.prototype as unknown as Methods)[name];
        expect(
          thrown(() => method?.call(other)),
          name,
        ).toMatchObject(TYPE);
      }
    }
  }
  expect(session.readCounters()).toEqual([]);
  expect(follower.readCounters()).toEqual([]);
});

test("a lock is another's until it is given back", () => {
  const directory = mkdtempSync(join(tmpdir(), "execve-counter-"));
  try {
    const file = join(directory, "lock");
    const [one, other] = [newSession(), newFollower(mapOf(loadedSession()))];
    one.lock(file);
    const { EWOULDBLOCK } = constants.errno;
    expect(thrown(() => other.lock(file))).toMatchObject({ step: "lock", errno: EWOULDBLOCK });
    one.close();
    other.lock(file);
    expect(thrown(() => newSession().lock(file))).toMatchObject({ errno: EWOULDBLOCK });
  } finally {
    rmSync(directory, { recursive: true });
  }
});

test("libbpf's messages reach the log function", () => {
  const messages: [string, string][] = [];
  const session = newSession(OBJECT, (level, message) => messages.push([level, message]));
  session.load({ programs: ALL });
  expect(messages.some(([, message]) => message.includes("count_execve"))).toBe(true);
  expect(new Set(messages.map(([level]) => level))).toContain("debug");
});

test("a log function that throws or closes the session breaks nothing", () => {
  expect(() =>
    newSession(OBJECT, () => {
      throw new Error("from the log");
    }),
  ).toThrow("from the log");

  let session: Session | undefined;
  session = newSession(OBJECT, () => session?.close());
  expect(thrown(() => session?.load({ programs: ALL }))).toMatchObject(STATE);
});

// As worker.terminate() may, at any moment.
test.each([
  ["the log function", "new Session(OBJECT, () => process.exit())"],
  [
    "an array",
    "new Session(OBJECT, () => {}).load({ programs: Object.defineProperty([''], 0, { get: process.exit }) })",
  ],
])("a worker that is stopped in %s ends alone", (_where, call) => {
  const addon = projectPath("build/Release/execve_counter.node");
  const worker = `const OBJECT = "${OBJECT}"; const { Session } = require("${addon}"); ${call}`;
  const { status, stdout } = result(process.execPath, [
    "--eval",
    `new (require("worker_threads").Worker)(${JSON.stringify(worker)}, { eval: true })
      .on("exit", () => console.log("the worker has ended"))`,
  ]);
  expect(status).toBe(0);
  expect(stdout).toBe("the worker has ended\n");
});
