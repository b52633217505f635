import { readProjectFile } from "./files.ts";

/** What of Grafana's model of a dashboard the tests have to know. */
export interface Panel {
  id: number;
  type: string;
  title: string;
  gridPos: Record<"x" | "y" | "w" | "h", number>;
  targets: { expr: string; legendFormat: string }[];
}
interface Dashboard {
  panels: Panel[];
  annotations: { list: { expr: string }[] };
  templating: { list: { name: string; type: string; query: string | { query: string } }[] };
}

export const dashboard: Dashboard = JSON.parse(readProjectFile("deploy/grafana/dashboard.json"));

/** The file of a panel's picture, below docs/. */
export function picturePath({ title }: Panel): string {
  return `pictures/${title.toLowerCase().replaceAll(/\W+/g, "-")}.png`;
}
