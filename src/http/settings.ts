/**
 * The format of --web.config.file: that of the Prometheus exporter toolkit. A setting that this
 * server does not support is refused, never ignored.
 */
import { dirname, resolve } from "node:path";
import { getCiphers } from "node:tls";
import { isMap, LineCounter, parseDocument } from "yaml";
import { ExitCode, UserError } from "../base/errors.ts";
import { orRefuse, type Source, type TlsSettings } from "./tls.ts";

const KEYS = {
  "": ["tls_server_config", "http_server_config", "basic_auth_users", "rate_limit"],
  tls_server_config: [
    ...["cert", "key", "client_ca", "cert_file", "key_file", "client_ca_file"],
    ...["client_auth_type", "client_allowed_sans", "min_version", "max_version"],
    ...["cipher_suites", "prefer_server_cipher_suites", "curve_preferences"],
  ],
  http_server_config: ["http2", "headers"],
};

/** In order; the older ones are deprecated (RFC 8996). */
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
  // The toolkit's old name for the same.
  RequireClientCert: { ask: true, require: true, verify: false },
  VerifyClientCertIfGiven: { ask: true, require: false, verify: true },
  RequireAndVerifyClientCert: { ask: true, require: true, verify: true },
};
/** Headers that may be set, each with its values; undefined for any value. */
const HEADERS: Record<string, readonly string[] | undefined> = {
  "Content-Security-Policy": undefined,
  "X-Frame-Options": ["deny", "sameorigin"],
  "X-Content-Type-Options": ["nosniff"],
  "X-XSS-Protection": undefined,
  "Strict-Transport-Security": undefined,
};
const BCRYPT = /^\$2[abxy]\$(?:0[4-9]|[12]\d|3[01])\$[./A-Za-z0-9]{53}$/;

/** The settings of a file; the files that it names are not read yet. */
export interface WebSettings {
  tls: TlsSettings | undefined;
  headers: Record<string, string>;
  users: ReadonlyMap<string, string>;
}

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
    refuse(`it is not valid YAML: line ${line}: ${error.code}`, `correct line ${line}`);
  }

  const fields = (value: unknown, where: string, known?: readonly string[]): Fields => {
    if (value === undefined || value === "") return new Map();
    if (!(value instanceof Map)) {
      return refuse(`${where || "it"} is not a mapping`, "see docs/web.md for the format");
    }
    for (const key of value.keys()) {
      if (typeof key !== "string" || (known && !known.includes(key))) {
        const name = typeof key === "string" ? key : "a key that is not text";
        refuse(
          `unknown: ${where && `${where}.`}${name}`,
          known ? `leave it out; known are ${known.join(", ")}` : "use text as keys",
        );
      }
    }
    return value as Fields;
  };
  const string = (from: Fields, key: string): string => {
    const value = from.get(key) ?? "";
    return typeof value === "string" ? value : refuse(`${key} is not text`, "give it one value");
  };
  const list = (from: Fields, key: string): string[] => {
    const value = from.get(key) ?? "";
    if (value === "") return [];
    const texts = Array.isArray(value) && value.every((each) => typeof each === "string");
    return texts
      ? value
      : refuse(`${key} is not a list`, "give each value on a line of its own, after -");
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

  const content = orRefuse(`${path}: it is not valid YAML`, "write each value out, without *", () =>
    document.toJS({ mapAsMap: true }),
  );
  const top = fields(isMap(document.contents) ? content : (content ?? ""), "", KEYS[""]);
  const tls = fields(top.get("tls_server_config"), "tls_server_config", KEYS.tls_server_config);
  const http = fields(top.get("http_server_config"), "http_server_config", KEYS.http_server_config);

  if (top.has("rate_limit")) {
    refuse("rate_limit is not supported", "leave it out: the cost of requests is bounded anyway");
  }
  if (tls.has("client_allowed_sans")) {
    refuse(
      "client_allowed_sans is not supported",
      "leave it out, and give a client_ca_file that signs the clients you want and no others",
    );
  }
  if (flag(http, "http2", false)) {
    refuse(
      "http2 is not supported",
      "leave it out, or set it to false: Prometheus accepts HTTP/1.1",
    );
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
        `client_ca_file has no effect with client_auth_type ${type}`,
        "give client_auth_type: RequireAndVerifyClientCert",
      );
    }
    if (clientAuth.verify && !clientCa) {
      refuse(
        `client_auth_type ${type} needs client_ca_file`,
        "give the file of the certificates that signed the clients' certificates",
      );
    }
    const min = version("min_version", "TLS12");
    const max = version("max_version", "TLS13");
    if (min > max) refuse("min_version is above max_version", "give a lower min_version");
    // The suites of TLS 1.3 cannot be chosen, as in the toolkit. If the list has no others,
    // there is no TLS 1.2.
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
      refuse(`${name} has a character that is not allowed in a header`, "leave it out");
    }
    if (value) headers[name.toLowerCase()] = value;
  }

  const users = fields(top.get("basic_auth_users"), "basic_auth_users");
  for (const user of users.keys()) {
    if (!BCRYPT.test(string(users, user))) {
      refuse(
        `the password of ${JSON.stringify(user)} is not a bcrypt hash`,
        `make one: htpasswd -nBC 10 "" | tr -d ':\\n'`,
      );
    }
  }

  return {
    // Any of these settings asks for TLS, as in the toolkit, so a missing cert_file is reported.
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
