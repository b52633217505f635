/** The thread that computes bcrypt: it answers each message, a password and a hash, in turn. */
import { parentPort } from "node:worker_threads";
import { bcryptVerify } from "hash-wasm";

export interface Question {
  password: Uint8Array;
  hash: string;
}

parentPort?.on("message", async (question: Question) => {
  parentPort?.postMessage(await bcryptVerify(question));
});
// All that it needs is loaded.
parentPort?.postMessage(undefined);
