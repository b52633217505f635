/** The page at /: one document that asks the agent, and no other host, for anything. */
import { createHash } from "node:crypto";
import { readFileSync } from "node:fs";
import { join } from "node:path";

export interface Document {
  html: string;
  /** Its Content-Security-Policy: the script and the style in it, and no others. */
  policy: string;
}

/** @param telemetryPath of letters, digits and -._~ between slashes */
export function readPage(telemetryPath: string): Document {
  const read = (name: string) => readFileSync(join(__dirname, "browser", name), "utf8");
  const style = read("page.css");
  const script = read("page.js");
  const parts: Record<string, string> = {
    // Relative, so that it works behind a proxy under another path.
    telemetry: telemetryPath.slice(1),
    style: `<style>${style}</style>`,
    // As a module it runs once the document is there.
    script: `<script type="module">${script}</script>`,
  };
  return {
    html: read("page.html").replaceAll(/\{\{(\w+)\}\}/g, (_, name) => parts[name] as string),
    policy: [
      "default-src 'none'",
      `script-src ${hash(script)}`,
      `style-src ${hash(style)}`,
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
