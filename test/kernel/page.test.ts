import { spawn } from "node:child_process";
import { once } from "node:events";
import { copyFileSync, mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import type { Browser, BrowserContextOptions, Page } from "playwright-core";
import { afterAll, afterEach, beforeAll, beforeEach, expect, test } from "vitest";
import { openBrowser } from "../support/browser.mjs";
import { readProjectFile } from "../support/files.ts";
import { Groups } from "../support/groups.ts";
import { BPFTOOL, hexKey, Meter, STORM, sh, uniqueName, until } from "../support/meter.ts";

const AXE = readProjectFile("node_modules/axe-core/axe.min.js");
const ALL = ["--by", "command,user,container", "--failures", "--interval", "1h"];

let browser: Browser;
beforeAll(async () => {
  browser = await openBrowser();
});
afterAll(() => browser.close());

let directory: string;
let complaints: string[];
let asked: string[];
let pages: Page[];
beforeEach(() => {
  directory = mkdtempSync(join(tmpdir(), "execve-counter-"));
  complaints = [];
  asked = [];
  pages = [];
});
afterEach(async () => {
  for (const page of pages) await page.context().close();
  rmSync(directory, { recursive: true });
});

/** The page of a meter, live; its errors and requests are noted. */
async function look(origin: string, options: BrowserContextOptions = {}): Promise<Page> {
  const context = await browser.newContext({ locale: "en-GB", ...options });
  const page = await context.newPage();
  pages.push(page);
  page.on("console", (message) => complaints.push(message.text()));
  page.on("pageerror", ({ message }) => complaints.push(message));
  page.on("request", (request) => asked.push(request.url()));
  page.setDefaultTimeout(60_000);
  await page.goto(`${origin}/`);
  return page;
}

async function withMeter(args: string[], use: (meter: Meter) => Promise<void>) {
  const meter = await Meter.start(args);
  try {
    await use(meter);
  } finally {
    await meter.stop();
  }
}

const text = (page: Page, selector: string) =>
  page.$eval(selector, (element) => element.textContent ?? "");
const state = (page: Page) => page.$eval("#state", (element) => element.getAttribute("data-state"));
const live = (page: Page) => until("numbers", async () => (await state(page)) === "live");
/** A number on the page, digit for digit. */
const number = async (page: Page, id: string) => (await text(page, `#${id}`)).replaceAll(",", "");
/** The rows of a table, cell by cell. */
const table = (page: Page, id: string) =>
  page.$$eval(`#${id} tbody tr`, (rows) =>
    rows.map((row) => [...row.children].map((cell) => cell.textContent ?? "")),
  );

/** A program of this name that starts `count` times. */
function start(name: string, count: number): void {
  const path = join(directory, name);
  copyFileSync("/bin/true", path);
  sh(STORM, ["spawn", "1", String(count), path]);
}

/** The totals on the page, and how /metrics calls them. */
const TOTALS = {
  execve: /^execve_counter_attempts_total\{syscall="execve"\} (\d+)$/gm,
  execveat: /^execve_counter_attempts_total\{syscall="execveat"\} (\d+)$/gm,
  execs: /^execve_counter_execs_total\{.*\} (\d+)$/gm,
  failures: /^execve_counter_failures_total\{.*\} (\d+)$/gm,
};

test("during and after a storm of known size the page says what /metrics says", async () => {
  const name = uniqueName();
  await withMeter([...ALL, "--watch", name], async (meter) => {
    const page = await look(meter.origin);
    await live(page);
    const rates = [expect.anything(), expect.anything()];
    expect(await table(page, "watched")).toEqual([[name, ...rates, "0"]]);

    /** Compares what is shown with scrapes before and after: the host is never quiet. */
    const compare = async () => {
      const totals = async () => {
        const text = await meter.metrics();
        return Object.entries(TOTALS).map(([id, sample]) => {
          const values = [...text.matchAll(sample)].map(([, value]) => Number(value));
          return [id, values.reduce((sum, value) => sum + value, 0)] as const;
        });
      };
      const before = await totals();
      // The first may have been read before; the last may not be shown yet.
      for (let i = 0; i < 3; i++) await page.waitForResponse(/status$/);
      const shown = await Promise.all(before.map(([id]) => number(page, id)));
      const after = await totals();
      for (const [i, [, least]] of before.entries()) {
        expect(Number(shown[i])).toBeGreaterThanOrEqual(least);
        expect(Number(shown[i])).toBeLessThanOrEqual(after[i]?.[1] ?? 0);
      }
    };

    const path = join(directory, name);
    copyFileSync("/bin/true", path);
    const storms = [
      spawn(STORM, ["spawn", "1", "3000", path]),
      spawn(STORM, ["execveat", "1", "2000000"]),
      spawn(STORM, ["execve", "1", "1000000"]),
    ];
    const ends = storms.map((storm) => once(storm, "exit"));
    await compare();
    expect(await Promise.all(ends)).toEqual(ends.map(() => [0, null]));
    await until("the row", async () =>
      (await table(page, "busiest")).some((row) => row[0] === name && row.at(-1) === "3,000"),
    );
    await compare();
    expect((await table(page, "watched"))[0]?.at(-1)).toBe("3,000");
    // No other program calls it.
    const failed = await table(page, "failed");
    expect(failed.find(([syscall]) => syscall === "execveat")?.at(-1)).toBe("2,000,000");
    expect(complaints).toEqual([]);
  });
});

test("the page asks only the agent, and only for numbers", async () => {
  await withMeter([], async (meter) => {
    const page = await look(meter.origin);
    await live(page);
    await until("a few answers", () => asked.filter((url) => url.endsWith("/status")).length >= 3);
    const paths = new Set(asked.filter((url) => !url.startsWith("data:")));
    expect(paths).toEqual(
      new Set(["/", "/api/v1/history", "/api/v1/status"].map((path) => meter.origin + path)),
    );
  });
});

test("the chart moves, and tells of what was before the page was opened", async () => {
  const name = uniqueName();
  await withMeter(["--interval", "1s", "--failures"], async (meter) => {
    start(name, 50);
    await until("a printed line", () => meter.lines.length >= 4);
    const page = await look(meter.origin);
    await live(page);
    const label = () => page.$eval("#chart", (chart) => chart.getAttribute("aria-label") ?? "");
    const most = async () =>
      Number(/execs \S+ now, (\S+) at most/.exec(await label())?.[1]?.replaceAll(",", ""));
    const rate = await most();
    expect(rate).toBeGreaterThan(5);
    const before = await drawn(page, "execs");
    start(name, 3000);
    await until("a higher rate", async () => (await most()) > 2 * rate);
    expect(before).toBeGreaterThan(0);
    expect(await drawn(page, "execs")).not.toBe(before);
  });
});

/** How many pixels of the chart are of the colour that the legend gives a series. */
function drawn(page: Page, name: string): Promise<number> {
  return page.evaluate((series) => {
    const item = document.querySelector(`#legend [data-series=${series}]`) as Element;
    const canvas = document.querySelector("#chart canvas") as HTMLCanvasElement;
    const [red, green, blue] =
      getComputedStyle(item, "::before").borderTopColor.match(/\d+/g)?.map(Number) ?? [];
    const context = canvas.getContext("2d") as CanvasRenderingContext2D;
    const { data } = context.getImageData(0, 0, canvas.width, canvas.height);
    let count = 0;
    for (let i = 0; i < data.length; i += 4) {
      if (data[i] === red && data[i + 1] === green && data[i + 2] === blue) count++;
    }
    return count;
  }, name);
}

test("with a new meter in the place of the old one the page is live again, without reloading", async () => {
  const name = uniqueName();
  const meter = await Meter.start([...ALL, "--watch", name]);
  const page = await look(meter.origin);
  await live(page);
  await page.evaluate(() => Object.assign(window, { here: true }));
  start(name, 100);
  await until("the count", async () => (await table(page, "watched"))[0]?.at(-1) === "100");
  await meter.stop();
  await until("a word", async () => (await text(page, "#state")).includes("no answer since"));
  // The old numbers stay, and are marked as old.
  expect((await table(page, "watched"))[0]?.at(-1)).toBe("100");
  expect(await page.getAttribute("main", "data-stale")).toBe("true");

  const address = meter.origin.replace("http://", "");
  await withMeter([...ALL, "--watch", name, "--web.listen-address", address], async () => {
    await live(page);
    start(name, 10);
    await until("its count", async () => (await table(page, "watched"))[0]?.at(-1) === "10");
    expect(await page.evaluate(() => "here" in window)).toBe(true);
    const chart = await page.getAttribute("#chart", "aria-label");
    expect(chart).not.toContain("NaN");
  });
});

test("a failed read is reported, and the page is live again once a read works", async () => {
  await withMeter([], async (meter) => {
    const page = await look(meter.origin);
    await live(page);
    const map = ["id", String(meter.mapId)];
    sh(BPFTOOL, ["map", "delete", ...map, ...hexKey("execveat_counter")]);
    await until("a word", async () =>
      (await text(page, "#state")).includes("the key execveat_counter is gone"),
    );
    const zero = ["value", "hex", ..."00 ".repeat(8).trim().split(" ")];
    sh(BPFTOOL, ["map", "update", ...map, ...hexKey("execveat_counter"), ...zero]);
    await live(page);
  });
});

test("the filter and more rows ask the meter, of which no row is out of their reach", async () => {
  const names = Array.from({ length: 120 }, () => uniqueName());
  for (const [i, name] of names.entries())
    copyFileSync("/bin/true", join(directory, `${i}-${name}`.slice(0, 15)));
  await withMeter(["--by", "command,user,path"], async (meter) => {
    const page = await look(meter.origin);
    await live(page);
    for (const [i, name] of names.entries())
      sh(STORM, ["spawn", "1", `${i === 7 ? 1 : 3}`, join(directory, `${i}-${name}`.slice(0, 15))]);
    await until("the rows", async () => /25 of 1\d\d/.test(await text(page, "#busiest-note")));
    await page.keyboard.press("/");
    await page.keyboard.type(`${directory}/7-`.toUpperCase());
    await until("one row", async () => (await text(page, "#busiest-note")).includes(": 1 of 1"));
    expect((await table(page, "busiest")).map((row) => row.at(-1))).toEqual(["1"]);
    expect(await violations(page)).toEqual([]);
    await page.keyboard.press("Escape");
    await page.click("#more-rows");
    await until("more rows", async () => (await table(page, "busiest")).length === 100);
    await page.click("#more-rows");
    await until("all rows", async () => (await table(page, "busiest")).length > 120);
    expect(await page.isVisible("#more-rows")).toBe(false);
    expect(complaints).toEqual([]);
  });
});

test("a unit that has ended is in a line below the table", async () => {
  const groups = new Groups();
  try {
    const program = groups.program(uniqueName());
    await withMeter(["--by", "command,unit", "--retire-after", "1s"], async (meter) => {
      const page = await look(meter.origin);
      await live(page);
      groups.run(program, 23, "a.service");
      const row = async () => (await table(page, "busiest")).find(([name]) => name === program);
      await until("the row", async () => (await row())?.at(-1) === "23");
      expect((await row())?.[1]).toBe("a.service");
      groups.end("a.service");
      const said = /^[1-9]\d* rows? of ended containers and units retired, with [\d,]+ execs\.$/;
      await until("the line", async () => said.test(await text(page, "#retired")));
      expect(await row()).toBeUndefined();
      expect((await table(page, "busiest")).map(([name]) => name)).not.toContain("retired");
      expect(await violations(page)).toEqual([]);
    });
  } finally {
    groups.remove();
  }
});

test("a name with markup, or worse, is text", async () => {
  const names = ["<b>bold", "<img src=x>", "&lt;u&gt;", "a\nb\u202ec", "\x1b[2J"];
  await withMeter(["--by", "command", "--watch", names.slice(0, 3).join()], async (meter) => {
    for (const name of names) start(name, 50);
    const page = await look(meter.origin);
    const shown = [...names.slice(0, 3), "a\\u{a}b\\u{202e}c", "\\u{1b}[2J"];
    await until("the rows", async () => {
      const found = (await table(page, "busiest")).map(([command]) => command);
      return shown.every((name) => found.includes(name));
    });
    expect((await table(page, "watched")).map(([command]) => command).sort()).toEqual(
      shown.slice(0, 3).sort(),
    );
    expect(await page.$$("main b, main img")).toEqual([]);
    expect(complaints).toEqual([]);
  });
});

test("a count of 64 bits is shown to the last digit", async () => {
  await withMeter([], async (meter) => {
    const page = await look(meter.origin);
    await live(page);
    const value = ["value", "hex", ..."fe ff ff ff ff ff ff ff".split(" ")];
    sh(BPFTOOL, [
      "map",
      "update",
      "id",
      String(meter.mapId),
      ...hexKey("execveat_counter"),
      ...value,
    ]);
    await until("the count", async () => (await number(page, "execveat")) === `${2n ** 64n - 2n}`);
  });
});

test.each([
  ["light", { colorScheme: "light" }],
  ["dark", { colorScheme: "dark" }],
  ["on a phone", { viewport: { width: 360, height: 740 }, hasTouch: true }],
] as const)(
  "axe finds nothing against the page %s, with every table and with none",
  async (_, options) => {
    const name = uniqueName();
    for (const args of [
      [...ALL, "--watch", name],
      ["--attempts", "off"],
    ]) {
      const meter = await Meter.start(args);
      const page = await look(meter.origin, options);
      await live(page);
      start(name, 10);
      await sleep(2200); // a rate of now
      expect(await violations(page)).toEqual([]);
      expect(
        await page.evaluate(() => document.documentElement.scrollWidth - innerWidth),
      ).toBeLessThanOrEqual(0);
      await meter.stop();
      await until("a word", async () => (await state(page)) === "lost");
      expect(await violations(page)).toEqual([]);
    }
  },
);

async function violations(page: Page): Promise<string[]> {
  const found = await page.evaluate(`(() => { ${AXE} })(); axe.run()`);
  const { violations } = found as { violations: { id: string; nodes: { html: string }[] }[] };
  return violations.map(({ id, nodes }) => `${id}: ${nodes.map(({ html }) => html).join(" ")}`);
}

test("the keyboard reaches all there is: pause, orders, tables, links", async () => {
  await withMeter(ALL, async (meter) => {
    start(uniqueName(), 50);
    const page = await look(meter.origin);
    await live(page);
    await until("rows", async () => (await table(page, "busiest")).length > 0);
    const stops: string[] = [];
    for (let i = 0; i < 40; i++) {
      await page.keyboard.press("Tab");
      stops.push(
        await page.evaluate(() => {
          const { activeElement: at } = document;
          return at?.id || at?.getAttribute("aria-labelledby") || at?.textContent || "";
        }),
      );
    }
    expect(stops).toEqual(
      expect.arrayContaining(["pause", "busiest-title", "now /s", "total", "metrics"]),
    );

    const orders = () =>
      page.$$eval("#busiest th[aria-sort]", (cells) =>
        cells.map((cell) => cell.getAttribute("aria-sort")),
      );
    expect(await orders()).toEqual(["none", "descending", "none"]);
    await page.focus("#busiest th:last-child button");
    await page.keyboard.press("Enter");
    expect(await orders()).toEqual(["none", "none", "descending"]);
    const totals = (await table(page, "busiest")).map((row) =>
      Number(row.at(-1)?.replaceAll(",", "")),
    );
    expect(totals).toEqual([...totals].sort((a, b) => b - a));

    await page.focus("#pause");
    await page.keyboard.press("Space");
    expect(await state(page)).toBe("paused");
    // Its orders are there all the same.
    await page.click("#busiest th:nth-last-child(3) button");
    expect(await orders()).toEqual(["descending", "none", "none"]);
    const still = [await number(page, "execs"), asked.length];
    start(uniqueName(), 50);
    await sleep(2500);
    expect([await number(page, "execs"), asked.length]).toEqual(still);
    await page.focus("#pause");
    await page.keyboard.press("Space");
    await live(page);
    expect(Number(await number(page, "execs"))).toBeGreaterThanOrEqual(Number(still[0]) + 50);
  });
});

test("a hidden page asks for nothing, and knows all when it is seen again", async () => {
  await withMeter(["--interval", "1s"], async (meter) => {
    const page = await look(meter.origin);
    await live(page);
    const hide = (hidden: boolean) =>
      page.evaluate((value) => {
        Object.defineProperty(document, "hidden", { value, configurable: true });
        document.dispatchEvent(new Event("visibilitychange"));
      }, hidden);
    await hide(true);
    await sleep(1500); // what was under way
    const before = asked.length;
    start(uniqueName(), 500);
    await sleep(3000);
    expect(asked.length).toBe(before);
    await hide(false);
    await until("the numbers", () => asked.length > before + 1);
    expect(asked.slice(before)).toContain(`${meter.origin}/api/v1/history`);
  });
});

test("however often it is paused and let go, it asks once a second", async () => {
  await withMeter([], async (meter) => {
    const page = await look(meter.origin);
    await live(page);
    await page.evaluate(() => {
      const button = document.getElementById("pause") as HTMLButtonElement;
      for (let i = 0; i < 20; i++) button.click();
    });
    await live(page);
    await sleep(1500);
    const before = asked.length;
    const start = performance.now();
    await sleep(3000);
    await until("a question", () => asked.length > before);
    const seconds = (performance.now() - start) / 1000;
    expect(asked.length - before).toBeLessThanOrEqual(seconds + 1);
    // What was asked before the pause is not shown in it.
    await page.evaluate(() => {
      const button = document.getElementById("pause") as HTMLButtonElement;
      for (let i = 0; i < 3; i++) button.click();
    });
    await sleep(1500);
    expect(await state(page)).toBe("paused");
  });
});

test("a total that fell, because another process edits the maps, is reported for as long as it may be wrong", async () => {
  await withMeter([], async (meter) => {
    const page = await look(meter.origin);
    await live(page);
    expect(await text(page, "#doubts")).toBe("Exact: the kernel skipped no runs.");
    sh(STORM, ["execve", "1", "50000"]);
    await until("a count", async () => Number(await number(page, "execve")) > 50_000);
    const zero = ["value", "hex", ..."00 ".repeat(8).trim().split(" ")];
    sh(BPFTOOL, ["map", "update", "id", String(meter.mapId), ...hexKey("execve_counter"), ...zero]);
    await until("a word", async () => /execve fell from \d+ to/.test(await text(page, "#doubts")));
    await sleep(2500);
    expect(await text(page, "#doubts")).toMatch(
      /^execve fell from \d+ to \d+: another process edits/,
    );
  });
});

test("without JavaScript it says where the numbers are", async () => {
  await withMeter(["--web.telemetry-path", "/elsewhere"], async (meter) => {
    const page = await look(meter.origin, { javaScriptEnabled: false });
    expect(await page.locator("noscript a").allTextContents()).toEqual([
      "elsewhere",
      "api/v1/counts",
    ]);
    await page.click("noscript a");
    expect(await page.content()).toContain("execve_counter_attempts_total");
  });
});
