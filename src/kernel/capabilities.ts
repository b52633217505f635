import { readFileSync } from "node:fs";

/** The capabilities that matter here, by their bits in linux/capability.h. */
const BITS = {
  CAP_SETGID: 6n,
  CAP_SETUID: 7n,
  CAP_SYS_ADMIN: 21n,
  CAP_PERFMON: 38n,
  CAP_BPF: 39n,
} as const;

/** The effective set, a bit each, by the text of /proc/<pid>/status; none where there is no text. */
export function effectiveCapabilities(status: string | undefined): bigint {
  const line = /^CapEff:\s*([0-9a-f]+)$/m.exec(status ?? "");
  return BigInt(`0x${line?.[1] ?? "0"}`);
}

/**
 * Whether the capabilities hold in a user namespace only, like those of root in a rootless
 * container. The map is that of /proc/self/uid_map, undefined where there is none.
 */
export function inUserNamespace(uidMap: string | undefined): boolean {
  return uidMap !== undefined && !/^\s*0\s+0\s+4294967295\s*$/.test(uidMap);
}

/** A capability's number. */
export function capabilityNumber(name: keyof typeof BITS): number {
  return Number(BITS[name]);
}

/** Whether all of these are in the set. */
export function hasCapabilities(set: bigint, ...names: (keyof typeof BITS)[]): boolean {
  return names.every((name) => ((set >> BITS[name]) & 1n) === 1n);
}

/** /proc/self/status. */
export function statusOfSelf(): string | undefined {
  return fileOrNothing("/proc/self/status");
}

export function fileOrNothing(path: string): string | undefined {
  try {
    return readFileSync(path, "utf8");
  } catch {
    return undefined; // no /proc
  }
}
