// One process of make fuzz: calls the addon in random order with arguments right and wrong, in
// the main thread and in workers that are ended at any moment. Each call returns what
// src/kernel/addon.ts says, or throws what that says.
import * as fs from "node:fs";
import { createRequire } from "node:module";
import { constants } from "node:os";
import { setImmediate } from "node:timers/promises";
import { fileURLToPath } from "node:url";
import { isMainThread, threadId, Worker, workerData } from "node:worker_threads";
import fc from "fast-check";

const path = (relative) => fileURLToPath(new URL(`../../${relative}`, import.meta.url));
const OBJECT = path("dist/execve_counter.bpf.o");
const PROGRAMS = [
  ...["count_execve", "count_execveat", "count_execve_failure", "count_execveat_failure"],
  ...["count_attempts", "count_failures", "count_killed", "count_exec", "end_group"],
];
const FLAGS = [
  ...["command", "user", "container", "parent", "unit", "path"],
  ...["cgroup_v1", "failures", "no_attempts"],
];
const PINS = `pins/${threadId}`;
const U64 = 2n ** 64n;
const { E2BIG } = constants.errno;

const seed = isMainThread ? Number(process.argv[2]) : workerData.seed;
/** Sequences and calls, of all threads. */
const tally = isMainThread ? new Float64Array(new SharedArrayBuffer(16)) : workerData.tally;
const addon = createRequire(import.meta.url)(path("build/fuzz/build/Release/execve_counter.node"));
const { Session, Follower } = addon;
const FROM_LOG = new Error("from the log");
/** The errors that were found; the addon may be between here and a catch. */
const wrong = [];

/** What JavaScript does that runs in the midst of a call. */
let during = () => {};

/** Stands for an argument that is made at the call: see make(). */
class Made {
  constructor(kind) {
    this.kind = kind;
  }
}

// Arguments, and what makes them right.
const junk = fc.oneof(
  fc.constantFrom(undefined, null, true, Number.NaN, -0, -1, 0.5, 2 ** 32, 2 ** 53, Infinity),
  fc.constantFrom(-1n, 0n, U64 - 1n, U64, 2n ** 200n, Symbol.iterator, {}, ["pid"]),
  fc.constantFrom("", "\0", "count_exec\0", "\ud800", "x".repeat(64), "x".repeat(1e5)),
  fc.string({ unit: "binary" }).map((text) => text.replaceAll("/", "_")),
  fc.array(fc.constantFrom("count_exec", "count_exec\0", 1, undefined)),
  fc
    .constantFrom("reader", "coerced", "proxy", "sparse", "detached", "options")
    .map((kind) => new Made(kind)),
);
const mostly = (right) =>
  fc.oneof({ weight: 15, arbitrary: right }, { weight: 1, arbitrary: junk });
const argument = (right, fits) => ({ value: mostly(right), fits });
const optional = ({ value, fits }) => ({
  value: fc.option(value, { nil: undefined, freq: 1 }),
  fits: (given) => given === undefined || fits(given),
});
const isBoolean = (value) => typeof value === "boolean";
const isText = (value) => typeof value === "string" && !value.includes("\0");
const isTexts = (value) => Array.isArray(value) && value.every(isText);
const areFlags = (value) => isTexts(value) && value.every((flag) => FLAGS.includes(flag));
const isU32 = (value) => Number.isInteger(value) && value >= 0 && value < 2 ** 32;
const isU64 = (value) => typeof value === "bigint" && value >= 0n && value < U64;
const isKey = (value) => isText(value) && value !== "" && Buffer.byteLength(value) < 64;
const text = (...values) => argument(fc.constantFrom(...values), isText);
const key = argument(fc.constantFrom("a", "b", "ä", "\ud800", "x".repeat(63)), isKey);
const directory = text("file", PINS, "pins", ".", "missing/file");

