/**
 * Errors in a user's words: one line says what failed, one line says what to do. Each has
 * an exit code.
 */
export const ExitCode = { failed: 1, usage: 2, unable: 3, overBudget: 4 } as const;
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

/** What to do when there are no file descriptors left. */
export const MORE_FILES = "raise the limit on open files (ulimit -n)";

/**
 * The error for a value that is not allowed.
 *
 * @param choice the flag, or the option of the library, that was given the value
 */
export function wrong(choice: string, value: unknown, remedy: string): UserError {
  return new UserError(`${choice} cannot be ${JSON.stringify(value)}`, remedy, ExitCode.usage);
}
