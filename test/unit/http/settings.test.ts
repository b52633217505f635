import { execFileSync } from "node:child_process";
import { once } from "node:events";
import {
  copyFileSync,
  mkdtempSync,
  readFileSync,
  renameSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { request } from "node:https";
import { type AddressInfo, createConnection, createServer, type Socket } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { type ConnectionOptions, connect } from "node:tls";
import { afterAll, beforeAll, beforeEach, expect, onTestFinished, test, vi } from "vitest";
import { ExitCode, type UserError } from "../../../src/base/errors.ts";
import { BOUNDS } from "../../../src/http/connections.ts";
import { WebConfig } from "../../../src/http/protection.ts";
import { serve, TEXT, type Web } from "../../../src/http/server.ts";
import { parseWebConfig } from "../../../src/http/settings.ts";
import { makeCertificates } from "../../support/certificates.ts";
import { projectPath } from "../../support/files.ts";
import { result, until } from "../../support/meter.ts";
import { BAD, GOOD, OURS, SECRET } from "../../support/webconfigs.ts";

/** Files that may not be read, as by the user that the meter has become. */
const denied = new Set<string>();
/** Files that were read. */
const reads: string[] = [];
vi.mock("node:fs", async (original) => {
  const fs = await original<typeof import("node:fs")>();
  const unlessDenied =
    <Args extends unknown[], T>(act: (...args: Args) => T) =>
    (...args: Args): T => {
      if (typeof args[0] === "string") reads.push(args[0]);
      if (denied.has(args[0] as string)) throw Object.assign(new Error(), { code: "EACCES" });
      return act(...args);
    };
  const { openSync, readFileSync } = fs;
  return {
    ...fs,
    openSync: unlessDenied(openSync),
    readFileSync: unlessDenied(readFileSync as (path: string) => string),
  };
});
beforeEach(() => denied.clear());

let directory: string;
let path: string;

beforeAll(() => {
  directory = mkdtempSync(join(tmpdir(), "execve-counter-web-"));
  path = join(directory, "web.yml");
  makeCertificates(directory);
});

afterAll(() => rmSync(directory, { recursive: true }));

const file = (name: string) => join(directory, name);
const read = (name: string) => readFileSync(file(name), "utf8");

/** Opens a file of this text until the test ends; `said` gets what is said of changes. */
async function open(text: string, said: (string | undefined)[] = []): Promise<WebConfig> {
  writeFileSync(path, text);
  const config = await WebConfig.open(path, (error) => said.push(error?.message));
  onTestFinished(() => config.close());
  return config;
}

async function serveBehind(config: WebConfig, bounds = BOUNDS): Promise<Web> {
  const pages = new Map([["/", { types: [TEXT], make: () => ({ body: "hello\n" }) }]]);
  const fail = (error: unknown) => {
    throw error;
  };
  const protection = () => config.protection;
  const web = await serve([{ host: "127.0.0.1", port: 0 }], pages, fail, { protection, bounds });
  onTestFinished(() => web.close());
  return web;
}

interface Reply {
  status: number;
  headers: Record<string, unknown>;
  /** The name on the server's certificate. */
  server: string;
}

function get(web: Web, options: ConnectionOptions = {}, path = "/", auth?: string): Promise<Reply> {
  return new Promise((resolve, reject) => {
    const url = new URL(path, web.origins[0]);
    const all = { ca: read("ca.pem"), agent: false as const, ...(auth && { auth }), ...options };
    const asking = request(url, all, (response) => {
      const { subject } = (response.socket as import("node:tls").TLSSocket).getPeerCertificate();
      const { statusCode: status = 0, headers } = response;
      response.resume().on("end", () => resolve({ status, headers, server: subject.CN as string }));
    });
    asking.on("error", reject).end();
  });
}

test.each(GOOD)("%j is taken", async (text) => {
  await open(text);
});

test.each([...BAD, ...OURS])("%j is refused: %s", async (text, message) => {
  const error: UserError = await open(text).then(
    () => expect.unreachable(),
    (error) => error,
  );
  expect(error.message).toContain(message);
  expect(`${error.message}${error.remedy}`).not.toContain("\n");
  expect(error.exitCode).toBe(ExitCode.usage);
});

test("a file that is not there is refused, and no hash is shown of one that is wrong", async () => {
  await expect(WebConfig.open(file("gone.yml"), () => {})).rejects.toMatchObject({
    message: `cannot read --web.config.file ${file("gone.yml")} (ENOENT)`,
    exitCode: ExitCode.usage,
  });
  const wrong = SECRET.slice(0, -1);
  for (const text of [`basic_auth_users: { a: ${wrong} }`, `basic_auth_users: { a: ${wrong}: [`]) {
    const error: UserError = await open(text).catch((error) => error);
    expect(`${error.message}${error.remedy}`).not.toContain(wrong.slice(-20));
  }
});

test("the files that are read again are named, and those that cannot be", async () => {
  const config = await open(
    "tls_server_config: { cert_file: server.pem, key_file: server.key, client_auth_type: RequestClientCert, client_ca_file: ca.pem }",
  );
  expect(config.files).toEqual([path, file("server.pem"), file("server.key"), file("ca.pem")]);
  expect(config.unreadable()).toEqual([]);
  renameSync(file("server.key"), file("away"));
  expect(config.unreadable()).toEqual([{ file: file("server.key"), code: "ENOENT" }]);
  renameSync(file("away"), file("server.key"));
});

test("what is no file, or too large a one, is said to be that, and no pipe is waited for", async () => {
  const config = await open("");
  rmSync(path);
  execFileSync("mkfifo", [path]);
  expect(config.unreadable()).toEqual([]);
  const refused = () => WebConfig.open(path, () => {});
  await expect(refused()).rejects.toMatchObject({ remedy: "name a file that is there" });
  rmSync(path);
  writeFileSync(path, " ".repeat((1 << 20) + 1));
  await expect(refused()).rejects.toMatchObject({
    message: `cannot read --web.config.file ${path} (EFBIG)`,
    remedy: "name a file of at most 1 MiB",
  });
});

test("an empty file is plain HTTP without passwords", async () => {
  const web = await serveBehind(await open(""));
  expect(web.origins[0]).toMatch(/^http:/);
  expect((await fetch(`${web.origins[0]}/`)).status).toBe(200);
});

const TLS = "cert_file: server.pem, key_file: server.key";

test("TLS from 1.2 on, with the headers that were asked for", async () => {
  const web = await serveBehind(
    await open(
      `tls_server_config: { ${TLS} }\nhttp_server_config: { headers: { Strict-Transport-Security: max-age=9 } }`,
    ),
  );
  expect(web.origins[0]).toMatch(/^https:/);
  const { status, headers } = await get(web);
  expect(status).toBe(200);
  expect(headers["strict-transport-security"]).toBe("max-age=9");
  expect((await get(web, { maxVersion: "TLSv1.2" })).status).toBe(200);
  const old = {
    maxVersion: "TLSv1.1",
    ciphers: "DEFAULT@SECLEVEL=0",
    minVersion: "TLSv1",
  } as const;
  await expect(get(web, old)).rejects.toThrow();
});

test("versions, ciphers and curves are those that were asked for", async () => {
  const config = `tls_server_config: { ${TLS}, max_version: TLS12, cipher_suites: [TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384], curve_preferences: [CurveP384] }`;
  const web = await serveBehind(await open(config));
  const { port } = new URL(web.origins[0] as string);
  const socket = connect({ host: "127.0.0.1", port: Number(port), ca: read("ca.pem") });
  await new Promise((resolve, reject) =>
    socket.once("secureConnect", resolve).once("error", reject),
  );
  expect(socket.getProtocol()).toBe("TLSv1.2");
  expect(socket.getCipher().name).toBe("ECDHE-ECDSA-AES256-GCM-SHA384");
  expect(socket.getEphemeralKeyInfo()).toMatchObject({ name: "secp384r1" });
  socket.destroy();
  await expect(get(web, { ciphers: "ECDHE-ECDSA-AES128-GCM-SHA256" })).rejects.toThrow();
  await expect(get(web, { ecdhCurve: "X25519" })).rejects.toThrow();
});

test.each([
  ["NoClientCert", true, true, true],
  ["RequestClientCert", true, true, true],
  ["RequireAnyClientCert", false, true, true],
  ["VerifyClientCertIfGiven", true, false, true],
  ["RequireAndVerifyClientCert", false, false, true],
])("%s admits no certificate: %s, an unsigned one: %s, a signed one: %s", async (type, ...lets) => {
  const ca = type === "NoClientCert" ? "" : ", client_ca_file: ca.pem";
  const web = await serveBehind(
    await open(`tls_server_config: { ${TLS}, client_auth_type: ${type}${ca} }`),
  );
  const clients = [
    {},
    ...["stranger", "client"].map((name) => ({
      cert: read(`${name}.pem`),
      key: read(`${name}.key`),
    })),
  ];
  for (const [i, client] of clients.entries()) {
    const let_in = await get(web, client).then(
      ({ status }) => status === 200,
      () => false,
    );
    expect(let_in).toBe(lets[i]);
  }
});

test("every path asks for user and password, and either wrong is refused", async () => {
  const hash = SECRET.replace("2y", "2b");
  const web = await serveBehind(
    await open(
      `tls_server_config: { ${TLS} }\nbasic_auth_users: { alice: ${SECRET}, "007": ${hash} }`,
    ),
  );
  for (const path of ["/", "/nothing"]) {
    const { status, headers } = await get(web, {}, path);
    expect(status).toBe(401);
    expect(headers["www-authenticate"]).toMatch(/^Basic/);
    for (const auth of ["alice:", "alice:wrong", "bob:secret", ":secret", "alice", "007:x"]) {
      expect((await get(web, {}, path, auth)).status).toBe(401);
    }
  }
  for (const auth of ["alice:secret", "007:secret", "alice:secret"]) {
    expect((await get(web, {}, "/", auth)).status).toBe(200);
  }
  expect((await get(web, {}, "/nothing", "alice:secret")).status).toBe(404);
});

test("changed files are in force a second later; of wrong ones it is said once, and nothing changes", async () => {
  const said: (string | undefined)[] = [];
  // As Kubernetes has it: links that are swapped.
  for (const [i, name] of ["server", "stranger"].entries()) {
    copyFileSync(file(`${name}.pem`), file(`swap${i}.pem`));
    copyFileSync(file(`${name}.key`), file(`swap${i}.key`));
  }
  const point = (i: number, extension: string) => {
    symlinkSync(`swap${i}.${extension}`, file("next"));
    renameSync(file("next"), file(`now.${extension}`));
  };
  point(0, "pem");
  point(0, "key");
  const config = await open("tls_server_config: { cert_file: now.pem, key_file: now.key }", said);
  const web = await serveBehind(config);
  const ask = (auth?: string) => get(web, { rejectUnauthorized: false }, "/", auth);
  expect((await ask()).server).toBe("server");

  point(1, "pem");
  await until("the complaint", async () => (await ask()).server === "server" && said.length > 0);
  expect(said[0]).toContain("does not belong to");
  for (const end = performance.now() + 2500; performance.now() < end; ) await ask();
  expect(said).toHaveLength(1);
  point(1, "key");
  await until("the new certificate", async () => (await ask()).server === "stranger");
  expect(said).toEqual([said[0], undefined]);

  writeFileSync(path, "nonsense: 1");
  await until("the complaint", async () => (await ask()).status === 200 && said.length === 3);
  expect(said[2]).toContain("unknown: nonsense");
  writeFileSync(path, "tls_server_config: { cert_file: new.pem, key_file: now.key }");
  await until("the complaint", async () => (await ask()).status === 200 && said.length === 4);
  copyFileSync(file("stranger.pem"), file("new.pem"));
  await until(
    "the file that was missing",
    async () => (await ask()).status === 200 && said.length === 5,
  );
  expect(said[4]).toBeUndefined();
  writeFileSync(path, "");
  const plain = `${web.origins[0]}/`.replace("https", "http");
  await until("plain HTTP", async () => (await fetch(plain).catch(() => undefined))?.ok);
});

test("of a file that may not be read again counts what it held, until it may", async () => {
  const said: (string | undefined)[] = [];
  for (const kind of ["pem", "key"]) copyFileSync(file(`server.${kind}`), file(`kept.${kind}`));
  const config = await open("tls_server_config: { cert_file: kept.pem, key_file: kept.key }", said);
  const web = await serveBehind(config);
  const ask = () => get(web, { rejectUnauthorized: false });
  const change = (text: string) => writeFileSync(path, `${readFileSync(path)}\n${text}`);

  // Denied without having been noted as such: that is an error, as of one that is gone.
  denied.add(file("kept.key"));
  await until("the complaint", async () => (await ask()).status === 200 && said.length === 1);
  expect(said[0]).toContain(`cannot read key_file ${file("kept.key")} (EACCES)`);

  expect(config.unreadable()).toEqual([{ file: file("kept.key"), code: "EACCES" }]);
  change("http_server_config: { headers: { X-Frame-Options: deny } }");
  await until("the header", async () => (await ask()).headers["x-frame-options"] === "deny");
  expect(said).toEqual([said[0], undefined]);
  expect((await ask()).server).toBe("server");

  // It may be read again, and is.
  for (const kind of ["pem", "key"]) copyFileSync(file(`stranger.${kind}`), file(`kept.${kind}`));
  denied.clear();
  await until("the new key", async () => (await ask()).server === "stranger");
  expect(said.slice(2).at(-1)).toBeUndefined();

  // From then on it is like the others.
  const before = said.length;
  denied.add(file("kept.key"));
  await until("the complaint", async () => (await ask()).status === 200 && said.length > before);
  expect(said.at(-1)).toContain("(EACCES)");
});

test("the files are looked at once a second at most, and not before", async () => {
  const clock = vi.spyOn(performance, "now").mockReturnValue(5000);
  onTestFinished(() => clock.mockRestore());
  const config = await open("");
  for (const [time, looks] of [
    ...[[5999, 0] as const, [6000, 1] as const, [6000, 0] as const],
    ...[[6999, 0] as const, [7000, 1] as const],
  ]) {
    clock.mockReturnValue(time);
    reads.length = 0;
    void config.protection;
    expect(reads).toEqual(Array(looks).fill(path));
  }
});

test("nothing goes on once it is closed", () => {
  writeFileSync(path, `basic_auth_users: { alice: ${SECRET} }`);
  const program = `const { WebConfig } = require(${JSON.stringify(projectPath("dist/http/protection.js"))});
    WebConfig.open(${JSON.stringify(path)}, () => {}).then((config) => config.close());`;
  // The thread that checks passwords would keep the process from ending.
  expect(result(process.execPath, ["-e", program])).toEqual({ status: 0, stdout: "", stderr: "" });
});

test("what is gone does not count as what it held", async () => {
  const said: (string | undefined)[] = [];
  for (const kind of ["pem", "key"]) copyFileSync(file(`server.${kind}`), file(`gone.${kind}`));
  const config = await open("tls_server_config: { cert_file: gone.pem, key_file: gone.key }", said);
  const web = await serveBehind(config);
  rmSync(file("gone.key"));
  expect(config.unreadable()).toEqual([{ file: file("gone.key"), code: "ENOENT" }]);
  await until("the complaint", async () => (await get(web)).status === 200 && said.length === 1);
  expect(said[0]).toContain("(ENOENT)");
});

test("passwords change with the file, also for users who were admitted", async () => {
  const config = await open(`basic_auth_users: { alice: ${SECRET} }`);
  const web = await serveBehind(config);
  const ask = async (user: string) => {
    const headers = { authorization: `Basic ${btoa(`${user}:secret`)}` };
    return (await fetch(`${web.origins[0]}/`, { headers })).status;
  };
  expect([await ask("alice"), await ask("bob")]).toEqual([200, 401]);
  writeFileSync(path, `basic_auth_users: { bob: ${SECRET} }`);
  await until("the change", async () => (await ask("bob")) === 200);
  expect(await ask("alice")).toBe(401);
});

test("a client that sends nothing, nonsense or plain HTTP to the TLS port harms nothing", async () => {
  const web = await serveBehind(await open(`tls_server_config: { ${TLS} }`));
  const { port } = new URL(web.origins[0] as string);
  for (const bytes of [
    "",
    "GET / HTTP/1.1\r\n\r\n",
    "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
  ]) {
    for (const end of ["end", "resetAndDestroy"] as const) {
      const socket = createConnection(Number(port), "127.0.0.1").on("error", () => {});
      await new Promise((resolve) => socket.write(bytes || "\x16", resolve));
      socket[end]();
    }
  }
  expect((await get(web)).status).toBe(200);
});

test("clients that begin no TLS give way, the oldest first", async () => {
  const config = await open(`tls_server_config: { ${TLS} }`);
  const web = await serveBehind(config, { ...BOUNDS, connections: 8 });
  const { port } = new URL(web.origins[0] as string);
  const idle = Array.from({ length: 12 }, () =>
    createConnection(Number(port), "127.0.0.1")
      .on("error", () => {})
      .resume(),
  );
  await until("the four oldest to go", () => idle.filter(({ closed }) => closed).length === 4);
  expect((await get(web)).status).toBe(200);
  expect(idle.filter(({ closed }) => closed)).toHaveLength(5);
  web.close();
  await until("the others to go", () => idle.every(({ closed }) => closed));
});

test("a TLS handshake has ten seconds, whatever comes meanwhile", async () => {
  const web = await serveBehind(await open(`tls_server_config: { ${TLS} }`));
  const port = Number(new URL(web.origins[0] as string).port);
  const hello = await firstBytes();
  const begun = performance.now();
  const slow = new Map<string, number>();
  const begin = (name: string, act: (socket: Socket) => void) => {
    const socket = createConnection(port, "127.0.0.1", () => act(socket)).on("error", () => {});
    socket.resume().on("close", () => slow.set(name, performance.now() - begun));
  };
  begin("nothing", () => {});
  begin("half of the first message", (socket) => socket.write(hello.subarray(0, 50)));
  begin("a byte now and again", (socket) => {
    let at = 0;
    const timer = setInterval(() => socket.write(hello.subarray(at, ++at)), 200);
    socket.on("close", () => clearInterval(timer));
  });
  begin("nothing after the first message", (socket) => socket.write(hello));
  begin("nothing more", (socket) => socket.end(hello.subarray(0, 50)));
  // A client that is through has more.
  const through = connect({ host: "127.0.0.1", port, ca: read("ca.pem") }).on("error", () => {});
  await until("all to be shut out", () => slow.size === 5, 15_000);
  for (const time of slow.values()) expect(time).toBeGreaterThan(9_990);
  expect(through.closed).toBe(false);
  through.destroy();
});

/** What a client of TLS says first. */
async function firstBytes(): Promise<Buffer> {
  const server = createServer().listen(0, "127.0.0.1");
  await once(server, "listening");
  const { port } = server.address() as AddressInfo;
  connect({ host: "127.0.0.1", port }).on("error", () => {});
  const [socket] = (await once(server, "connection")) as [Socket];
  const [bytes] = await once(socket, "data");
  socket.destroy();
  server.close();
  return bytes;
}

test("the oldest version is the one that was asked for", async () => {
  const web = await serveBehind(await open(`tls_server_config: { ${TLS}, min_version: TLS13 }`));
  expect((await get(web)).status).toBe(200);
  await expect(get(web, { maxVersion: "TLSv1.2" })).rejects.toThrow();
});

test("more passwords at once than are checked are answered 429, of known and unknown users", async () => {
  const slow = "$2y$12$abcdefghijklmnopqrstuuT1Iwu6o8Wx7BoOyIMHfgVJq6JO/IJhW";
  const web = await serveBehind(await open(`basic_auth_users: { alice: ${slow} }`));
  for (const user of ["alice", "nobody"]) {
    const replies = await Promise.all(
      Array.from({ length: 6 }, (_, i) =>
        fetch(`${web.origins[0]}/`, {
          headers: { authorization: `Basic ${btoa(`${user}:${i}`)}` },
        }),
      ),
    );
    expect(replies.map(({ status }) => status).sort()).toEqual([401, 401, 401, 401, 429, 429]);
    const later = replies.find(({ status }) => status === 429);
    expect(later?.headers.get("retry-after")).toBe("1");
  }
});

test("where all cipher suites are of TLS 1.3, there is no TLS 1.2", () => {
  const least = (suites: string) =>
    parseWebConfig(
      `tls_server_config: { cert_file: a, key_file: b, cipher_suites: [${suites}] }`,
      "/web.yml",
    ).tls?.options;
  expect(least("TLS_AES_128_GCM_SHA256")).toMatchObject({ minVersion: "TLSv1.3" });
  expect(least("TLS_AES_128_GCM_SHA256")).not.toHaveProperty("ciphers");
  const both = "TLS_AES_128_GCM_SHA256, TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256";
  expect(least(both)).toMatchObject({
    ...{ minVersion: "TLSv1.2", ciphers: "ECDHE-RSA-AES128-GCM-SHA256" },
  });
});
