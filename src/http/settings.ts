/**
 * --web.config.file: TLS and basic auth, in the format of the Prometheus exporter
 * toolkit. What the format has and this server has not is refused, never ignored.
 */
import { createPrivateKey, X509Certificate } from "node:crypto";
import { closeSync, constants, fstatSync, openSync, readFileSync } from "node:fs";
import { dirname, resolve } from "node:path";
import { createSecureContext, createServer, getCiphers, type TlsOptions } from "node:tls";
import { isMap, LineCounter, parseDocument } from "yaml";
import { ExitCode, MORE_FILES, UserError } from "../base/errors.ts";
import { Passwords, Verifier } from "./passwords.ts";
import type { Protection } from "./server.ts";

/** Milliseconds between two looks at the files, while somebody asks. */
const PERIOD = 1000;
/** Milliseconds that a client has for the TLS handshake. */
const HANDSHAKE = 10_000;
const LARGEST_FILE = 1 << 20;
/** A pipe would be waited for, and a terminal become this process's. */
const AT_ONCE = constants.O_RDONLY | constants.O_NONBLOCK | constants.O_NOCTTY;

const KEYS = {
  "": ["tls_server_config", "http_server_config", "basic_auth_users", "rate_limit"],
  tls_server_config: [
    ...["cert", "key", "client_ca", "cert_file", "key_file", "client_ca_file"],
    ...["client_auth_type", "client_allowed_sans", "min_version", "max_version"],
    ...["cipher_suites", "prefer_server_cipher_suites", "curve_preferences"],
  ],
  http_server_config: ["http2", "headers"],
};

/** In order; of older ones no good is left (RFC 8996). */
const VERSIONS = { TLS12: "TLSv1.2", TLS13: "TLSv1.3" } as const;
const CURVES: Record<string, string> = {
  CurveP256: "P-256",
  CurveP384: "P-384",
  CurveP521: "P-521",
  X25519: "X25519",
};
/** Whether a client certificate is asked for, must be there, and is verified. */
const CLIENT_AUTH: Record<string, { ask: boolean; require: boolean; verify: boolean }> = {
  NoClientCert: { ask: false, require: false, verify: false },
  RequestClientCert: { ask: true, require: false, verify: false },
  RequireAnyClientCert: { ask: true, require: true, verify: false },
  // The toolkit's name for the same of old.
  RequireClientCert: { ask: true, require: true, verify: false },
  VerifyClientCertIfGiven: { ask: true, require: false, verify: true },
  RequireAndVerifyClientCert: { ask: true, require: true, verify: true },
};
/** Headers that may be set, and what to. */
const HEADERS: Record<string, readonly string[] | undefined> = {
  "Content-Security-Policy": undefined,
  "X-Frame-Options": ["deny", "sameorigin"],
  "X-Content-Type-Options": ["nosniff"],
  "X-XSS-Protection": undefined,
  "Strict-Transport-Security": undefined,
};
const BCRYPT = /^\$2[abxy]\$(?:0[4-9]|[12]\d|3[01])\$[./A-Za-z0-9]{53}$/;

/** What a file asks for; the files that it names are not read yet. */
export interface WebSettings {
  tls: TlsSettings | undefined;
  headers: Record<string, string>;
  users: ReadonlyMap<string, string>;
}

interface TlsSettings {
  /** Each as PEM, or as the path of a file. */
  cert: Source;
  key: Source;
  clientCa: Source | undefined;
  clientAuth: { ask: boolean; require: boolean; verify: boolean };
  options: TlsOptions;
}

type Source = { pem: string } | { file: string };

type Fields = Map<string, unknown>;

/**
 * Reads the file's text.
 *
 * @param path of the file, to name it and to find the files it names beside it
 * @throws UserError where it is wrong
 */