/** What load() may be given by name. */
const OPTIONS = {
  programs: argument(
    fc.oneof(
      { weight: 4, arbitrary: fc.subarray(PROGRAMS) },
      { weight: 1, arbitrary: fc.constant(new Made("reader")) },
    ),
    isTexts,
  ),
  flags: optional(argument(fc.subarray(FLAGS), areFlags)),
  rows: optional(argument(fc.constantFrom(2, 16, 4096), (rows) => isU32(rows) && rows >= 2)),
  pins: optional(argument(fc.constant(PINS), (pins) => isText(pins) && pins !== "")),
  reuse: optional(argument(fc.constantFrom(false, false, false, true), isBoolean)),
  scope: optional(text("", "/some.service", "x".repeat(1500))),
};
const known = each(OPTIONS, ({ value }) => value);
const record = (options) => fc.record(options, { requiredKeys: ["programs", "flags", "pins"] });
const options = {
  value: fc.oneof(
    { weight: 15, arbitrary: record(known) },
    { weight: 1, arbitrary: record({ ...known, row: junk }) },
    { weight: 1, arbitrary: junk },
    { weight: 1, arbitrary: fc.constant(new Made("options")) },
  ),
  fits: (given, values) =>
    typeof given?.programs === "object" &&
    Object.keys(given).every(
      (name) => OPTIONS[name] && fitting(OPTIONS[name], given[name], values[name]),
    ) &&
    !(given.reuse && given.pins === undefined),
};

/**
 * The methods: what the session must be, the arguments, at which steps they may fail all the
 * same, and whether what they return is right, where that is not undefined.
 */
const METHODS = {
  load: {
    needs: "fresh",
    args: [options],
    fails: (_, [{ programs, pins, scope }]) =>
      (pins || scope?.length > 1023 || !programs.every((name) => PROGRAMS.includes(name))) &&
      /^(load|pin|pinned|scope)$/,
  },
  // Only what counts execs is a whole meter; another may close the one that is followed, or
  // have nothing yet in a slot.
  follow: { needs: "counters", fails: () => /^(follow|slot)$/ },
  lock: { needs: "open", args: [directory], fails: () => /^lock$/ },
  begin: {
    needs: "tables",
    args: [
      argument(
        fc.double({ min: 0, max: 9e14 }),
        (now) => typeof now === "number" && now >= 0 && now < 9e15,
      ),
    ],
    fails: ({ pins }) => pins && /^(pin|pinned)$/,
    right: (value, { pins, followed }, [now]) =>
      value === Math.trunc(now) || ((pins || followed) && value >= 0),
  },
  attach: {
    needs: "tables",
    args: [text(...PROGRAMS)],
    fails: ({ pins, attached, programs }, [name]) =>
      (pins || attached.has(name) || !programs.includes(name)) && /^(attach|pin)$/,
  },
  lookup: {
    needs: "counters",
    args: [key],
    right: (value, { counters }, [name]) => !counters || value === counters.get(name),
  },
  update: { needs: "counters", args: [key, argument(fc.bigInt(0n, U64 - 1n), isU64)] },
  insert: {
    needs: "counters",
    args: [key],
    right: (value, { counters }, [name]) => !counters || value === !counters.has(name),
  },
  remove: {
    needs: "counters",
    args: [key],
    right: (value, { counters }, [name]) => !counters || value === counters.has(name),
  },
  readCounters: {
    needs: "counters",
    right: (rows, { counters }) =>
      rows.every(([name, n]) => isU64(n) && (counters?.get(name) ?? n) === n) &&
      rows.length === (counters ?? new Map(rows)).size,
  },
  readExecs: {
    needs: "tables",
    right: ({ kinds, counts, numbers, total, serial, anew, fresh, uids, labels, retired }) =>
      kinds.length > 0 &&
      [counts, numbers, fresh, ...Object.values(labels), ...(uids.length > 0 ? [uids] : [])].every(
        ({ length }) => length === kinds.length,
      ) &&
      new Set(numbers).size === numbers.length &&
      counts.reduce((sum, count) => BigInt.asUintN(64, sum + count), 0n) === total &&
      isU32(serial) &&
      Object.values(labels).flat().every(isText) &&
      [...uids].every(isU32) &&
      [...counts, retired].every(isU64) &&
      anew === true,
  },
  retire: {
    needs: "tables",
    args: [
      argument(
        fc.constantFrom(0, 1, 1e12, 9e14),
        (time) => typeof time === "number" && time >= 0 && time < 9e15,
      ),
    ],
    right: isU32,
  },
  // Read first, where there is one.
  setScope: {
    needs: "tables",
    args: [argument(fc.constantFrom(0n, 1n), isU64)],
    fails: () => /^read$/,
  },
  readScope: {
    needs: "tables",
    right: (scope) =>
      scope === undefined || (isText(scope.path) && [scope.group, scope.made].every(isU64)),
  },
  settle: { needs: "counters" },
  readFailures: {
    needs: "tables",
    right: ({ failed, checks, unfollowed }) =>
      failed.every(([call, errno, n]) => isText(call) && isU32(errno) && isU64(n)) &&
      [checks, unfollowed].every(isU64),
  },
  programs: {
    needs: "tables",
    // Pinned, a program is in its slot once it is attached.
    fails: ({ pins, followed }) => (pins && /^slot$/) || (followed && /^follow$/),
    right: (rows, { programs, followed }) =>
      (followed || `${rows.map(({ name }) => name)}` === `${programs}`) &&
      rows.every(({ runCount, runTime, misses }) => [runCount, runTime, misses].every(isU64)),
  },
  maps: {
    needs: "tables",
    right: (rows) => rows.every(({ id, capacity }) => isU32(id) && isU32(capacity)),
  },
  flags: { needs: "tables", right: areFlags },
  close: { needs: "open" },
  // Of the module:
  findCounters: { right: (ids) => ids.every(isU32) },
  bootTime: { right: (time) => time > 0 },
  pinned: {
    args: [text(PINS, "pins", "missing/file")],
    fails: () => /^pinned$/,
    right: ({ flags, rows }) => areFlags(flags) && isU32(rows),
  },
  emptySlot: { args: [text(PINS, "pins", "missing/file")] },
  mountBpffs: { args: [text("mounts", "file", "missing/file")], fails: () => /^mount$/ },
  userName: {
    args: [
      argument(fc.constantFrom(0, 1, 2 ** 32 - 2), isU32),
      argument(fc.constantFrom(0, 1, 100), isU32),
    ],
    right: (name) => name === undefined || name === null || isText(name),
  },
  account: {
    args: [
      argument(
        fc.constantFrom("root", "nobody", "", 0, 2 ** 32 - 2),
        (who) => isText(who) || isU32(who),
      ),
    ],
    right: (found) => found === undefined || (isU32(found.uid) && isU32(found.gid)),
  },
  notify: { args: [text("READY=1", "")], right: (heard) => heard === false },
  // Only refused: what it takes away would be missed by the calls after it.
  restrict: {
    args: [{ value: fc.constantFrom("false", 0, 1n, null, undefined, {}), fits: () => false }],
  },
  // How each begins: constructed, as what, with what for a log, and a follower of which map.
  newSession: construction(Session),
  newFollower: construction(
    Follower,
    argument(
      fc.oneof(
        { weight: 1, arbitrary: fc.constantFrom(0, 2 ** 32 - 1) },
        { weight: 4, arbitrary: fc.constantFrom(new Made("map 0"), new Made("map 1")) },
      ),
      isU32,
    ),
  ),
};

