import {
  chmodSync,
  chownSync,
  copyFileSync,
  mkdtempSync,
  readFileSync,
  rmSync,
  writeFileSync,
} from "node:fs";
import { request } from "node:https";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { TLSSocket } from "node:tls";
import { afterEach, beforeEach, expect, test } from "vitest";
import { makeCertificates } from "../support/certificates.ts";
import { CLI, Meter, result, until } from "../support/meter.ts";
import { SECRET } from "../support/webconfigs.ts";

const CONFIG = `tls_server_config: { cert_file: server.pem, key_file: server.key }
basic_auth_users: { alice: ${SECRET} }`;

let directory: string;
let meter: Meter | undefined;
const file = (name: string) => join(directory, name);

/** Every user may read it; a test may change that. */
beforeEach(() => {
  directory = mkdtempSync(join(tmpdir(), "execve-counter-"));
  makeCertificates(directory);
  chmodSync(directory, 0o755);
  for (const name of ["server.key", "client.key"]) chmodSync(file(name), 0o644);
  writeFileSync(file("web.yml"), CONFIG);
});
afterEach(async () => {
  await meter?.stop();
  meter = undefined;
  rmSync(directory, { recursive: true });
});

async function start(...flags: string[]): Promise<Meter> {
  meter = await Meter.start([
    "--web.config.file",
    file("web.yml"),
    "--interval",
    "100ms",
    ...flags,
  ]);
  await until("the first line", () => meter?.lines[0]);
  return meter;
}

/** The status of an answer, and the name in the server's certificate. */
function get(
  user: string,
  path = "/metrics",
): Promise<{ status: number | undefined; name: string }> {
  const { hostname, port } = new URL(/metrics at (\S+)/.exec(meter?.stderr ?? "")?.[1] ?? "");
  return new Promise((resolve, reject) => {
    const asked = request(
      { ...{ hostname, port, path, auth: user, agent: false }, rejectUnauthorized: false },
      (response) => {
        const { subject } = (response.socket as TLSSocket).getPeerCertificate();
        response
          .resume()
          .on("end", () => resolve({ status: response.statusCode, name: `${subject.CN}` }));
      },
    );
    asked.on("error", reject).end();
  });
}

test("a renewed certificate and a new user are in force without a new start", async () => {
  await start();
  expect(await get("alice:secret")).toEqual({ status: 200, name: "server" });
  expect((await get("alice:wrong")).status).toBe(401);
  expect((await get("bob:secret")).status).toBe(401);

  copyFileSync(file("client.pem"), file("server.pem"));
  copyFileSync(file("client.key"), file("server.key"));
  await until("the new certificate", async () => (await get("alice:secret")).name === "client");
  writeFileSync(file("web.yml"), CONFIG.replace("alice", "bob"));
  await until("the new user", async () => (await get("bob:secret")).status === 200);
  expect((await get("alice:secret")).status).toBe(401);
  expect(meter?.stderr).toContain(`the changes to ${file("web.yml")}`);
});

test("a wrong change is reported once, and the old settings stay in force", async () => {
  await start();
  writeFileSync(file("web.yml"), "nonsense: 1");
  await until("the complaint", async () => {
    expect(await get("alice:secret")).toEqual({ status: 200, name: "server" });
    return meter?.stderr.includes("the old settings stay in force");
  });
  await until("more looks at the file", async () => {
    expect(await get("alice:secret")).toEqual({ status: 200, name: "server" });
    return (meter?.lines.length ?? 0) > 30;
  });
  expect(meter?.stderr.match(/unknown: nonsense/g)).toHaveLength(1);
});

test("a key that the user nobody cannot read again is reported at the start, and stays in force", async () => {
  chmodSync(file("server.key"), 0o600);
  await start();
  expect(meter?.stderr).toContain(
    `warn: ${file("server.key")} cannot be read again (EACCES), so changes to it are ignored: `,
  );
  expect(meter?.stderr.match(/cannot be read again/g)).toHaveLength(1);
  expect(await get("alice:secret")).toEqual({ status: 200, name: "server" });
  // A user who is taken out of the other file is out.
  writeFileSync(file("web.yml"), CONFIG.replace("alice", "bob"));
  await until("the new user", async () => (await get("bob:secret")).status === 200);
  expect((await get("alice:secret")).status).toBe(401);
  expect(meter?.stderr).not.toContain("error");
  writeFileSync(file("web.yml"), CONFIG);

  // As the remedy says: without a new start too.
  chownSync(file("server.key"), 0, 65534);
  chmodSync(file("server.key"), 0o640);
  for (const kind of ["key", "pem"]) {
    writeFileSync(file(`server.${kind}`), readFileSync(file(`client.${kind}`)));
  }
  await until("the new key", async () => (await get("alice:secret")).name === "client");
  await meter?.stop();
  await start();
  expect(meter?.stderr).not.toContain("cannot be read again");
  await meter?.stop();

  chmodSync(file("server.key"), 0o600);
  await start("--run-as", "root");
  expect(meter?.stderr).not.toContain("cannot be read again");
});

test.each([
  ["nonsense: 1", "unknown: nonsense", 2],
  ["tls_server_config: { cert_file: gone, key_file: server.key }", "gone (ENOENT)", 2],
])("%s is refused at the start", (text, message, code) => {
  writeFileSync(file("web.yml"), text);
  for (const more of [[], ["--check"]]) {
    const { status, stdout, stderr } = result(process.execPath, [
      ...[CLI, "--web.config.file", file("web.yml"), ...more],
    ]);
    expect(stderr).toMatch(/^execve-counter: error: .+\nexecve-counter: error: to do: .+\n$/);
    expect(stderr).toContain(message);
    expect({ status, stdout }).toEqual({ status: code, stdout: "" });
  }
});

test("guessed passwords, as many as there can be, hold up no line", async () => {
  await start();
  let guesses = 0;
  let going = true;
  const guess = async () => {
    while (going) {
      await get(`${guesses % 2 ? "alice" : "nobody"}:${guesses++}`).catch(() => {});
    }
  };
  const first = meter?.lines.length ?? 0;
  const guessers = Array.from({ length: 32 }, guess);
  const lines = () => (meter?.lines.length ?? 0) - first;
  await until("guesses", () => guesses > 300 && lines() > 10, 60_000);
  going = false;
  await Promise.all(guessers);
  const times = (meter?.lines.slice(first) ?? []).map((line) =>
    Date.parse(line.split(" ")[0] ?? ""),
  );
  const gaps = times.slice(1).map((time, i) => time - (times[i] ?? 0));
  expect(gaps.length).toBeGreaterThan(5);
  // A password takes a tenth of a second at the usual cost, and each of 32 handshakes some.
  expect(Math.max(...gaps)).toBeLessThan(3000);
  await until("an answer", async () => (await get("alice:secret")).status === 200);
});
