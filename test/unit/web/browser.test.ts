import type { Browser, BrowserContextOptions, Page } from "playwright-core";
import { afterAll, afterEach, beforeAll, beforeEach, expect, test } from "vitest";
import type { Past, Row, Status } from "../../../src/web/status.ts";
import { openBrowser } from "../../support/browser.mjs";
import { projectPath } from "../../support/files.ts";
import { until } from "../../support/meter.ts";

const { readPage } = (await import(
  projectPath("dist/web/document.js")
)) as typeof import("../../../src/web/document.ts");
const { html, policy } = readPage("/metrics");
const ORIGIN = "http://meter.test";
const START = "2026-11-23T04:00:00.000Z";

let browser: Browser;
beforeAll(async () => {
  browser = await openBrowser();
}, 120_000);
afterAll(() => browser.close());

/** What the meter says next. */
let status: Status<number>;
let past: Past<number>;
/** Whether its counts go on as the history's. */
let growing: boolean;
/** Says something else instead. */
let instead: { status?: number; body?: string; contentType?: string } | "nothing" | undefined;
let asked: string[];
/** What the page has wanted of each status. */
let queries: string[];
let page: Page;

const row = (labels: Row<number>["labels"], count: number, second: number, minute: number) => ({
  ...{ labels, count, second, minute },
});

beforeEach(() => {
  asked = [];
  queries = [];
  instead = undefined;
  growing = false;
  const clock = Date.parse("2026-11-23T04:50:00.000Z");
  past = {
    start_time: START,
    samples: Array.from({ length: 300 }, (_, i) => ({
      clock: clock - 300_000 + i * 1000,
      ...{ attempts: i * 100, execs: i * 70, failures: i * 30 },
    })),
  };
  status = {
    ...{ version: "1.2.3", host: "machine", time: new Date(clock).toISOString(), clock },
    ...{ start_time: START, execve_counter: 4_001, attempts: { execve: 4_001, execveat: 302 } },
    ...{ execs: 2_003, failures: 2_304, doubts: [], by: ["command", "container"], minute: 60.2 },
    rows: [
      row({ command: "sh", container: "" }, 1_500, 3, 20),
      row({ command: "nc", container: "0123456789abcdef".repeat(4) }, 500, 7.25, 10),
      row({ command: "other", container: "other" }, 3, 0, 0),
    ],
    ...{ filter: "", found_rows: 77, all_rows: 77, retired: null, found_watched: 1 },
    failed: [row({ syscall: "execve", errno: "ENOENT" }, 2_304, 30, 31)],
    watched: [row({ command: "curl" }, 12, 1, 2)],
    all_watched: 1,
    programs: [{ name: "count_exec", hook: "tp_btf/sched_process_exec", id: 117 }],
    tables: [{ name: "execs", entries: 77, capacity: 1024 }],
    seconds: 0.001,
  };
});
afterEach(() => page.context().close());

/** Waits for a few seconds, in which it goes on asking. */
async function askedOncePerSecond(): Promise<void> {
  const before = asked.length;
  const start = performance.now();
  await page.waitForTimeout(3000);
  await until("a question", () => asked.length > before);
  const seconds = (performance.now() - start) / 1000;
  expect(asked.length - before).toBeLessThanOrEqual(seconds + 1);
}

/** The page of a meter that says what it is told to; time goes on by a second with each answer. */
async function look(options: BrowserContextOptions = {}, url = `${ORIGIN}/`): Promise<void> {
  const context = await browser.newContext({ locale: "en-GB", timezoneId: "UTC", ...options });
  page = await context.newPage();
  await page.route("**/*", (route) => {
    const { pathname, search } = new URL(route.request().url());
    asked.push(pathname);
    if (pathname.endsWith("/status")) queries.push(search);
    if (!pathname.includes("/api/")) {
      const headers = { "content-security-policy": policy };
      return route.fulfill({ contentType: "text/html", body: html, headers });
    }
    if (instead === "nothing") return route.abort();
    if (instead) return route.fulfill(instead);
    if (pathname.endsWith("/history")) return route.fulfill({ json: past });
    status = { ...status, clock: status.clock + 1000 };
    status.time = new Date(Date.parse(status.time) + 1000).toISOString();
    if (growing) {
      const i = (status.clock - (past.samples[0]?.clock ?? 0)) / 1000;
      const attempts = { execve: i * 100, execveat: 0 };
      status = { ...status, attempts, execs: i * 70, failures: i * 30 };
    }
    return route.fulfill({ json: status });
  });
  await page.goto(url);
}

