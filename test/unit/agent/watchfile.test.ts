import {
  appendFileSync,
  mkdirSync,
  mkdtempSync,
  renameSync,
  rmSync,
  symlinkSync,
  truncateSync,
  utimesSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, test, vi } from "vitest";
import { MAX_NAMES, parseNames, readFirst, readNames } from "../../../src/agent/watchfile.ts";
import { WatchFile } from "../../../src/agent/watching.ts";
import { UserError } from "../../../src/base/errors.ts";

const names = (text: string) => parseNames(text, "/etc/watch");

function refused(work: () => unknown): UserError {
  try {
    work();
  } catch (error) {
    if (error instanceof UserError) return error;
    throw error;
  }
  throw new Error("it was taken");
}

describe("the text of a watch file", () => {
  test("is a name a line; blank lines, comments, blanks around a name and CRLF are nothing", () => {
    expect(names("nc\n# sh\n\n  \r\n\tcurl \r\n  # a\nx y\nnc")).toEqual(["nc", "curl", "x y"]);
    expect(names("")).toEqual([]);
    expect(names("\ufeffnc\r\n")).toEqual(["nc"]);
    expect(names("a,b")).toEqual(["a,b"]);
  });

  test.each([
    ["nc\n\n/bin/sh", "/etc/watch: line 3: a watched name cannot be", "give sh"],
    ["a-name-that-is-too-long", "/etc/watch: line 1: ", "give a-name-that-is"],
    ["\ufffd", "/etc/watch: line 1: ", "valid UTF-8"],
    ["a\0", "/etc/watch: line 1: ", "NUL"],
  ])("%j is refused", (text, message, remedy) => {
    const error = refused(() => names(text));
    expect(error.message).toContain(message);
    expect(error.remedy).toContain(remedy);
    expect(error.exitCode).toBe(2);
  });

  test("has as many names as there is room for, and no more", () => {
    const lines = (count: number) => Array.from({ length: count }, (_, i) => `n${i}`).join("\n");
    expect(names(`${lines(MAX_NAMES)}\nn0`)).toHaveLength(MAX_NAMES);
    const error = refused(() => names(lines(MAX_NAMES + 1)));
    expect(error.message).toBe("/etc/watch has 4094 names");
    expect(error.exitCode).toBe(2);
  });
});

let directory: string;
let path: string;
beforeEach(() => {
  directory = mkdtempSync(join(tmpdir(), "execve-counter-"));
  path = join(directory, "watch");
});
afterEach(() => {
  vi.useRealTimers();
  rmSync(directory, { recursive: true });
});

describe("a file that cannot be read", () => {
  test.each([
    ["gone", "(ENOENT)"],
    [".", "(not a file)"],
    ["large", "(EFBIG)"],
  ])("%s: %s", (name, code) => {
    writeFileSync(join(directory, "large"), "#".repeat((1 << 20) + 1));
    const error = refused(() => readNames(join(directory, name)));
    expect(error.message).toContain(`cannot read --watch-file ${join(directory, name)} ${code}`);
    expect(error.exitCode).toBe(1);
  });

  test("a file of a mebibyte can be read", () => {
    writeFileSync(path, `${"#".repeat((1 << 20) - 3)}\nnc`);
    expect(readNames(path).names).toEqual(["nc"]);
  });
});

test("at the start, a file that is being written is read at its end", async () => {
  writeFileSync(path, "one\ntw");
  const reading = readFirst(path);
  setTimeout(() => appendFileSync(path, "o\n"), 300);
  expect((await reading).names).toEqual(["one", "two"]);
});

