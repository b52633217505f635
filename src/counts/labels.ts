/** What a started program can be told apart by, and the values that mean something else. */

export const LABELS = ["command", "user", "container"] as const;
export type Label = (typeof LABELS)[number];

/** The value of every label of the row that counts what found no room. */
export const OTHER = "other";
