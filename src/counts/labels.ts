/** The labels that break execs down, and the values that stand for many rows. */

export const LABELS = ["command", "user", "container", "parent", "unit", "path"] as const;
export type Label = (typeof LABELS)[number];

/** The labels that the kernel's memory is read for, which lockdown=confidentiality forbids. */
export const READ_LABELS: readonly Label[] = ["container", "unit", "path"];

/** The labels of control groups, which end: rows that have one can retire. */
export const GROUP_LABELS: readonly Label[] = ["container", "unit"];

/** The value of every label of the row that counts execs for which the table had no room. */
export const OTHER = "other";

/** The value of every label of the row of those that were removed once their groups had ended. */
export const RETIRED = "retired";