const text = (selector: string) => page.$eval(selector, (node) => node.textContent ?? "");
const state = () => text("#state");
const says = (what: RegExp) => until(`${what}`, async () => what.test(await state()), 15_000);
const live = () => says(/^live/);
const cells = (selector: string) =>
  page.$$eval(`${selector} tr`, (rows) =>
    rows.map((row) => [...row.children].map((cell) => cell.textContent)),
  );
const chart = async () => (await page.getAttribute("#chart", "aria-label")) ?? "";
/** Waits for that many answers from now on. */
async function answers(count: number): Promise<void> {
  const before = asked.length;
  await until("answers", () => asked.length >= before + count, 20_000);
}

test("what the meter says is what the page shows, each in its place", async () => {
  await look();
  await live();
  expect(await page.title()).toBe("machine: execve-counter");
  expect(await text("h1")).toBe("execve-counter on machine");
  expect(await text("#since")).toBe("23 Nov 2026, 04:00:00 UTC");
  expect(await page.getAttribute("#since", "datetime")).toBe(START);
  const totals = await page.$$eval("#totals dd", (nodes) => nodes.map((node) => node.textContent));
  expect(totals).toEqual(["4,001", "302", "2,003", "2,304"]);
  expect(await text("#doubts")).toBe("Exact: the kernel skipped no runs.");
  expect(await text("#busiest-note")).toBe("By command, container: 3 of 77.");
  const rates = ["now /s", "1 min /s", "total"];
  expect(await cells("#busiest")).toEqual([
    ["command", "container", ...rates],
    ["sh", "none", "3", "20", "1,500"],
    ["nc", "0123456789ab", "7.3", "10", "500"],
    ["other", "other", "0", "0", "3"],
  ]);
  expect(await page.getAttribute("#busiest td[title]:not([title=''])", "title")).toHaveLength(64);
  expect(await cells("#watched")).toEqual([
    ["command", ...rates],
    ["curl", "1", "2", "12"],
  ]);
  expect(await cells("#failed")).toEqual([
    ["syscall", "errno", ...rates],
    ["execve", "ENOENT", "30", "31", "2,304"],
  ]);
  expect(await cells("#programs")).toEqual([
    ["program", "attached to", "id"],
    ["count_exec", "tp_btf/sched_process_exec", "117"],
  ]);
  expect(await text("#tables")).toBe("execs: 77 of 1,024 entries");
  expect(await text("#version")).toBe("1.2.3");
  // Ordered by what is asked for.
  for (const [column, first] of [
    ["now /s", "nc"],
    ["total", "sh"],
  ]) {
    await page.click(`#busiest button:text-is("${column}")`);
    expect((await cells("#busiest"))[1]?.[0]).toBe(first);
  }
  // A screen reader is told the state, and only that.
  expect(await page.$$eval("[role=status], [aria-live], output", (nodes) => nodes.length)).toBe(1);
  expect(await page.getAttribute("#pause", "aria-pressed")).toBe("false");
  await page.click("#pause");
  expect(await page.getAttribute("#pause", "aria-pressed")).toBe("true");
  expect(await page.getAttribute("main", "data-stale")).toBe("true");
});

test("the chart's rates are those of its samples, whatever is done to the clock on the wall", async () => {
  growing = true;
  await look();
  await live();
  const steady =
    "Per second: attempts 100 now, 100 at most; execs 70 now, 70 at most; failures 30 now, 30 at most";
  expect(await chart()).toBe(steady);
  for (const jump of [-400, 300_000, -3_600_000]) {
    status.time = new Date(Date.parse(status.time) + jump).toISOString();
    await until("the legend", async () =>
      (await text("#legend li:last-child")).includes(status.time.slice(14, 19)),
    );
    expect(await chart()).toBe(steady);
  }
  const box = await page.locator("#chart canvas").boundingBox();
  await page.mouse.move((box?.x ?? 0) + 300, (box?.y ?? 0) + 50);
  await until("what is there", async () => {
    const shown = await text("#legend");
    return shown.includes("attempts 100execs 70") && !shown.includes(status.time.slice(14, 19));
  });
});

