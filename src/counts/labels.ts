/** The labels that break execs down, and the value that stands for all other rows. */

export const LABELS = ["command", "user", "container"] as const;
export type Label = (typeof LABELS)[number];

/** The value of every label of the row that counts execs for which the table had no room. */
export const OTHER = "other";
