/** Fails rather than skips: a test that cannot run must not look like one that passed. */
export default function needRoot(): void {
  if (process.getuid?.() !== 0) {
    throw new Error("the tests in test/kernel/ need root: run make test");
  }
}
