/** The page at /: one document that asks nobody but the meter for anything. */
import { createHash } from "node:crypto";
import { readFileSync } from "node:fs";
import { join } from "node:path";

export interface Document {
  html: string;
  /** Its Content-Security-Policy: the scripts and styles in it, and no others. */
  policy: string;
}

/** @param telemetryPath of letters, digits and -._~ between slashes */
export function readPage(telemetryPath: string): Document {
  const read = (name: string) => readFileSync(join(__dirname, "browser", name), "utf8");
  const library = (name: string) => readFileSync(require.resolve(`uplot/dist/${name}`), "utf8");
  const styles = [library("uPlot.min.css"), read("page.css")];
  const scripts = [library("uPlot.iife.min.js"), read("page.js")];
  const parts: Record<string, string> = {
    // Relative, for who puts it behind a proxy under another path.
    telemetry: telemetryPath.slice(1),
    styles: styles.map((text) => `<style>${text}</style>`).join("\n"),
    // As modules they run once the document is there.
    scripts: scripts
      .map((text, i) => `<script${i ? ' type="module"' : ""}>${text}</script>`)
      .join("\n"),
  };
  return {
    html: read("page.html").replaceAll(/\{\{(\w+)\}\}/g, (_, name) => parts[name] as string),
    policy: [
      "default-src 'none'",
      `script-src ${scripts.map(hash).join(" ")}`,
      `style-src ${styles.map(hash).join(" ")}`,
      "connect-src 'self'",
      "img-src data:",
      "base-uri 'none'",
      "form-action 'none'",
      "frame-ancestors 'none'",
    ].join("; "),
  };
}

function hash(text: string): string {
  return `'sha256-${createHash("sha256").update(text).digest("base64")}'`;
}
