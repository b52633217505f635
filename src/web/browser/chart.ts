/** The chart of rates. */
import UPlot from "uplot";
import { make } from "./dom.ts";

export const SERIES = ["attempts", "execs", "failures"] as const;
export type Name = (typeof SERIES)[number];
/** Seconds since 1970, then a rate at each for every one of SERIES; null for none. */
export type Points = [number[], ...(number | null)[][]];
/** Lines can be told apart without their colours, too. */
const DASHES = { attempts: [], execs: [8, 4], failures: [2, 3] };

/**
 * Draws the chart into `place`.
 *
 * @param label returns the label of a moment, which is in seconds since 1970
 * @param onPoint called with the index of the point that the pointer is at; undefined for none
 */
export function makeChart(
  place: HTMLElement,
  points: Points,
  label: (seconds: number) => string,
  onPoint: (index: number | undefined) => void,
): UPlot {
  // A style sheet does not reach what is drawn on a canvas.
  const style = (of: Element) => getComputedStyle(of);
  const colour = (name: string) => {
    const probe = make("span");
    probe.style.color = `var(--${name})`;
    probe.style.forcedColorAdjust = "none";
    place.append(probe);
    const { color } = style(probe);
    probe.remove();
    return color;
  };
  const axis = {
    stroke: colour("faint"),
    grid: { stroke: colour("line"), width: 1 },
    ticks: { stroke: colour("line"), width: 1 },
  };
  return new UPlot(
    {
      width: place.clientWidth,
      height: place.clientHeight,
      legend: { show: false },
      cursor: { drag: { x: false, y: false }, points: { show: false } },
      scales: { y: { range: (_, __, max) => [0, max > 0 ? max * 1.1 : 1] } },
      axes: [
        {
          ...axis,
          values: (_, times) => times.map(label),
          space: 90,
        },
        { ...axis, size: 64, values: (_, rates) => rates.map(short) },
      ],
      series: [
        {},
        ...SERIES.map((name) => ({
          stroke: colour(name),
          width: 2,
          points: { show: false },
          dash: DASHES[name],
        })),
      ],
      hooks: { setCursor: [({ cursor }) => onPoint(cursor.idx ?? undefined)] },
    },
    points as UPlot.AlignedData,
    place,
  );
}

/** 1500 as 1.5K. */
function short(rate: number): string {
  return rate.toLocaleString("en", { notation: "compact", maximumFractionDigits: 1 });
}
