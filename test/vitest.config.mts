import { fileURLToPath } from "node:url";
import { defineConfig } from "vitest/config";
import "./support/environment.mjs";

const root = fileURLToPath(new URL("..", import.meta.url));

export default defineConfig({
  test: {
    projects: [
      { root, test: { name: "unit", include: ["test/unit/**/*.test.ts"], testTimeout: 120_000 } },
      {
        root,
        test: {
          name: "kernel",
          include: ["test/kernel/*.test.ts"],
          globalSetup: "test/support/need-root.ts",
          // One kernel for all: one test at a time.
          fileParallelism: false,
          testTimeout: 300_000,
          hookTimeout: 300_000,
        },
      },
      {
        root,
        test: {
          name: "package",
          include: ["test/package/*.test.ts"],
          globalSetup: "test/support/need-root.ts",
          testTimeout: 1_200_000,
          hookTimeout: 120_000,
        },
      },
      {
        root,
        test: {
          name: "cluster",
          include: ["test/cluster/*.test.ts"],
          globalSetup: "test/support/need-root.ts",
          // One kernel for all: one test at a time.
          fileParallelism: false,
          testTimeout: 300_000,
          hookTimeout: 600_000,
        },
      },
      {
        root,
        test: {
          name: "pictures",
          include: ["test/pictures/*.test.ts"],
          globalSetup: "test/support/need-root.ts",
          fileParallelism: false,
          testTimeout: 3_600_000,
        },
      },
      {
        root,
        test: {
          name: "vm",
          include: ["test/vm/*.test.ts"],
          testTimeout: 1_900_000,
        },
      },
    ],
  },
});
