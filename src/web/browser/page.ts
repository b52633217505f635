/** The page's script: asks the agent for the counts, and shows them. */
import type UPlot from "uplot";
import { finder, visible } from "../../base/text.ts";
import type { Past, Row, Status } from "../status.ts";
import { ask } from "./ask.ts";
import { makeChart, type Name, type Points, SERIES } from "./chart.ts";
import { type Count, clock, digits, element, make, perSecond, setText, spelled } from "./dom.ts";

/** Milliseconds between two requests, at least and at most. */
const POLL_MIN_MS = 1000;
const POLL_MAX_MS = 30_000;
/**
 * The share of the agent's time that answers may take, by their own measure. Sending them and
 * collecting the garbage can double it, and a page is to take a hundredth at most.
 */
const MAX_METER_SHARE = 0.005;
/** Milliseconds that the chart goes back: at most, and at least. */
const CHART_MAX_MS = 600_000;
const CHART_MIN_MS = 60_000;
/** Rows of a table that are shown: at first, and each time that more are asked for. */
const STEPS = [25, 100, 250] as const;
/**
 * Another text in the filter is asked for out of turn: after so many ms without another letter,
 * or so many times as long as the last answer took, so that typing takes a tenth of the agent's
 * time at most.
 */
const TYPING_MS = 250;
const TYPING_METER_TIMES = 10;
/** A value of a label that may be cut. */
const LONG_CHARS = 12;
/** Milliseconds for which the page says that the counts began anew. */
const NEWS_MS = 60_000;

interface Sample extends Record<Name, Count | null> {
  /** Milliseconds since 1970, by a clock that is not set. */
  clock: number;
  /** When its counts began: counts of another start are not comparable. */
  start: string;
}

type Order = "second" | "minute" | "count";
const ORDERS: Record<Order, string> = { second: "now /s", minute: "1 min /s", count: "total" };

let samples: Sample[] = [];
let last: Status<Count> | undefined;
let order: Order = "minute";
/** How many rows of each table are shown, and the text that they contain. */
const most: Record<"rows" | "watched", number> = { rows: STEPS[0], watched: STEPS[0] };
let filter = "";
let paused = false;
/** Whether the agent may have samples that the page has not asked for. */
let behind = true;
/** From the samples' clock to the one on the wall, in milliseconds. */
let offset = 0;
/** When another meter answered for the first time. */
let anew: Date | undefined;
/** When the agent stopped answering. */
let lost: Date | undefined;
let timer: ReturnType<typeof setTimeout> | undefined;
/** The number of the latest request: an answer to an older one comes too late. */
let turn = 0;
let chart: UPlot | undefined;
/** Rates by series, as the chart has them. */
let points: Points = [[]];

/** Asks now, and then again and again for as long as the page is visible. */
async function poll(): Promise<void> {
  clearTimeout(timer);
  const mine = ++turn;
  if (paused || document.hidden) {
    behind = true;
    return;
  }
  let wait = POLL_MIN_MS;
  try {
    const before = behind ? await past() : samples;
    const status: Status<Count> = await ask(`api/v1/status${query()}`);
    if (mine !== turn) return;
    // Another build's answers are for another build's page.
    if (last && last.version !== status.version) return location.reload();
    if (last && last.start_time !== status.start_time) anew = new Date();
    samples = before;
    take(status);
    last = status;
    show(status);
    behind = false;
    lost = undefined;
    wait = Math.min(
      POLL_MAX_MS,
      Math.max(POLL_MIN_MS, (status.seconds * 1000) / MAX_METER_SHARE || 0),
    );
    const pace = wait >= 2 * POLL_MIN_MS ? `, every ${Math.round(wait / 1000)} seconds` : "";
    const fresh = anew && Date.now() - anew.getTime() < NEWS_MS ? anew : undefined;
    setState("live", `live${pace}${fresh ? `; the counts began anew at ${clock(fresh)}` : ""}`);
  } catch (error) {
    if (mine !== turn) return;
    behind = true;
    lost ??= new Date();
    setState("lost", `no answer since ${clock(lost)} (${(error as Error).message}); trying again`);
  }
  timer = setTimeout(poll, wait);
}

/** What the page wants of the meter, where that is not what every page gets at first. */
function query(): string {
  const wanted = new URLSearchParams();
  if (filter !== "") wanted.set("filter", filter);
  for (const [name, number] of Object.entries(most)) {
    if (number !== STEPS[0]) wanted.set(name, `${number}`);
  }
  return wanted.size > 0 ? `?${wanted}` : "";
}

