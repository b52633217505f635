import { existsSync } from "node:fs";
import { chromium } from "playwright-core";

/** The distribution's Chromium, without a window. */
export function openBrowser() {
  const paths = ["/usr/bin/chromium", "/usr/bin/chromium-browser", "/usr/bin/google-chrome"];
  const executablePath = paths.find((path) => existsSync(path));
  if (!executablePath) throw new Error("Chromium is not installed: apt-get install chromium");
  // It has no sandbox of its own for root, whom the tests run as.
  return chromium.launch({ executablePath, chromiumSandbox: false, timeout: 120_000 });
}
