/** Refuses an old Node.js. It runs before everything else, so its syntax is that of Node.js 10. */
export {};

const oldest = Number(require("../../package.json").engines.node.replace(">=", ""));
if (Number.parseInt(process.versions.node, 10) < oldest) {
  process.stderr.write(
    `execve-counter: error: Node.js ${process.versions.node} is too old\n` +
      `execve-counter: error: to do: run it with Node.js ${oldest} or newer; sudo may find another one than your shell\n`,
  );
  process.exit(3);
}