/** The samples from while the page did not ask, after older ones, also those of earlier meters. */
async function past(): Promise<Sample[]> {
  const { start_time, samples: found }: Past<Count> = await ask("api/v1/history");
  const first = found[0]?.clock ?? Number.POSITIVE_INFINITY;
  const before = samples.filter(({ clock }) => clock < first);
  return [...before, ...found.map((sample) => ({ ...sample, start: start_time }))];
}

function take({ time, clock: now, start_time, attempts, execs, failures }: Status<Count>): void {
  const sum = attempts && BigInt(attempts.execve) + BigInt(attempts.execveat);
  offset = Date.parse(time) - now;
  samples = samples.filter(({ clock }) => clock > now - CHART_MAX_MS && clock < now);
  // Two samples too close together give no rate.
  if (now - (samples.at(-1)?.clock ?? 0) > POLL_MIN_MS / 2) {
    samples.push({ clock: now, start: start_time, attempts: sum, execs, failures });
  }
  points = ratesOf(samples);
}

/** Rates by series: level from one sample to the next, with a gap where a meter ends. */
function ratesOf(all: readonly Sample[]): Points {
  const spans = all.slice(1).map((to, i) => [all[i] as Sample, to] as const);
  const rate = (name: Name, [from, to]: (typeof spans)[number]) => {
    const seconds = (to.clock - from.clock) / 1000;
    if (from.start !== to.start || from[name] === null || to[name] === null) return null;
    return Math.max(0, Number(BigInt(to[name]) - BigInt(from[name])) / seconds);
  };
  return [
    spans.flatMap(([from, to]) => [from.clock / 1000, to.clock / 1000]),
    ...SERIES.map((name) => spans.flatMap((span) => [rate(name, span), rate(name, span)])),
  ];
}

function setState(state: "live" | "paused" | "lost", text: string): void {
  element("state").dataset.state = state;
  setText(element("state"), text);
  element("main").dataset.stale = String(state !== "live");
}

function show(status: Status<Count>): void {
  element("main").hidden = false;
  document.title = `${visible(status.host)}: execve-counter`;
  setText(element("host"), `on ${visible(status.host)}`);
  setText(element("version"), status.version);
  const since = element<HTMLTimeElement>("since");
  since.dateTime = status.start_time;
  const words = { dateStyle: "medium", timeStyle: "long" } as const;
  setText(since, new Date(status.start_time).toLocaleString([], words));

  setText(element("execve"), digits(status.attempts?.execve ?? null));
  setText(element("execveat"), digits(status.attempts?.execveat ?? null));
  setText(element("execs"), digits(status.execs));
  setText(element("failures"), digits(status.failures));
  showDoubts(status.doubts);

  // The meter was asked before the last letter: what it said is looked through meanwhile.
  const has = finder(filter);
  const rows = status.rows.filter(({ labels }) => has(labels));
  const watched = status.watched.filter(({ labels }) => has(labels));
  setText(
    element("busiest-note"),
    status.by.length === 0
      ? "Not broken down: start the meter with --by command,user,container."
      : `By ${status.by.join(", ")}${extent("rows", rows, status.found_rows, status.all_rows)}.`,
  );
  showRows(element("busiest"), status.by, rows, most.rows);
  showMore("rows", status.found_rows);
  showRetired(status.retired);
  element("watched-section").hidden = status.all_watched === 0;
  element("unwatched").hidden = status.all_watched > 0;
  const names = extent("watched", watched, status.found_watched, status.all_watched);
  setText(element("watched-note"), names && `By command${names}.`);
  showRows(element("watched"), ["command"], watched, most.watched);
  showMore("watched", status.found_watched);
  setText(
    element("failed-note"),
    status.failures === null
      ? "Not counted: start the meter with --failures."
      : status.failed.length === 0
        ? "None."
        : "",
  );
  showRows(element("failed"), status.failed.length > 0 ? ["syscall", "errno"] : [], status.failed);

  showTable(
    element("programs"),
    ["program", "attached to", "id"].map((title, i) => ({ title, number: i === 2 })),
    status.programs.map(({ name, hook, id }) => [name, hook, String(id)]),
  );
  setText(
    element("tables"),
    status.tables
      .map(
        ({ name, entries, capacity }) =>
          `${name}: ${digits(entries)} of ${digits(capacity)} entries`,
      )
      .join(" · "),
  );
  showLegend(status);
  showChart(status.clock / 1000);
}

