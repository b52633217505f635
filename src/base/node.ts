/** The first thing that runs, however old Node.js is: in syntax that Node.js 10 knows. */
export {};

const oldest = Number(require("../../package.json").engines.node.replace(">=", ""));
if (Number.parseInt(process.versions.node, 10) < oldest) {
  process.stderr.write(
    `execve-counter: error: Node.js ${process.versions.node} is too old\n` +
      `execve-counter: error: to do: run it with Node.js ${oldest} or newer; sudo may find another one than you do\n`,
  );
  process.exit(3);
}