describe("a file that changes", () => {
  let file: WatchFile;
  let taken: (readonly string[])[];
  let said: string[];
  let failure: UserError | undefined;

  /** As kubelet writes a ConfigMap: a directory with a new name, which a link is renamed to. */
  const swap = (version: string, text: string) => {
    mkdirSync(join(directory, version));
    writeFileSync(join(directory, version, "watch"), text);
    symlinkSync(version, join(directory, "..data_tmp"));
    renameSync(join(directory, "..data_tmp"), join(directory, "..data"));
  };
  const pass = (ms: number) => vi.advanceTimersByTime(ms);

  beforeEach(async () => {
    swap("..1", "one\ntwo\n");
    symlinkSync("..data/watch", path);
    file = await WatchFile.open(path);
    vi.useFakeTimers({ toFake: ["setTimeout", "clearTimeout", "Date"] });
    [taken, said, failure] = [[], [], undefined];
    const say = (message: string) => said.push(message);
    const take = (names: readonly string[]) => {
      if (failure) throw failure;
      taken.push(names);
      return { added: 1, removed: 2 };
    };
    file.follow(take, { debug: say, info: say, warn: say, error: say });
  });
  afterEach(() => file.close());

  test("is not read while it is the same", () => {
    pass(60_000);
    expect({ taken, said }).toEqual({ taken: [], said: [] });
  });

  test("is taken over within 2 s of a swap of the directory that it is in", () => {
    swap("..2", "three\n");
    pass(2000);
    expect(taken).toEqual([["three"]]);
    expect(said).toEqual([`watches 1 command by ${path}: 1 added, 2 removed`]);
    expect(file.names).toEqual(["three"]);
    pass(60_000);
    expect(taken).toHaveLength(1);
  });

  test("is taken over within 2 s when another is renamed to its place", () => {
    const other = join(directory, "other");
    writeFileSync(other, "three\nfour\n");
    renameSync(other, path);
    pass(2000);
    expect(taken).toEqual([["three", "four"]]);
  });

  test("is taken over where neither its size nor its time tells", () => {
    const time = new Date(0);
    utimesSync(path, time, time);
    pass(3000);
    taken.length = 0;
    const other = join(directory, "other");
    writeFileSync(other, "owt\neno\n");
    utimesSync(other, time, time);
    renameSync(other, path);
    pass(2000);
    expect(taken).toEqual([["owt", "eno"]]);
  });

  test("is not taken half while it is written in place, and whole within 2 s of the end", () => {
    writeFileSync(path, "three\n");
    for (let i = 0; i < 20; i++) {
      pass(400);
      appendFileSync(path, `n${i}\n`);
    }
    expect(taken).toEqual([]);
    pass(2000);
    expect(taken).toHaveLength(1);
    expect(taken[0]).toHaveLength(21);
  });

  test("is not taken empty at once, as most writers begin; an empty list can be meant", () => {
    truncateSync(path);
    pass(2400);
    appendFileSync(path, "three\n");
    pass(2000);
    expect(taken).toEqual([["three"]]);
    truncateSync(path);
    pass(5000);
    expect(taken).toEqual([["three"], []]);
  });

  test("with a wrong name changes nothing, and that is said once, and again when it is good", () => {
    swap("..2", "three\n/bin/four\n");
    pass(10_000);
    expect(taken).toEqual([]);
    expect(file).toMatchObject({ successful: false, names: ["one", "two"] });
    expect(said).toEqual([
      `the old list of watched commands stays in force: ${path}: line 2: a watched name cannot be "/bin/four"`,
      "to do: the kernel matches the file's name without its directory: give four",
    ]);
    said.length = 0;
    swap("..3", "three\nfour\n");
    const before = file.successTime;
    pass(2000);
    expect(taken).toEqual([["three", "four"]]);
    expect(file.successful).toBe(true);
    expect(file.successTime).toBeGreaterThan(before);
    expect(said).toEqual([
      `${path} is good again: watches 2 commands by ${path}: 1 added, 2 removed`,
    ]);
  });

  test("that is gone for a while is taken over when it is back, though it is the same", () => {
    const away = join(directory, "..away");
    renameSync(join(directory, "..1"), away);
    pass(10_000);
    expect(said).toHaveLength(2);
    expect(said[0]).toContain(`cannot read --watch-file ${path} (ENOENT)`);
    expect(file.successful).toBe(false);
    renameSync(away, join(directory, "..1"));
    pass(2000);
    expect(said[2]).toContain("is good again");
    expect(file.successful).toBe(true);
  });

  test("is tried again where the meter could not take it over, and that is said once", () => {
    failure = new UserError("another edits the list", "wait", 1);
    swap("..2", "three\n");
    pass(10_000);
    expect(said).toHaveLength(2);
    expect(file.names).toEqual(["one", "two"]);
    failure = undefined;
    pass(1000);
    expect(taken).toEqual([["three"]]);
    expect(said).toHaveLength(3);
  });
});