/** How much of a table is shown; empty for all. */
function extent(
  table: keyof typeof most,
  rows: readonly Row<Count>[],
  found: number,
  all: number,
): string {
  const shown = Math.min(rows.length, most[table]);
  if (filter === "") return all > shown ? `: ${shown} of ${digits(all)}` : "";
  const text = `with “${visible(filter)}”`;
  if (last?.filter === filter) {
    if (found > shown) return `: ${shown} of ${digits(found)} ${text}, of ${digits(all)}`;
    return `: ${shown || "none"} of ${digits(all)} ${text}`;
  }
  return `: ${shown} ${text} among those shown before${paused ? "" : "; looking at the others"}`;
}

/** The button that shows more rows, as long as there are more and the page takes them. */
function showMore(table: keyof typeof most, found: number): void {
  const button = element(`more-${table}`);
  const next = STEPS.find((step) => step > most[table]);
  const over = next === undefined || found <= most[table];
  // What has the keyboard goes to what it was for.
  if (over && document.activeElement === button) {
    button.parentElement?.querySelector<HTMLElement>(".scroll")?.focus();
  }
  button.hidden = over;
  setText(button, `Show ${next}`);
  button.ariaLabel = `Show ${next} ${table === "rows" ? "rows" : "watched commands"}`;
}

/** The execs of rows that are no more: no row, because they have no rate. */
function showRetired(retired: Status<Count>["retired"]): void {
  const node = element("retired");
  const { rows, execs } = retired ?? { rows: 0, execs: 0 };
  node.hidden = Number(rows) === 0;
  const some = Number(rows) === 1 ? "1 row" : `${digits(rows)} rows`;
  setText(node, `${some} of ended containers and units retired, with ${digits(execs)} execs.`);
}

function showDoubts(doubts: readonly string[]): void {
  const list = element("doubts");
  const exact = doubts.length === 0;
  list.dataset.exact = String(exact);
  const texts = exact ? ["Exact: the kernel skipped no runs."] : doubts.map(visible);
  if (texts.join("\n") === [...list.children].map((item) => item.textContent).join("\n")) return;
  list.replaceChildren(...texts.map((text) => make("li", text)));
}

interface Column {
  title: string;
  number?: boolean;
  /** Whether it has the values of a label, which can be long. */
  label?: boolean;
  sorts?: Order;
}

/** Shows series by their labels, in the chosen order. */
function showRows(
  table: HTMLElement,
  labels: readonly string[],
  rows: Row<Count>[],
  limit: number = STEPS[0],
): void {
  const sorted = [...rows]
    .sort(
      (a, b) => Number(b[order] ?? 0) - Number(a[order] ?? 0) || Number(b.count) - Number(a.count),
    )
    .slice(0, limit);
  const columns = [
    ...labels.map((title) => ({ title, label: true })),
    ...(Object.keys(ORDERS) as Order[]).map((sorts) => ({
      title: ORDERS[sorts],
      number: true,
      sorts,
    })),
  ];
  showTable(
    table,
    labels.length > 0 ? columns : [],
    sorted.map(({ labels: values, second, minute, count }) => [
      ...labels.map((label) => values[label] ?? ""),
      ...[perSecond(second), perSecond(minute), digits(count)],
    ]),
  );
}

/** Changes only the cells whose text changes; hides a table without columns. */
function showTable(table: HTMLElement, columns: Column[], rows: string[][]): void {
  (table.parentElement as HTMLElement).hidden = columns.length === 0;
  const titles = columns.map(({ title }) => title).join("\n");
  if (table.dataset.titles !== titles) {
    table.dataset.titles = titles;
    const head = make("thead");
    head.append(make("tr"));
    head.firstElementChild?.append(...columns.map(heading));
    table.replaceChildren(...(columns.length > 0 ? [head, make("tbody")] : []));
  }
  for (const cell of table.querySelectorAll("th")) {
    const seconds = Math.round(last?.minute ?? 0);
    const button = cell.dataset.sorts === "minute" && cell.firstElementChild;
    if (button) setText(button, seconds < 55 ? `${seconds} s /s` : ORDERS.minute);
    if (cell.dataset.sorts) cell.ariaSort = cell.dataset.sorts === order ? "descending" : "none";
  }
  const body = table.querySelector("tbody");
  if (!body) return;
  while (body.rows.length > rows.length) body.deleteRow(-1);
  for (const [i, row] of rows.entries()) {
    const line = body.rows[i] ?? body.insertRow();
    for (const [j, text] of row.entries()) {
      const cell = line.cells[j] ?? line.insertCell();
      const { title = "", number, label } = columns[j] ?? {};
      if (number) {
        cell.className = "number";
        setText(cell, text);
      } else showText(cell, text, label ? title : undefined);
    }
  }
}

