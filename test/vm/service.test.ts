import { expect, test } from "vitest";
import { projectPath } from "../support/files.ts";
import type { Counts } from "../support/meter.ts";
import { boot } from "./machine.ts";

interface Run {
  status: number;
  output: string;
}
type State = Record<"ActiveState" | "NRestarts" | "MainPID" | "Result", string>;

/** What test/vm/service-guest.mjs does and finds. */
interface Report {
  error?: string;
  security: string;
  plain: {
    started: Run;
    state: State;
    before: Counts;
    after: Counts;
    threads: string[];
    log: string;
  };
  watchdog: { first: string; alive: State; restarted: State; metrics: string };
  pinned: { started: Run; first: Counts; stopped: State; second: Counts; unpinned: Run };
  activated: { started: Run; before: State; first: Counts; restart: Run; second: Counts };
  retirement: { failed: Run[]; first: Series[]; last: Series[]; execs: number };
}
interface Series {
  labels: string;
  execs: number;
}

const STORM = 10_000;

test("the service under systemd, on Debian 12", async () => {
  const initrd = projectPath("build/test/service.gz");
  const append = "rdinit=/lib/systemd/systemd";
  const report = (await boot("bookworm", "cloud-amd64", initrd, append)) as Report;
  const { plain, watchdog, pinned, activated, retirement } = report;
  expect(report.error).toBeUndefined();

  const exposure = /Overall exposure level for execve-counter.service: (\d+\.\d+)/;
  expect(Number(exposure.exec(report.security)?.[1])).toBeLessThanOrEqual(2.0);

  // `systemctl start` returns once the meter is ready: it answers at once.
  expect(plain.started).toEqual({ status: 0, output: "" });
  expect(plain.state).toMatchObject({ ActiveState: "active", NRestarts: "0" });
  expect((plain.after.attempts?.execveat ?? 0) - (plain.before.attempts?.execveat ?? 0)).toBe(
    STORM,
  );
  expect(plain.threads.length).toBeGreaterThan(5);
  // Before Linux 5.19 the first one would keep CAP_BPF.
  for (const status of plain.threads) {
    expect(status).not.toMatch(/^Uid:.*\b0\b/m);
    for (const set of ["CapInh", "CapPrm", "CapEff", "CapAmb"]) {
      expect(status).toContain(`${set}:\t0000000000000000\n`);
    }
    expect(status).toContain("NoNewPrivs:\t1\n");
  }
  // This kernel opens no perf event for CAP_PERFMON while perf_event_paranoid is 3.
  expect(plain.log).toContain("perf events may not be opened (EACCES): the raw hook counts");
  expect(watchdog.metrics).toContain('program="count_execve",hook="tracepoint/');

  // A meter that is alive is left alone, one that hangs is not.
  expect(watchdog.alive).toMatchObject({ MainPID: watchdog.first, NRestarts: "0" });
  expect(watchdog.restarted).toMatchObject({ ActiveState: "active", NRestarts: "1" });

  // With the drop-in counts go on while the service is stopped.
  expect(pinned.started).toEqual({ status: 0, output: "" });
  expect(pinned.first.attempts?.execveat).toBe(STORM);
  expect(pinned.stopped).toMatchObject({ ActiveState: "inactive", Result: "success" });
  expect(pinned.second.attempts?.execveat).toBe(2 * STORM);
  expect(pinned.second.start_time).toBe(pinned.first.start_time);
  expect(pinned.unpinned.output).toContain("removed /sys/fs/bpf/execve-counter\n");
  expect(pinned.unpinned.status).toBe(0);

  // The socket starts the service, and holds connections while there is none.
  expect(activated.started.status).toBe(0);
  expect(activated.before.ActiveState).toBe("inactive");
  expect(activated.second.start_time > activated.first.start_time).toBe(true);

  // Units of every kind: each has its label until a scrape has had its last count, though it
  // ended long ago; then it retires, with its group's parents, and no exec is lost.
  const { failed, first, last, execs } = retirement;
  const sum = (series: Series[]) => series.reduce((all, row) => all + row.execs, 0);
  expect(failed).toEqual([]);
  for (const unit of [
    "transient.service",
    "job@one.service",
    "some.scope",
    "deep.scope",
    "own.service",
  ]) {
    const row = { labels: `command="program",unit="${unit}"`, execs: 3 };
    expect(first).toContainEqual(row);
  }
  const retired = last.filter(({ labels }) => labels.includes('unit="retired"'));
  expect(sum(retired)).toBeGreaterThanOrEqual(15);
  expect(sum(last)).toBe(execs);
  expect(sum(first)).toBeLessThanOrEqual(execs);
});