test("a meter with other flags is shown as what it is, and the page never reloads for it", async () => {
  const all = { ...status };
  Object.assign(status, {
    attempts: null,
    by: [],
    rows: [],
    all_rows: 0,
    all_watched: 0,
    watched: [],
  });
  await look();
  await live();
  const legend = () =>
    page.$$eval("#legend li[data-series]", (nodes) =>
      nodes.map((node) => node.getAttribute("data-series")),
    );
  expect(await legend()).toEqual(["execs", "failures"]);
  expect(await text("#execve")).toBe("not counted");
  expect(await page.isVisible("#busiest")).toBe(false);
  expect(await text("#busiest-note")).toContain("--by");

  const begun = { start_time: "2026-11-23T04:49:00.000Z", failures: null, failed: [] };
  status = { ...all, clock: status.clock, time: status.time, ...begun };
  await says(/^live; the counts began anew at \d\d:\d\d:\d\d$/);
  expect(await legend()).toEqual(["attempts", "execs"]);
  expect(await text("#failures")).toBe("not counted");
  expect((await cells("#busiest"))[1]?.[0]).toBe("sh");
  await answers(2);
  expect(await state()).toMatch(/^live; the counts began anew/);
  expect(asked.filter((path) => path === "/")).toHaveLength(1);
});

test("the key / goes to the filter, which looks among all rows of the meter, and Escape clears it", async () => {
  await look();
  await live();
  expect(queries).toEqual([""]);
  await page.keyboard.press("/");
  expect(await page.evaluate(() => document.activeElement?.id)).toBe("filter");
  // At once among the rows that are there.
  instead = "nothing";
  await page.keyboard.type("S");
  expect((await cells("#busiest")).map(([name]) => name)).toEqual(["command", "sh"]);
  expect(await text("#busiest-note")).toContain(
    ": 1 with “S” among those shown before; looking at the others.",
  );
  await page.keyboard.type("/&");
  instead = undefined;
  const found = row({ command: "x", container: "S/&" }, 5, 1, 1);
  Object.assign(status, {
    filter: "S/&",
    rows: [found],
    found_rows: 1,
    watched: [],
    found_watched: 0,
  });
  await until("the row", async () => (await cells("#busiest"))[1]?.[0] === "x");
  expect(queries.at(-1)).toBe("?filter=S%2F%26");
  expect(await text("#busiest-note")).toBe("By command, container: 1 of 77 with “S/&”.");
  expect(await text("#watched-note")).toBe("By command: none of 1 with “S/&”.");

  Object.assign(status, { filter: "", found_rows: 77 });
  await page.keyboard.press("Escape");
  expect(await page.inputValue("#filter")).toBe("");
  await until("all rows", async () => queries.at(-1) === "");
  await page.keyboard.press("Escape");
  expect(await page.evaluate(() => document.activeElement?.id)).not.toBe("filter");
  // What is said of text that a person chose is text, too.
  await page.fill("#filter", "<b>\u202e");
  expect(await text("#busiest-note")).toContain("“<b>\\u{202e}”");
});

test("letters are asked for together, and as rarely as the meter can bear", async () => {
  status.seconds = 0.2;
  await look();
  await until("numbers", async () => (await state()).startsWith("live"));
  await page.focus("#filter");
  const before = queries.length;
  const start = performance.now();
  await page.keyboard.type("abc", { delay: 100 });
  await until("a question", () => queries.length > before);
  expect(queries.slice(before)).toEqual(["?filter=abc"]);
  expect(performance.now() - start).toBeGreaterThan(2000);
});

test("a button shows more rows, twice, and the page goes on with them", async () => {
  const many = Array.from({ length: 300 }, (_, i) =>
    row({ command: `c${i}`, container: "" }, 300 - i, 1, 1),
  );
  Object.assign(status, { rows: many.slice(0, 75), found_rows: 300, all_rows: 300 });
  await look();
  await live();
  const count = async () => (await cells("#busiest")).length - 1;
  expect(await count()).toBe(25);
  expect(await text("#busiest-note")).toBe("By command, container: 25 of 300.");
  expect(await page.isVisible("#more-watched")).toBe(false);
  status.rows = many;
  for (const [most, next] of [
    [100, "Show 250"],
    [250, undefined],
  ] as const) {
    await page.focus("#more-rows");
    await page.keyboard.press("Enter");
    await until("more", async () => (await count()) === most);
    expect(queries.at(-1)).toBe(`?rows=${most}`);
    expect(await page.isVisible("#more-rows")).toBe(next !== undefined);
    if (next) expect(await text("#more-rows")).toBe(next);
  }
  // The keyboard is still where it was.
  const at = await page.evaluate(() => document.activeElement?.getAttribute("aria-labelledby"));
  expect(at).toBe("busiest-title");
  await answers(2);
  expect(queries.at(-1)).toBe("?rows=250");
  expect(await count()).toBe(250);
});