/** Shows a container as short as elsewhere; a long name whole where the pointer is. */
function showText(cell: HTMLElement, value: string, label?: string): void {
  const container = /^[0-9a-f]{64}$/.test(value);
  const kind = value === "" ? "none" : label === "path" ? "path" : "";
  cell.className = label ? `label ${kind}`.trim() : kind;
  cell.title = label && value.length > LONG_CHARS ? spelled(value) : "";
  if (!cell.firstElementChild) cell.append(document.createElement("bdi"));
  setText(
    cell.firstElementChild as Element,
    value === "" ? "none" : container ? value.slice(0, 12) : spelled(value),
  );
}

function heading({ title, number, sorts }: Column): HTMLElement {
  const cell = make("th", sorts ? "" : title) as HTMLTableCellElement;
  cell.scope = "col";
  if (number) cell.className = "number";
  if (sorts) {
    cell.dataset.sorts = sorts;
    const button = make("button", title) as HTMLButtonElement;
    button.type = "button";
    button.addEventListener("click", () => {
      order = sorts;
      if (last) show(last);
    });
    cell.append(button);
  }
  return cell;
}

/** Shows the name and the rate of each line of the chart: where the pointer is, or now. */
function showLegend(status: Status<Count> | undefined, at = points[0].length - 1): void {
  if (!status) return;
  const legend = element("legend");
  const counted = SERIES.filter((name) => status[name] !== null);
  if (legend.dataset.names !== counted.join()) {
    legend.dataset.names = counted.join();
    legend.replaceChildren(
      ...counted.map((name) => {
        const item = make("li");
        item.dataset.series = name;
        return item;
      }),
      make("li"),
    );
  }
  const values = counted.map((name, i) => {
    const rates = points[SERIES.indexOf(name) + 1] as (number | null)[];
    const known = rates.filter((rate) => rate !== null);
    setText(legend.children[i] as Element, `${name} ${perSecond(rates[at])}`);
    return `${name} ${perSecond(rates.at(-1))} now, ${perSecond(Math.max(0, ...known))} at most`;
  });
  const time = points[0][at];
  setText(legend.lastElementChild as Element, time === undefined ? "" : `at ${label(time)}`);
  element("chart").ariaLabel = `Per second: ${values.join("; ")}`;
}

/** The time of day of a point. */
function label(seconds: number): string {
  return clock(new Date(seconds * 1000 + offset));
}

function showChart(now: number): void {
  chart ??= makeChart(element("chart"), points, label, (at) => showLegend(last, at));
  chart.setData(points as UPlot.AlignedData, false);
  const age = Math.max(CHART_MIN_MS / 1000, now - (points[0][0] ?? now));
  chart.setScale("x", { min: now - age, max: now });
}

const box = element<HTMLInputElement>("filter");
box.addEventListener("input", () => {
  filter = box.value;
  // What was asked before says nothing any more.
  turn++;
  clearTimeout(timer);
  const wait = Math.max(TYPING_MS, TYPING_METER_TIMES * 1000 * (last?.seconds || 0));
  timer = setTimeout(poll, Math.min(wait, POLL_MAX_MS));
  if (last) show(last);
});
document.addEventListener("keydown", (event) => {
  const { key, target } = event;
  if (key === "Escape" && target === box) {
    if (box.value === "") box.blur();
    box.value = "";
    box.dispatchEvent(new Event("input"));
  }
  if (key !== "/" || target === box || event.ctrlKey || event.metaKey || event.altKey) return;
  event.preventDefault();
  box.focus();
  box.select();
});
for (const table of ["rows", "watched"] as const) {
  element(`more-${table}`).addEventListener("click", () => {
    most[table] = STEPS.find((step) => step > most[table]) ?? most[table];
    poll();
    if (last) show(last);
  });
}
element("pause").addEventListener("click", ({ currentTarget }) => {
  paused = !paused;
  (currentTarget as HTMLElement).ariaPressed = String(paused);
  if (paused) setState("paused", "paused");
  poll();
});
document.addEventListener("visibilitychange", poll);
// The keyboard can scroll these.
for (const region of document.querySelectorAll<HTMLElement>(".scroll")) region.tabIndex = 0;
new ResizeObserver(() => {
  const { clientWidth: width, clientHeight: height } = element("chart");
  chart?.setSize({ width, height });
}).observe(element("chart"));
for (const colours of ["(prefers-color-scheme: dark)", "(forced-colors: active)"]) {
  matchMedia(colours).addEventListener("change", () => {
    chart?.destroy();
    chart = undefined;
    if (last) show(last);
  });
}
poll();
