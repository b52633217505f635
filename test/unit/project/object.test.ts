import { cpSync, mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { expect, test } from "vitest";
import { projectPath } from "../../support/files.ts";
import { result } from "../../support/meter.ts";

const OBJECT = "dist/execve_counter.bpf.o";
const built = readFileSync(projectPath(OBJECT));

test("the BPF object is the same wherever it is built", () => {
  const elsewhere = mkdtempSync(join(tmpdir(), "execve-counter-"));
  try {
    for (const path of ["Makefile", "bpf"]) {
      cpSync(projectPath(path), join(elsewhere, path), { recursive: true });
    }
    const { status, stderr } = result("make", [OBJECT], { cwd: elsewhere });
    expect({ status, stderr }).toEqual({ status: 0, stderr: "" });
    expect(readFileSync(join(elsewhere, OBJECT)).equals(built)).toBe(true);
  } finally {
    rmSync(elsewhere, { recursive: true });
  }
});

test("the BPF object holds no path and no debug information of the machine that built it", () => {
  const text = built.toString("latin1");
  expect(text).not.toContain(projectPath(""));
  expect(text).not.toContain(".debug_");
  expect(text).toContain("./bpf/execve_counter.bpf.c");
});

test("the adds are atomic, by the instruction that every supported kernel knows", () => {
  const { stdout } = result("llvm-objdump", ["--disassemble", projectPath(OBJECT)]);
  // At least attempts and failures by either hook, a row of execs and a watched name.
  const adds = stdout.match(/lock \*\(u64 \*\)\(r\d \+ (?:0x)?0\) \+= r\d/g) ?? [];
  expect(adds.length).toBeGreaterThanOrEqual(8);
  // BPF_FETCH needs Linux 5.12.
  expect(stdout).not.toContain("atomic_fetch");
});