test("rows that retired are one line below the table", async () => {
  await look();
  await live();
  expect(await page.isVisible("#retired")).toBe(false);
  status.retired = { rows: 4, execs: 1234 };
  const said = "4 rows of ended containers and units retired, with 1,234 execs.";
  await until("the line", async () => (await text("#retired")) === said);
  expect(await page.isVisible("#retired")).toBe(true);
  status.retired = { rows: 1, execs: 1 };
  await until("one", async () => (await text("#retired")).startsWith("1 row of"));
});

test("what is watched comes before what is busiest; where nothing is, a word how to", async () => {
  await look();
  await live();
  const titles = async () => {
    const shown = page.locator("main h2:visible");
    return (await shown.allTextContents()).slice(2, 4);
  };
  expect(await titles()).toEqual(["Watched", "Busiest"]);
  Object.assign(status, { watched: [], found_watched: 0, all_watched: 0 });
  await until("nothing", async () => (await titles())[0] === "Busiest");
  expect(await page.locator("#unwatched p").textContent()).toContain("watch add");
  expect(await page.isVisible("#unwatched")).toBe(true);
});

test.each([360, 1000])(
  "a long path shows its end, and the numbers, %d pixels wide",
  async (width) => {
    const path = `…/${"some/where/".repeat(10)}the-end`;
    const labels = {
      ...{ command: "execve-counter", unit: `docker-${"0a".repeat(32)}.scope`, path },
      ...{ user: "www-data", container: "0a".repeat(32), parent: "bash" },
    };
    status.by = Object.keys(labels);
    status.rows = [row(labels, 1, 1, 1)];
    await look({ viewport: { width, height: 800 } });
    await live();
    expect(await page.evaluate(() => document.documentElement.scrollWidth)).toBeLessThanOrEqual(
      width,
    );
    /** Whether the first and the last letter of a cell are inside of it. */
    const ends = (selector: string) =>
      page.$eval(selector, (cell) => {
        const node = cell.querySelector("bdi")?.firstChild as Text;
        const box = cell.getBoundingClientRect();
        return [0, node.length - 1].map((at) => {
          const range = document.createRange();
          range.setStart(node, at);
          range.setEnd(node, at + 1);
          const { left, right } = range.getBoundingClientRect();
          return left >= box.left - 1 && right <= box.right + 1;
        });
      });
    expect(await ends("#busiest td.path")).toEqual([false, true]);
    expect(await ends("#busiest td:nth-child(2)")).toEqual([true, false]);
    expect(await page.getAttribute("#busiest td.path", "title")).toBe(path);
    const table = await page.locator("#busiest").boundingBox();
    expect(table?.width).toBeLessThanOrEqual(width === 360 ? 900 : 1000 - 32);
  },
);

test("a rate over less than a minute is called what it is", async () => {
  status.minute = 12.3;
  await look();
  await live();
  expect((await cells("#busiest"))[0]).toEqual([
    "command",
    "container",
    "now /s",
    "12 s /s",
    "total",
  ]);
  status.minute = 57;
  await until("a minute", async () => (await cells("#failed"))[0]?.includes("1 min /s") ?? false);
});

test("another build's meter gets its own page", async () => {
  await look();
  await live();
  status.version = "1.2.4";
  await until("another page", () => asked.filter((path) => path === "/").length === 2);
  await page.waitForSelector("[data-state=live]");
});

test("an agent that comes back to pinned counts takes nothing from the chart", async () => {
  await look();
  await live();
  await answers(2);
  const before = await chart();
  instead = "nothing";
  await says(/^no answer since \d\d:\d\d:\d\d \(no connection\); trying again$/);
  past.samples = [];
  instead = undefined;
  await live();
  // What was highest is long ago.
  expect(await chart()).toContain(/execs \S+ now, (\S+) at most/.exec(before)?.[0].split(", ")[1]);
  const width = await page.evaluate(() => document.getElementById("legend")?.textContent);
  expect(width).not.toContain("NaN");
});

