/**
 * What went wrong, in a user's words: one line that says what failed, one line
 * that says what to do, and the exit code.
 */
export const ExitCode = { failed: 1, usage: 2, unable: 3 } as const;
export type ExitCode = (typeof ExitCode)[keyof typeof ExitCode];

/** An error that the user can act on; shown without a stack. */
export class UserError extends Error {
  override readonly name = "UserError";
  readonly remedy: string;
  readonly exitCode: ExitCode;

  /**
   * @param what what failed, one line without a full stop
   * @param remedy what to do about it, one line
   */
  constructor(what: string, remedy: string, exitCode: ExitCode) {
    super(what);
    this.remedy = remedy;
    this.exitCode = exitCode;
  }
}

/** The remedy of whoever is out of file descriptors. */
export const MORE_FILES = "raise the limit on open files (ulimit -n)";

/**
 * The error of a choice that cannot be.
 *
 * @param choice what was to be chosen: a flag, or an option of the library
 */
export function wrong(choice: string, value: unknown, remedy: string): UserError {
  return new UserError(`${choice} cannot be ${JSON.stringify(value)}`, remedy, ExitCode.usage);
}
