/** TLS by the settings of a file: checks keys and certificates. */
import { createPrivateKey, X509Certificate } from "node:crypto";
import { createSecureContext, createServer, type TlsOptions } from "node:tls";
import { ExitCode, UserError } from "../base/errors.ts";
import type { Protection } from "./server.ts";

/** Milliseconds that a client has for the TLS handshake. */
const HANDSHAKE_MAX_MS = 10_000;

export interface TlsSettings {
  /** Each as PEM, or as the path of a file. */
  cert: Source;
  key: Source;
  clientCa: Source | undefined;
  clientAuth: { ask: boolean; require: boolean; verify: boolean };
  options: TlsOptions;
}

export type Source = { pem: string } | { file: string };

/** Reads a file; the second argument names the setting, for the error message. */
type Read = (file: string, what: string) => string;

/** Reads and checks key and certificates; returns the function that makes a server with them. */
export function toServer(
  { cert, key, clientCa, clientAuth, options }: TlsSettings,
  read: Read,
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
    // None rather than those that Node.js knows, which would vouch for any client they signed.
    ca: authority ? [authority.text] : [],
    requestCert: clientAuth.ask,
    // Decided below, where both are known.
    rejectUnauthorized: false,
    handshakeTimeout: HANDSHAKE_MAX_MS,
  };
  orRefuse("tls_server_config cannot be used", "give other ciphers, curves or versions", () =>
    createSecureContext(all),
  );
  return (welcome) =>
    createServer(all, (socket) => {
      const given = socket.getPeerX509Certificate() !== undefined;
      if (given ? !clientAuth.verify || socket.authorized : !clientAuth.require) welcome(socket);
      else socket.destroy();
      // Also for a client that is out of time, which Node.js leaves connected.
    }).on("tlsClientError", (_, socket) => socket.destroy());
}

interface Pem {
  /** Its name in messages: "cert_file /etc/cert.pem". */
  name: string;
  text: string;
}

function toPem(name: string, source: Source, read: Read): Pem {
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

/** @throws UserError where `use` throws */
export function orRefuse<T>(what: string, remedy: string, use: () => T): T {
  try {
    return use();
  } catch (error) {
    throw new UserError(`${what} (${(error as Error).message})`, remedy, ExitCode.usage);
  }
}