export function parseWebConfig(text: string, path: string): WebSettings {
  const refuse = (what: string, remedy: string): never => {
    throw new UserError(`${path}: ${what}`, remedy, ExitCode.usage);
  };
  const lines = new LineCounter();
  // Every scalar is a text: a user may be called 007, or no.
  const document = parseDocument(text, {
    schema: "failsafe",
    prettyErrors: false,
    lineCounter: lines,
  });
  const [error] = document.errors;
  if (error) {
    const { line } = lines.linePos(error.pos[0]);
    refuse(`it is no YAML: line ${line}: ${error.code}`, `mend line ${line}`);
  }

  const fields = (value: unknown, where: string, known?: readonly string[]): Fields => {
    if (value === undefined || value === "") return new Map();
    if (!(value instanceof Map)) {
      return refuse(`${where || "it"} is no mapping`, "see docs/web.md for the format");
    }
    for (const key of value.keys()) {
      if (typeof key !== "string" || (known && !known.includes(key))) {
        const name = typeof key === "string" ? key : "a key that is no text";
        refuse(
          `unknown: ${where && `${where}.`}${name}`,
          known ? `leave it out; known are ${known.join(", ")}` : "give texts as keys",
        );
      }
    }
    return value as Fields;
  };
  const string = (from: Fields, key: string): string => {
    const value = from.get(key) ?? "";
    return typeof value === "string" ? value : refuse(`${key} is no text`, "give it one value");
  };
  const list = (from: Fields, key: string): string[] => {
    const value = from.get(key) ?? "";
    if (value === "") return [];
    const texts = Array.isArray(value) && value.every((each) => typeof each === "string");
    return texts
      ? value
      : refuse(`${key} is no list`, "give each value in a line of its own, after -");
  };
  const flag = (from: Fields, key: string, fallback: boolean): boolean => {
    const value = string(from, key);
    if (value === "") return fallback;
    if (value === "true") return true;
    return value === "false" ? false : refuse(`${key} cannot be ${value}`, "give true or false");
  };
  const choice = <T>(key: string, name: string, choices: Record<string, T>): T =>
    Object.hasOwn(choices, name)
      ? (choices[name] as T)
      : refuse(`${key} cannot be ${name}`, `give one of ${Object.keys(choices).join(", ")}`);

  const content = orRefuse(`${path}: it is no YAML`, "write each value out, without *", () =>
    document.toJS({ mapAsMap: true }),
  );
  const top = fields(isMap(document.contents) ? content : (content ?? ""), "", KEYS[""]);
  const tls = fields(top.get("tls_server_config"), "tls_server_config", KEYS.tls_server_config);
  const http = fields(top.get("http_server_config"), "http_server_config", KEYS.http_server_config);

  if (top.has("rate_limit")) {
    refuse("rate_limit is not supported", "leave it out: what requests may cost is bounded anyway");
  }
  if (tls.has("client_allowed_sans")) {
    refuse(
      "client_allowed_sans is not supported",
      "leave it out, and give a client_ca_file that has signed the clients you mean and no others",
    );
  }
  if (flag(http, "http2", false)) {
    refuse("http2 is not supported", "say http2: false, or nothing: Prometheus takes HTTP/1.1");
  }

  const source = (name: string): Source | undefined => {
    const pem = string(tls, name);
    const file = string(tls, `${name}_file`);
    if (pem && file) refuse(`both ${name} and ${name}_file are given`, "leave out one of them");
    if (pem) return { pem };
    return file ? { file: resolve(dirname(path), file) } : undefined;
  };
  const version = (key: string, fallback: string) =>
    choice(key, string(tls, key) || fallback, VERSIONS);

  const tlsSettings = (): TlsSettings => {
    const cert = source("cert");
    const key = source("key");
    if (!cert || !key) {
      const missing = cert ? "key_file" : "cert_file";
      return refuse(`${missing} is missing in tls_server_config`, `give cert_file and key_file`);
    }
    const type = string(tls, "client_auth_type") || "NoClientCert";
    const clientAuth = choice("client_auth_type", type, CLIENT_AUTH);
    const clientCa = source("client_ca");
    if (clientCa && !clientAuth.ask) {
      refuse(
        `client_ca_file is of no use with client_auth_type ${type}`,
        "give client_auth_type: RequireAndVerifyClientCert",
      );
    }
    if (clientAuth.verify && !clientCa) {
      refuse(
        `client_auth_type ${type} needs client_ca_file`,
        "give the file of the certificates that have signed the clients'",
      );
    }
    const min = version("min_version", "TLS12");
    const max = version("max_version", "TLS13");
    if (min > max) refuse("min_version is above max_version", "give a lower min_version");
    // Those of TLS 1.3 are not for choosing, as in the toolkit; without any other there is
    // no TLS 1.2.
    const suites = list(tls, "cipher_suites");
    const ciphers = suites.flatMap((name) => {
      if (/^TLS_(AES|CHACHA20)_/.test(name)) return [];
      const ours = toOpenSsl(name);
      if (getCiphers().includes(ours.toLowerCase())) return [ours];
      return refuse(`cipher_suites: there is no ${name}`, "leave it out");
    });
    const only13 = suites.length > 0 && ciphers.length === 0;
    if (only13 && max !== VERSIONS.TLS13) {
      refuse("cipher_suites has none for TLS 1.2", "name one, or leave out max_version");
    }
    const curves = list(tls, "curve_preferences").map((name) =>
      choice("curve_preferences", name, CURVES),
    );
    return {
      ...{ cert, key, clientCa, clientAuth },
      options: {
        minVersion: only13 ? VERSIONS.TLS13 : min,
        maxVersion: max,
        honorCipherOrder: flag(tls, "prefer_server_cipher_suites", true),
        ...(ciphers.length > 0 && { ciphers: ciphers.join(":") }),
        ...(curves.length > 0 && { ecdhCurve: curves.join(":") }),
      },
    };
  };

  const headers: Record<string, string> = {};
  const given = fields(http.get("headers"), "headers", Object.keys(HEADERS));
  for (const name of given.keys()) {
    const value = string(given, name);
    const allowed = HEADERS[name];
    if (allowed && !allowed.includes(value)) {
      refuse(`${name} cannot be ${JSON.stringify(value)}`, `give ${allowed.join(" or ")}`);
    }
    if (/[^\t\x20-\x7e]/.test(value)) {
      refuse(`${name} has a character that no header may have`, "leave it out");
    }
    if (value) headers[name.toLowerCase()] = value;
  }

  const users = fields(top.get("basic_auth_users"), "basic_auth_users");
  for (const user of users.keys()) {
    if (!BCRYPT.test(string(users, user))) {
      refuse(
        `the password of ${JSON.stringify(user)} is no bcrypt hash`,
        `make one: htpasswd -nBC 10 "" | tr -d ':\\n'`,
      );
    }
  }

  return {
    // Any of the others asks for TLS, as in the toolkit: so a missing cert_file is told.
    tls: tls.size > 0 ? tlsSettings() : undefined,
    headers,
    users: users as Map<string, string>,
  };
}

/** TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256 as ECDHE-RSA-AES128-GCM-SHA256. */
function toOpenSsl(name: string): string {
  return name
    .replace(/^TLS_(RSA_WITH_)?/, "")
    .replace("_WITH_", "_")
    .replace(/AES_(\d+)(_CBC)?/, "AES$1")
    .replace(/(CHACHA20_POLY1305)_SHA256$/, "$1")
    .replaceAll("_", "-");
}

/** The settings in force, and the files they come from, which are read again as they change. */
export class WebConfig {
  /**
   * The files that are read again: the one given, and those it names. Whoever becomes
   * another user asks unreadable() afterwards.
   */
  files: readonly string[];
  readonly #path: string;
  readonly #onChange: (error?: UserError) => void;
  #protection: Protection = { headers: {} };
  #verifier: Verifier | undefined;
  /** What each file held when it was last read. */
  readonly #texts = new Map<string, string>();
  /** Files that cannot be read any more: until they can, what they held counts. */
  readonly #kept = new Set<string>();
  /** What the files held, or why they could not be read, at the last look. */
  #seen = "";
  #looked = performance.now();

  private constructor(path: string, onChange: (error?: UserError) => void) {
    this.#path = path;
    this.files = [path];
    this.#onChange = onChange;
  }

  /**
   * @param onChange called when changed files are in force or, with the reason, when
   *   they cannot be: then what was in force stays so
   * @throws UserError where a file is wrong or cannot be read
   */
  static async open(path: string, onChange: (error?: UserError) => void): Promise<WebConfig> {
    const config = new WebConfig(path, onChange);
    const settings = config.#take();
    // Started now: a user that the agent becomes may not be able to load it.
    if (settings.users.size > 0) config.#verifier = await Verifier.start();
    config.#protection = config.#load(settings);
    return config;
  }

  /** What is in force: that of the files as they are, or were a second ago. */
  get protection(): Protection {
    const now = performance.now();
    if (now - this.#looked < PERIOD) return this.#protection;
    this.#looked = now;
    if (this.#look() === this.#seen) return this.#protection;
    try {
      this.#protection = this.#load(this.#take());
      this.#onChange();
    } catch (error) {
      this.#onChange(error as UserError);
    }
    return this.#protection;
  }

  /** Which of the files this process may not read, and why: "EACCES". Until it may, they hold what they held. */
  unreadable(): { file: string; code: string }[] {
    return this.files.flatMap((file) => {
      try {
        closeSync(openSync(file, AT_ONCE));
        return [];
      } catch (error) {
        const { code = "" } = error as NodeJS.ErrnoException;
        if (code === "EACCES" || code === "EPERM") this.#kept.add(file);
        return [{ file, code }];
      }
    });
  }

  close(): void {
    this.#verifier?.close();
  }

  #look(): string {
    const found = this.files.map((file) => {
      try {
        return this.#read(file, "");
      } catch (error) {
        return (error as Error).message;
      }
    });
    return JSON.stringify(found);
  }

  #read(file: string, what: string): string {
    try {
      const text = readFile(file, what);
      this.#texts.set(file, text);
      this.#kept.delete(file);
      return text;
    } catch (error) {
      const text = this.#kept.has(file) ? this.#texts.get(file) : undefined;
      if (text === undefined) throw error;
      return text;
    }
  }

