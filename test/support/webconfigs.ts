/** Files for --web.config.file, beside those of certificates.ts, and how each is refused. */

/** Of "secret", at the lowest cost, by crypt(3) of libxcrypt. */
export const SECRET = "$2y$04$abcdefghijklmnopqrstuu2r9OfJnfCsdneAXAGHnS4UpFFP8WIrW";

const CERT = "cert_file: server.pem, key_file: server.key";
const tls = (rest: string) => `tls_server_config: { ${CERT}, ${rest} }`;

export const GOOD = [
  "",
  "# nothing\n",
  "tls_server_config:\n",
  "tls_server_config: { }",
  `tls_server_config: { ${CERT} }`,
  tls("client_auth_type: NoClientCert, min_version: TLS13"),
  tls("client_auth_type: RequireAndVerifyClientCert, client_ca_file: ca.pem"),
  tls("client_auth_type: VerifyClientCertIfGiven, client_ca_file: ca.pem"),
  tls("client_auth_type: RequireAnyClientCert"),
  tls("client_auth_type: RequestClientCert, max_version: TLS12"),
  tls("cipher_suites: [TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256, TLS_AES_128_GCM_SHA256]"),
  tls("cipher_suites: [TLS_ECDHE_ECDSA_WITH_AES_256_CBC_SHA], prefer_server_cipher_suites: false"),
  tls("cipher_suites: [TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256]"),
  tls("curve_preferences: [X25519, CurveP256, CurveP384, CurveP521]"),
  "http_server_config: { http2: false, headers: { X-Frame-Options: deny } }",
  "http_server_config: { headers: { Strict-Transport-Security: max-age=1, X-XSS-Protection: x } }",
  `basic_auth_users: { alice: ${SECRET}, "007": ${SECRET.replace("2y", "2b")}, no: ${SECRET} }`,
];

/** Refused by promtool as well. */
export const BAD: [text: string, message: string][] = [
  ["a: [", "it is not valid YAML: line 1"],
  ["- a", "it is not a mapping"],
  ["nonsense: 1", "unknown: nonsense"],
  ["tls_server_config: { cert_fil: x }", "unknown: tls_server_config.cert_fil"],
  ["tls_server_config: { cert_file: server.pem }", "key_file is missing"],
  ["tls_server_config: { key_file: server.key }", "cert_file is missing"],
  ["tls_server_config: { client_auth_type: RequestClientCert }", "cert_file is missing"],
  ["tls_server_config: { cert_file: gone, key_file: server.key }", "(ENOENT)"],
  ["tls_server_config: { cert_file: server.key, key_file: server.key }", "no certificate"],
  ["tls_server_config: { cert_file: server.pem, key_file: server.pem }", "holds no key"],
  ["tls_server_config: { cert_file: server.pem, key_file: client.key }", "does not belong to"],
  [tls("client_auth_type: Nonsense"), "client_auth_type cannot be Nonsense"],
  [tls("client_auth_type: constructor"), "client_auth_type cannot be constructor"],
  [tls("client_ca_file: ca.pem"), "client_ca_file has no effect"],
  [tls("client_auth_type: RequestClientCert, client_ca_file: gone"), "(ENOENT)"],
  [tls("min_version: TLS9"), "min_version cannot be TLS9"],
  [tls("cipher_suites: [TLS_INVENTED]"), "cipher_suites: there is no TLS_INVENTED"],
  [tls("cipher_suites: 1"), "cipher_suites is not a list"],
  [tls("curve_preferences: [P1]"), "curve_preferences cannot be P1"],
  [tls("prefer_server_cipher_suites: maybe"), "prefer_server_cipher_suites cannot be maybe"],
  [`${tls("min_version: TLS12")}\ntls_server_config: {}`, "it is not valid YAML: line 2"],
  ["http_server_config: { headers: { X-Other: x } }", "unknown: headers.X-Other"],
  ["http_server_config: { headers: { X-Frame-Options: x } }", "X-Frame-Options cannot be"],
  ["basic_auth_users: { alice: secret }", 'the password of "alice" is not a bcrypt hash'],
  ["basic_auth_users: [alice]", "basic_auth_users is not a mapping"],
];

/** What promtool may accept: not supported here, or not safe. */
export const OURS: [text: string, message: string][] = [
  ["http_server_config: { http2: true }", "http2 is not supported"],
  [tls("client_allowed_sans: [a]"), "client_allowed_sans is not supported"],
  ["rate_limit: { interval: 1s, burst: 1 }", "rate_limit is not supported"],
  [tls("client_auth_type: RequireAndVerifyClientCert"), "needs client_ca_file"],
  [tls("client_auth_type: RequestClientCert, client_ca_file: ca.key"), "holds no certificate"],
  [tls("min_version: TLS13, max_version: TLS12"), "min_version is above max_version"],
  [
    tls("cipher_suites: [TLS_AES_128_GCM_SHA256], max_version: TLS12"),
    "cipher_suites has none for TLS 1.2",
  ],
  [tls("min_version: TLS11"), "min_version cannot be TLS11"],
  [tls("cert: x"), "both cert and cert_file are given"],
  ["tls_server_config: { cert_file: ., key_file: server.key }", "(not a file)"],
  ["a: 1\n---\nb: 1", "it is not valid YAML"],
  ["basic_auth_users: *nobody", "it is not valid YAML"],
];