function construction(Class, ...more) {
  return {
    makes: Class,
    args: [
      text(...Array(9).fill(OBJECT), "missing", "."),
      argument(
        fc.constantFrom("quiet", "quiet", "calls", "calls", "throws"),
        (log) => typeof logOf(log) === "function",
      ),
      { value: fc.constantFrom(Class, class extends Class {}, Object), fits: () => true },
      ...more,
    ],
    fails: (_, [file]) => (file !== OBJECT && /^open$/) || (more.length > 0 && /^open_by_id$/),
    right: () => true,
  };
}

const slot = fc.nat({ max: 1 });
const self = fc.oneof(
  { weight: 30, arbitrary: fc.constant("own") },
  { weight: 1, arbitrary: fc.constantFrom("none", "proxy", "heir", "prototype", "foreign") },
);
/** Calls, each with another that is made by what runs JavaScript meanwhile. */
const callsWith = (hook) =>
  fc.oneof(
    ...Object.entries(METHODS).map(([method, { args = [] }]) => ({
      weight: { newSession: 3, newFollower: 3, load: 6, attach: 3, follow: 3 }[method] ?? 1,
      arbitrary: fc.record({
        method: fc.constant(method),
        slot,
        self,
        values: fc.tuple(...args.map(({ value }) => value)),
        hook,
      }),
    })),
    { weight: 2, arbitrary: fc.record({ method: fc.constantFrom("drop", "gc", "unpin"), slot }) },
  );
const close = fc.record({
  method: fc.constant("close"),
  slot,
  self: fc.constant("own"),
  values: fc.constant([]),
});
const hooks = fc.oneof(
  { weight: 2, arbitrary: callsWith(fc.constant(null)) },
  { weight: 1, arbitrary: close },
);
const sequences = fc.array(callsWith(fc.option(hooks)), { maxLength: 60, size: "max" });

/** Whether an argument is right that `value` stands for. */
function fitting({ fits }, given, value) {
  return value instanceof Made && typeof given === "object" ? false : fits(given, value);
}

