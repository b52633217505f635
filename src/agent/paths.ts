/** Paths that --web.telemetry-path cannot take, because they serve something else. */
export const FIXED_PATHS: readonly string[] = [
  "/api/v1/counts",
  "/api/v1/status",
  "/api/v1/history",
  "/-/healthy",
  "/healthz",
  "/-/ready",
  "/readyz",
];