  /** The settings of the file as it is, which names the files to look at from now on. */
  #take(): WebSettings {
    for (;;) {
      // Looked at before it is used, so that a change meanwhile shows at the next look.
      this.#seen = this.#look();
      const settings = parseWebConfig(this.#read(this.#path, "--web.config.file"), this.#path);
      const { cert, key, clientCa } = settings.tls ?? {};
      const named = [cert, key, clientCa].flatMap((source) =>
        source && "file" in source ? [source.file] : [],
      );
      const files = [this.#path, ...named];
      if (files.join("\0") === this.files.join("\0")) return settings;
      this.files = files;
    }
  }

  #load({ tls, headers, users }: WebSettings): Protection {
    const makeServer = tls && toServer(tls, (file, what) => this.#read(file, what));
    if (users.size === 0) return { headers, ...(makeServer && { tls: makeServer }) };
    if (!this.#verifier) {
      throw new UserError(
        `${this.#path}: there were no basic_auth_users before`,
        "start again, to have passwords looked at",
        ExitCode.failed,
      );
    }
    const passwords = new Passwords(users, this.#verifier);
    return {
      headers,
      ...(makeServer && { tls: makeServer }),
      admit: (authorization, client) => passwords.admit(authorization, client),
    };
  }
}

/** Reads key and certificates, checks them, and makes of them what a server is made with. */
function toServer(
  { cert, key, clientCa, clientAuth, options }: TlsSettings,
  read: typeof readFile,
): Protection["tls"] {
  const certificate = toPem("cert", cert, read);
  const privateKey = toPem("key", key, read);
  const authority = clientCa && toPem("client_ca", clientCa, read);
  const [own] = toCertificates(certificate);
  if (authority) toCertificates(authority);
  const belongs = orRefuse(
    `${privateKey.name} holds no key`,
    "give a private key in PEM, without a passphrase",
    () => own?.checkPrivateKey(createPrivateKey(privateKey.text)),
  );
  if (!belongs) {
    throw new UserError(
      `${privateKey.name} does not belong to ${certificate.name}`,
      "give the key that the certificate was made for",
      ExitCode.usage,
    );
  }
  const all: TlsOptions = {
    ...options,
    cert: certificate.text,
    key: privateKey.text,
    // None rather than those that Node.js knows, which would vouch for anybody.
    ca: authority ? [authority.text] : [],
    requestCert: clientAuth.ask,
    // Decided below, where both are known.
    rejectUnauthorized: false,
    handshakeTimeout: HANDSHAKE,
  };
  orRefuse("tls_server_config cannot be used", "give other ciphers, curves or versions", () =>
    createSecureContext(all),
  );
  return (welcome) =>
    createServer(all, (socket) => {
      const given = socket.getPeerX509Certificate() !== undefined;
      if (given ? !clientAuth.verify || socket.authorized : !clientAuth.require) welcome(socket);
      else socket.destroy();
      // Also who is out of time, whom Node.js leaves connected.
    }).on("tlsClientError", (_, socket) => socket.destroy());
}

interface Pem {
  /** What to call it: "cert_file /etc/cert.pem". */
  name: string;
  text: string;
}

function toPem(name: string, source: Source, read: typeof readFile): Pem {
  if ("pem" in source) return { name, text: source.pem };
  return {
    name: `${name}_file ${source.file}`,
    text: read(source.file, `${name}_file`),
  };
}

function toCertificates({ name, text }: Pem): X509Certificate[] {
  const blocks = text.match(/-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----/gs);
  return orRefuse(`${name} holds no certificate`, "give certificates in PEM", () => {
    if (!blocks) throw new Error("there is none");
    return blocks.map((block) => new X509Certificate(block));
  });
}

function orRefuse<T>(what: string, remedy: string, use: () => T): T {
  try {
    return use();
  } catch (error) {
    throw new UserError(`${what} (${(error as Error).message})`, remedy, ExitCode.usage);
  }
}

/** @param what what the file is, for who gave it */
function readFile(file: string, what: string): string {
  let fd: number | undefined;
  try {
    fd = openSync(file, AT_ONCE);
    // Looked at once it is open: who owns the directory may put something else in its place.
    const stats = fstatSync(fd);
    if (!stats.isFile() || stats.size > LARGEST_FILE) {
      throw Object.assign(new Error(), { code: stats.isFile() ? "EFBIG" : "not a file" });
    }
    return readFileSync(fd, "utf8");
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    const denied = code === "EACCES" || code === "EPERM";
    throw new UserError(
      `cannot read ${what} ${file} (${code})`,
      denied
        ? "let the user that the meter runs as read it, with chgrp and chmod"
        : code === "EFBIG"
          ? "name a file of at most 1 MiB"
          : code === "EMFILE"
            ? MORE_FILES
            : "name a file that is there",
      denied ? ExitCode.unable : ExitCode.usage,
    );
  } finally {
    if (fd !== undefined) closeSync(fd);
  }
}