/** The argument that a value stands for, or is, or has in it. */
function made(value, sessions) {
  if (value instanceof Made) return make(value, sessions);
  if (value?.programs === undefined) return value;
  return each(value, (option) => made(option, sessions));
}

function each(object, change) {
  return Object.fromEntries(Object.entries(object).map(([name, value]) => [name, change(value)]));
}

function make({ kind }, sessions) {
  const run = () => during();
  if (kind === "reader") {
    return Object.defineProperty(["count_exec"], 0, { get: () => during() ?? "count_exec" });
  }
  if (kind === "coerced") return { valueOf: run, toString: run, [Symbol.toPrimitive]: run };
  if (kind === "proxy") return new Proxy(["count_exec"], { get: run });
  if (kind === "options") {
    return {
      get programs() {
        return during() ?? ["count_exec"];
      },
    };
  }
  if (kind === "sparse") return Array(2 ** 32 - 1);
  if (kind === "detached") {
    const array = new BigUint64Array(8);
    structuredClone(array.buffer, { transfer: [array.buffer] });
    return array;
  }
  return sessions[Number(kind.at(-1))]?.map ?? 0;
}

const LOGS = {
  quiet: () => {},
  calls: () => during(),
  throws: () => {
    throw FROM_LOG;
  },
};

function logOf(value) {
  return (typeof value === "string" && LOGS[value]) || value;
}

function construct(Class, kind, [file, log, as, mapId]) {
  if (kind !== "own") return Class(file, logOf(log));
  return Reflect.construct(Class, [file, logOf(log), mapId], as);
}

function receiver(kind, { session, Class }) {
  if (kind === "proxy") return new Proxy(session, {});
  if (kind === "heir") return Object.create(session);
  return { own: session, foreign: session, prototype: Class.prototype }[kind];
}

/** Whether the session is what a method needs. */
function isReady(needs, { Class, closed, taken, loaded, followed } = {}) {
  if (needs === undefined) return true;
  const counters = loaded || Class === Follower;
  const tables = loaded || followed;
  return !closed && { open: true, fresh: !taken, counters, tables }[needs];
}

function kindOf(error, step) {
  if (error === FROM_LOG) return "log";
  if (error instanceof TypeError) return "type";
  if (error.code === "ERR_SESSION_STATE") return "state";
  // A tracepoint has room for 64 programs, of everybody's.
  if (error.errno === E2BIG && error.step === "attach") return "native";
  if (error.errno > 0 && step && step.test(error.step)) return "native";
  return error.stack + JSON.stringify(error);
}

/** Makes one call, notes what is wrong about what comes of it, and what it has changed. */
function call(op, sessions) {
  const { method, slot, values } = op;
  if (method === "gc") return gc();
  if (method === "drop") return delete sessions[slot];
  if (method === "unpin") return makePins();
  const {
    needs,
    args = [],
    makes,
    fails,
    right = (value) => value === undefined,
  } = METHODS[method];
  const session = sessions[slot];
  if (needs && !session) return;
  if (session?.unsure && needs !== "open") return;
  const other = session?.Class === Session ? Follower : Session;
  const Class = op.self === "foreign" ? other : session?.Class;
  // The other class has it.
  if (needs && !Class.prototype[method]) return;
  tally[1]++;

  const given = values.map((value) => made(value, sessions));
  // As the addon reads it.
  const read = given.map((value) => (typeof value === "string" ? value.toWellFormed() : value));
  // Whatever happens while an array is read, it is one of these.
  const [first] = method === "load" ? values : [];
  const open = first?.kind === "options" || first?.programs?.kind === "reader";
  const own = needs || makes ? op.self === "own" : true;
  const fit = own && args.every((argument, i) => fitting(argument, given[i], values[i]));
  const ready = isReady(needs, session);
  const step = fit && ready && fails?.(session, read);
  const may = open
    ? ["right", "type", "state", "native"]
    : [
        fit && ready && "right",
        (step || (fit && ready && method === "attach")) && "native",
        !fit && "type",
        own && !ready && "state",
      ];
  const logs = makes || ["load", "attach"].includes(method);
  if (logs && (makes || session.log === "throws")) may.push("log");
  // The log runs when all is done, and before this is told: what it may see is noted now.
  if (fit && ready && !open) {
    if (needs === "fresh") session.taken = true; // even where it fails
    if (method === "load" && !step) noteLoaded(session, read[0]);
    if (method === "load" && step) session.unsure = true;
    if (method === "attach") session.attached.add(read[0]);
  }

  let outcome;
  let value;
  const outer = during;
  during = () => {
    during = () => {};
    if (op.hook) call(op.hook, sessions);
  };
  try {
    if (makes) value = construct(makes, op.self, given);
    else if (!needs) value = addon[method](...given);
    else value = Class.prototype[method].apply(receiver(op.self, session), given);
    outcome = right(value, session, read) ? "right" : "returned what it should not";
  } catch (error) {
    outcome = kindOf(error, open ? /^(load|pin|pinned)$/ : step);
  }
  during = outer;
  if (session) session.unsure = false;
  if (!may.includes(outcome)) {
    wrong.push(`${outcome}: ${fc.stringify(value)}\nof ${fc.stringify(op)}`);
  }
  if (open && ["right", "native"].includes(outcome)) session.taken = true;
  if (outcome === "right") keep(op, session, sessions, read, value);
}

