import { afterEach, expect, test, vi } from "vitest";
import { Source } from "../../../src/agent/source.ts";
import type { Log } from "../../../src/base/log.ts";
import type { OwnMeter } from "../../../src/kernel/meter.ts";
import { read } from "../../../src/kernel/reader.ts";
import { snapshot } from "../../support/snapshot.ts";

vi.mock("../../../src/kernel/reader.ts", () => ({ read: vi.fn() }));

const log: Log = { debug: () => {}, info: () => {}, warn: () => {}, error: () => {} };

function newSource(): Source {
  vi.mocked(read).mockImplementation(() => snapshot({ clock: performance.now() }));
  return new Source({} as OwnMeter, log, undefined, undefined);
}

afterEach(() => {
  vi.useRealTimers();
  vi.resetAllMocks();
});

test("a line shows what a scrape has read a moment ago, and no line shows the same twice", () => {
  vi.useFakeTimers({ toFake: ["performance"] });
  const source = newSource();
  const line = source.recent(undefined);
  vi.advanceTimersByTime(30);
  const scraped = source.tryRead();
  expect(scraped).not.toBe(line);
  vi.advanceTimersByTime(30);
  const next = source.recent(line);
  expect(next).toBe(scraped);
  const last = source.recent(next);
  expect(last).not.toBe(next);
  vi.advanceTimersByTime(100);
  expect(source.recent(next)).not.toBe(last);
  expect(read).toHaveBeenCalledTimes(4);
});

test("after a read that failed, a line reads again", () => {
  const source = newSource();
  expect(source.tryRead()).toBeDefined();
  vi.mocked(read).mockImplementation(() => {
    throw new Error("no");
  });
  expect(source.tryRead()).toBeUndefined();
  expect(source.recent(undefined)).toBeUndefined();
  expect(source.readErrors).toBe(2);
});
