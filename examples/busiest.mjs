// Counts for some seconds, and prints the busiest commands:
//
//   sudo node examples/busiest.mjs 10
import { openMeter, UserError } from "execve-counter";

const seconds = Number(process.argv[2] ?? 10);
try {
  const meter = openMeter({ by: ["command"], watch: ["sh"] });
  try {
    await new Promise((resolve) => setTimeout(resolve, 1000 * seconds));
    const { execs, execsBy, watched } = meter.read();
    console.log(`${execs} execs, ${watched.get("sh")} of them sh`);
    const busiest = execsBy.toSorted((a, b) => Number(b.count - a.count)).slice(0, 5);
    for (const { labels, count } of busiest) console.log(`${count} ${labels.command}`);
  } finally {
    meter.close();
  }
} catch (error) {
  if (!(error instanceof UserError)) throw error;
  console.error(`${error.message}\n${error.remedy}`);
  process.exitCode = error.exitCode;
}
