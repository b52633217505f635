/** Runs a command in a control group, for a meter that counts there only. */
import { type Login, loadAddon, type Outcome } from "./addon.ts";
import { translated } from "./session.ts";

export type { Login, Outcome } from "./addon.ts";

export interface Command {
  /** The words as bytes, each with a NUL at its end. */
  words: Uint8Array;
  /** What its environment differs in: NAME=value, or NAME for what is to be left out. */
  environment: readonly string[];
  /** The user to run as; undefined for this process's. */
  identity: { uid: number; gid: number; groups: readonly number[] } | undefined;
}

/**
 * Runs a command to its end, in the control group of that directory. Signals that another process
 * sends here meanwhile are passed on to it; see native/command.h.
 *
 * @throws UserError whose cause is a NativeError of the step "command" where there is no such
 *   program, or it may not be executed
 */
export function runCommand({ words, environment, identity }: Command, group: string): Outcome {
  const { runCommand } = loadAddon();
  const { uid, gid, groups } = identity ?? {};
  return translated([], () => runCommand(words, environment, group, uid, gid, groups));
}

/** Ends this process by a signal, without a core; returns where that does not end it. */
export function endBy(signal: number): void {
  loadAddon().endBy(signal);
}

/** The account of that number; undefined where there is none. */
export function findLogin(uid: number, gid: number): Login | undefined {
  return translated([], () => loadAddon().login(uid, gid));
}
