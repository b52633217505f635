/** The thread that computes bcrypt. Each message is a password and a hash; it answers in turn. */
import { parentPort } from "node:worker_threads";
import { bcryptVerify } from "hash-wasm";

export interface Question {
  password: Uint8Array;
  hash: string;
}

parentPort?.on("message", async (question: Question) => {
  parentPort?.postMessage(await bcryptVerify(question));
});
// It has loaded all that it needs.
parentPort?.postMessage(undefined);
