// Draws a panel of a dashboard with Grafana's own components: in a browser, without Grafana.
import { createTheme, FieldType, getDisplayProcessor, toDataFrame } from "@grafana/data";
import { BigValue, GlobalStyles, PanelChrome, ThemeContext, TimeSeries } from "@grafana/ui";
import { createElement } from "react";
import { createRoot } from "react-dom/client";
import "uplot/dist/uPlot.min.css";

const theme = createTheme({ colors: { mode: "light" } });
const timeZone = "utc";

/** What a panel has where its JSON is silent: the defaults of Grafana's editor. */
const CUSTOM = {
  ...{ drawStyle: "line", lineInterpolation: "linear", lineWidth: 1, showPoints: "never" },
  ...{ axisPlacement: "auto", spanNulls: false },
};

/** A series as Grafana's data source for Prometheus would hand it on. */
function frame({ name, times, values }, seriesIndex, { defaults }, range) {
  const config = {
    ...{ color: { mode: "palette-classic" }, ...defaults, displayName: name || undefined },
    custom: {
      ...CUSTOM,
      ...defaults.custom,
      stacking: { group: "A", ...defaults.custom?.stacking },
    },
  };
  const made = toDataFrame({
    fields: [
      { name: "Time", type: FieldType.time, values: times, config: {} },
      { name, type: FieldType.number, values, config },
    ],
  });
  for (const field of made.fields) {
    field.state = { seriesIndex, range };
    field.display = getDisplayProcessor({ field, theme, timeZone });
  }
  return made;
}

/** The panel's inside, by its type. */
function body({ type, options }, frames, timeRange, width, height) {
  if (type === "timeseries") {
    const legend = { showLegend: true, calcs: [], ...options.legend };
    const graph = { frames, timeRange, timeZone, legend, width, height, structureRev: 1 };
    return createElement(TimeSeries, graph, () => null);
  }
  if (type !== "stat") throw new Error(`a panel of type ${type} cannot be drawn`);
  const [x, y] = frames[0].fields;
  const value = y.display(y.values.findLast((each) => each !== null));
  const { colorMode, graphMode } = options;
  return createElement(BigValue, {
    ...{ theme, width, height, value, colorMode, graphMode },
    sparkline: { x, y, timeRange },
  });
}

/** Fills the page with a panel and its series: each with a name, times in ms, and values. */
window.draw = ({ panel, series, from, to, width, height }) => {
  const known = series.flatMap(({ values }) => values.filter((value) => value !== null));
  const [min, max] = [panel.fieldConfig.defaults.min ?? Math.min(...known), Math.max(...known)];
  const range = { min, max, delta: max - min };
  const frames = series.map((each, i) => frame(each, i, panel.fieldConfig, range));
  const timeRange = { from, to, raw: { from, to } };
  const chrome = createElement(PanelChrome, { title: panel.title, width, height }, (...size) =>
    body(panel, frames, timeRange, ...size),
  );
  const provider = { value: theme };
  const root = document.createElement("div");
  document.body.replaceChildren(root);
  createRoot(root).render(
    createElement(ThemeContext.Provider, provider, createElement(GlobalStyles), chrome),
  );
};