/** What a call has changed. */
function keep({ method, slot }, session, sessions, [first, second, , mapId], value) {
  const { makes: Class } = METHODS[method];
  if (Class) {
    const counters = mapId && sessions.find((each) => each?.map === mapId)?.counters;
    sessions[slot] = { session: value, Class, log: second, counters };
  }
  if (method === "close") session.closed = true;
  if (method === "update") session.counters?.set(first, second);
  if (method === "insert" && value) session.counters?.set(first, 0n);
  if (method === "remove") session.counters?.delete(first);
  if (method === "follow") session.followed = true;
  if (method === "load") {
    if (!session.loaded) noteLoaded(session, first);
    if (session.closed) return;
    const maps = Session.prototype.maps.call(session.session);
    session.map = maps.find(({ name }) => name === "execve_counter").id;
    fs.appendFileSync("maps", maps.map(({ id }) => `${id}\n`).join(""));
  }
}

function noteLoaded(session, { programs, pins }) {
  Object.assign(session, { loaded: true, programs: [...programs], pins, attached: new Set() });
  // Others may write to what is pinned.
  if (!pins) session.counters = new Map();
}

function makePins() {
  fs.mkdirSync(PINS, { recursive: true });
  for (const pin of fs.readdirSync(PINS)) fs.rmSync(`${PINS}/${pin}`);
}

function fuzz(number, runs) {
  const sequence = fc.asyncProperty(sequences, async (ops) => {
    fs.writeFileSync(`sequence-${threadId}`, ops.map((op) => `${fc.stringify(op)}\n`).join(""));
    tally[0]++;
    const sessions = [];
    for (const op of ops) call(op, sessions);
    // The other is left to the garbage collector.
    const [{ session, Class, closed } = {}] = sessions;
    if (session && !closed) Class.prototype.close.call(session);
    await setImmediate(); // for what was collected, and for workers
    if (wrong.length > 0) throw new Error(wrong.splice(0).join("\n"));
  });
  return fc.assert(sequence, { seed: number, numRuns: runs, unbiased: true });
}

/** Runs sequences until it is ended. */
async function work() {
  makePins();
  for (let number = seed; ; number++) await fuzz(number, 20);
}

/** One process: sequences of calls here and in two workers at a time. */
async function child() {
  for (const name of ["pins", "mounts"]) fs.mkdirSync(name);
  addon.mountBpffs("pins");
  makePins();
  let number = 2 ** 30 + seed;
  const hire = () => {
    const worker = new Worker(new URL(import.meta.url), {
      workerData: { seed: number++, tally },
    });
    return worker.on("error", fail);
  };
  const workers = [hire(), hire()];
  for (let round = 0; round < 6; round++) {
    await fuzz(seed * 1000 + round, 10);
    await workers.shift().terminate();
    workers.push(hire());
  }
  console.log(JSON.stringify([...tally]));
  if (process.argv[3] === "stop") process.exit();
  await Promise.all(workers.map((worker) => worker.terminate()));
  for (let i = 0; i < 3; i++) {
    gc();
    await setImmediate();
  }
  const left = fs.readdirSync("/proc/self/fd").filter((fd) => {
    const file = fs.existsSync(`/proc/self/fd/${fd}`) ? fs.readlinkSync(`/proc/self/fd/${fd}`) : "";
    return /bpf|perf_event/.test(file);
  });
  if (left.length > 0) throw new Error(`still open: ${left}`);
}

/** At once: an orderly end would report what Node.js leaks. */
function fail(error) {
  console.error(error);
  process.kill(process.pid, "SIGKILL");
}

if (isMainThread) await child().catch(fail);
else await work();