test.each([
  [{ status: 502, contentType: "text/html", body: `<h1>${"x".repeat(1e6)}</h1>` }, "status 502"],
  [
    { status: 503, contentType: "text/plain", body: "cannot read: EPERM\nmore\n" },
    "cannot read: EPERM",
  ],
  [{ status: 503, contentType: "text/plain", body: "x".repeat(1e6) }, "x".repeat(200)],
  [{ contentType: "application/json", body: "{}" }, "the answer is not from execve-counter"],
  [{ contentType: "application/json", body: "null" }, "the answer is not from execve-counter"],
  [{ contentType: "text/html", body: "<p>log in" }, "the answer is not from execve-counter"],
])("a bad answer is reported in one line, and the page asks once a second", async (answer, why) => {
  await look();
  await live();
  instead = answer;
  await until("a word", async () => (await state()).includes(`(${why}); trying again`));
  await askedOncePerSecond();
});

test.each([
  [0.05, "live, every 10 seconds"],
  [0.3, "live, every 30 seconds"],
  [30_000, "live, every 30 seconds"],
])(
  "a meter that took %s s is asked two hundred times as rarely, which is said",
  async (seconds, said) => {
    status.seconds = seconds;
    await look();
    await until("a word", async () => (await state()) === said);
    const before = asked.length;
    await page.waitForTimeout(2000);
    expect(asked.length).toBe(before);
  },
);

test("without the time that the answer took, the page asks once a second", async () => {
  Reflect.deleteProperty(status, "seconds");
  await look();
  await live();
  await askedOncePerSecond();
});

test("it works behind a password in the address, and below another path", async () => {
  await look({}, "http://user:secret@meter.test/some/where/");
  await live();
  expect(asked).toContain("/some/where/api/v1/status");
});

test.each([
  ["light", { colorScheme: "light" }],
  ["dark", { colorScheme: "dark" }],
  ["with forced colours", { forcedColors: "active" }],
] as const)("the lines of the chart can be told apart, %s", async (_, options) => {
  await look(options);
  await live();
  const swatches = await page.$$eval("#legend [data-series]", (nodes) =>
    nodes.map((node) => {
      const { borderTopColor, borderTopStyle } = getComputedStyle(node, "::before");
      return [borderTopColor, borderTopStyle];
    }),
  );
  expect(swatches).toHaveLength(3);
  for (const each of [0, 1]) expect(new Set(swatches.map((swatch) => swatch[each])).size).toBe(3);
});

test("the chart is drawn anew in other colours, and in another size", async () => {
  await look({ colorScheme: "light" });
  await live();
  await page.click("#pause");
  const picture = () => page.locator("#chart").screenshot();
  const light = await picture();
  await page.emulateMedia({ colorScheme: "dark" });
  await until("dark", async () => !(await picture()).equals(light));
  const colour = await page.$eval("#chart canvas", (canvas) => {
    const { data } = (
      (canvas as HTMLCanvasElement).getContext("2d") as CanvasRenderingContext2D
    ).getImageData(0, 0, 2000, 500);
    const found = new Set<string>();
    for (let i = 0; i < data.length; i += 4) {
      if (data[i + 3] === 255) found.add(`rgb(${data[i]}, ${data[i + 1]}, ${data[i + 2]})`);
    }
    return [...found];
  });
  const swatch = await page.$eval(
    "#legend [data-series=execs]",
    (node) => getComputedStyle(node, "::before").borderTopColor,
  );
  expect(colour).toContain(swatch);
  await page.setViewportSize({ width: 400, height: 700 });
  await until("a narrow one", async () => {
    const box = await page.locator("#chart canvas").boundingBox();
    return box !== null && box.width < 400;
  });
});

test("a name as long as there are does not make the page wider than a phone", async () => {
  status.host = `${"a-long-label-of-a-name.".repeat(5)}example.org`;
  status.doubts = [`execve fell from ${"9".repeat(40)} to 0: another process edits the maps`];
  await look({ viewport: { width: 320, height: 640 } });
  await live();
  expect(await text("#doubts")).toBe(status.doubts[0]);
  expect(await page.evaluate(() => document.documentElement.scrollWidth)).toBeLessThanOrEqual(320);
});

test("names, the host and doubts do nothing but show", async () => {
  status.host = "\u202eenihcam\u3164";
  status.doubts = ["a\u202eb\u034fc"];
  status.rows = [row({ command: "\u202ehs\u3164\x1b", container: "" }, 1, 1, 1)];
  await look();
  await live();
  expect(await text("#host")).toBe("on \\u{202e}enihcam\\u{3164}");
  expect(await page.title()).toContain("\\u{202e}enihcam\\u{3164}");
  expect(await text("#doubts")).toBe("a\\u{202e}b\\u{34f}c");
  expect(await text("#busiest td")).toBe("\\u{202e}hs\\u{3164}\\u{1b}");
});
