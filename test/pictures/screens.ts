import { execFileSync } from "node:child_process";
import { openBrowser } from "../support/browser.mjs";
import { projectPath } from "../support/files.ts";
import { CLI, type Meter, sh } from "../support/meter.ts";
import { shellLine } from "../support/script.mjs";
import { Tmux } from "../support/tmux.ts";

/** What top shows, of all labels that the page shows: as many as fit. */
const BY = "command,user,parent,path";

/** Saves what a meter's page and top beside it look like. */
export async function drawScreens(meter: Meter): Promise<void> {
  const browser = await openBrowser();
  const terminal = new Tmux(100, 26);
  try {
    const context = { deviceScaleFactor: 2, viewport: { width: 1000, height: 1360 } };
    const page = await browser.newPage(context);
    await page.goto(meter.origin);
    terminal.type(
      `clear; ${shellLine(process.execPath, CLI, "top", "--map", meter.mapId, "--by", BY)}`,
    );
    // Until there are rates of a minute.
    await page.waitForTimeout(65_000);
    await save("page.png", await page.screenshot());

    const html = execFileSync("aha", ["--no-header"], { input: terminal.screen(true).join("\n") });
    // One whose policy lets it be painted.
    const paper = await browser.newPage(context);
    await paper.setContent(
      `<pre style="display: inline-block; margin: 0; padding: 8px; font: 14px/1.2 'DejaVu Sans Mono'">${html}</pre>`,
    );
    await save("top.png", await paper.locator("pre").screenshot());
  } finally {
    terminal.close();
    await browser.close();
  }
}

async function save(name: string, picture: Buffer): Promise<void> {
  const file = projectPath(`docs/${name}`);
  sh("pngquant", ["--force", "--strip", "--output", file, "64", "-"], { input: picture });
}
