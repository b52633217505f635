/** What the agent tells systemd, and takes from it. */
import { getSystemErrorName } from "node:util";
import { ExitCode, UserError } from "../base/errors.ts";
import type { Log } from "../base/log.ts";
import type { Inherited } from "../http/server.ts";
import { isNativeError, loadAddon } from "../kernel/addon.ts";

// SD_LISTEN_FDS_START
const LISTEN_FDS_START = 3;

/**
 * The sockets of a socket unit, by sd_listen_fds(3).
 *
 * @throws UserError where there are none
 */
export function inheritedSockets(): Inherited[] {
  const { LISTEN_PID, LISTEN_FDS } = process.env;
  const count = LISTEN_PID === `${process.pid}` ? Number(LISTEN_FDS) : 0;
  if (!(count > 0)) {
    throw new UserError(
      "systemd has passed no sockets",
      "start this service by execve-counter.socket, or leave out --web.systemd-socket",
      ExitCode.usage,
    );
  }
  return Array.from({ length: count }, (_, i) => ({ fd: LISTEN_FDS_START + i }));
}

/**
 * Says by sd_notify(3) that the agent is ready and, where the unit has a WatchdogSec=, twice
 * in that time that it is alive.
 *
 * @returns a function to call when the agent stops
 */
export function announce(log: Log): () => void {
  const { notify } = loadAddon();
  const say = (state: string) => {
    try {
      notify(state);
    } catch (error) {
      if (!isNativeError(error)) throw error;
      log.warn(`cannot tell systemd ${state} (${getSystemErrorName(-error.errno)})`);
    }
  };
  const { WATCHDOG_USEC, WATCHDOG_PID } = process.env;
  const mine = WATCHDOG_PID === undefined || WATCHDOG_PID === `${process.pid}`;
  const period = mine ? Number(WATCHDOG_USEC ?? 0) / 1000 : 0;
  const timer = period > 0 ? setInterval(say, period / 2, "WATCHDOG=1") : undefined;
  say("READY=1");
  return () => {
    clearInterval(timer);
    say("STOPPING=1");
  };
}
