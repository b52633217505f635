import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { sh } from "./meter.ts";

/**
 * Makes in `directory` a certificate authority (ca.pem), what it has signed for a
 * server at 127.0.0.1 and for a client (server.pem, client.pem, each with a .key),
 * and a stranger that none has signed.
 */
export function makeCertificates(directory: string): void {
  const openssl = (...args: string[]) => sh("openssl", args, { cwd: directory, stdio: "pipe" });
  const key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"];
  const make = (name: string, ...rest: string[]) =>
    openssl("req", ...key, "-keyout", `${name}.key`, "-subj", `/CN=${name}`, ...rest);
  const san = "subjectAltName=DNS:localhost,IP:127.0.0.1";
  make("ca", "-x509", "-out", "ca.pem", "-days", "2");
  make("stranger", "-x509", "-out", "stranger.pem", "-days", "2", "-addext", san);
  writeFileSync(join(directory, "san"), san);
  for (const name of ["server", "client"]) {
    make(name, "-out", `${name}.csr`);
    const by = ["-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-days", "2"];
    openssl("x509", "-req", "-in", `${name}.csr`, ...by, "-extfile", "san", "-out", `${name}.pem`);
  }
}
