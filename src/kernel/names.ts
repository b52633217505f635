/**
 * The labels of rows, from one read to the next: they are told once, and then known by the rows'
 * numbers. So a read of many rows makes next to nothing that is not new.
 */
import { OTHER, RETIRED } from "../counts/labels.ts";
import { type Breakdown, type RowName, rowKey } from "../counts/snapshot.ts";
import { type Execs, OTHER_ROW, RETIRED_ROW } from "./addon.ts";
import type { Meter } from "./meter.ts";

export class Names {
  /** Of the last read, for the next one; undefined where not all labels are known. */
  serial: number | undefined;
  /** By the rows' numbers; some may be gone by now. */
  #byNumber: RowName[] = [];
  /** By their keys. Rows that look the same have the same name. */
  readonly #byKey = new Map<string, RowName>();
  /** The names of the accounts whose rows were seen. */
  readonly #users = new Map<number, string>();
  /** Whether rows may have the same name. */
  #alike = false;
  /** Whether accounts have the same name. */
  #namesakes = false;

  /** The rows of a read, with the values of their labels. */
  breakdown(execs: Execs, meter: Meter): Breakdown {
    this.serial = undefined;
    if (execs.anew) this.#forget();
    this.#renameUsers(meter);
    this.#learn(execs, meter);
    this.serial = execs.serial;
    const { numbers, counts } = execs;
    const names: RowName[] = new Array(numbers.length);
    for (let i = 0; i < numbers.length; i++) {
      names[i] = this.#byNumber[numbers[i] as number] as RowName;
    }
    const rows = { names, counts, namesakes: this.#namesakes };
    return this.#alike ? merged(rows) : rows;
  }

  #forget(): void {
    this.#byNumber = [];
    this.#byKey.clear();
    this.#users.clear();
    this.#alike = false;
    this.#namesakes = false;
  }

  #learn({ kinds, numbers, fresh, uids, labels }: Execs, meter: Meter): void {
    const known = this.#users.size;
    for (let i = 0; i < fresh.length; i++) {
      const at = fresh[i] as number;
      const kind = kinds[at];
      const of = kind === OTHER_ROW ? OTHER : kind === RETIRED_ROW ? RETIRED : undefined;
      const values: RowName["labels"] = {};
      let uid: number | undefined;
      for (const label of meter.by) {
        if (of) {
          values[label] = of;
        } else if (label === "user") {
          uid = uids[i] as number;
          let user = this.#users.get(uid);
          if (user === undefined) {
            user = meter.userName(uid);
            this.#users.set(uid, user);
          }
          values.user = user;
        } else {
          values[label] = labels[label]?.[i] as string;
        }
      }
      this.#byNumber[numbers[at] as number] = this.#nameOf(values, uid, of);
    }
    if (this.#users.size > known) this.#compareUsers();
  }

  #nameOf(labels: RowName["labels"], uid?: number, of?: RowName["of"]): RowName {
    const key = rowKey(labels, uid);
    const known = this.#byKey.get(key);
    if (known) {
      // Units that were started again, names that are not UTF-8 and look the same once decoded,
      // a command that is called other.
      this.#alike = true;
      known.of ??= of;
      return known;
    }
    const name = { labels, uid, of, key };
    this.#byKey.set(key, name);
    return name;
  }

  /** Names can change, or become known. */
  #renameUsers(meter: Meter): void {
    const renamed = new Set<number>();
    for (const [uid, before] of this.#users) {
      const user = meter.userName(uid);
      if (user === before) continue;
      this.#users.set(uid, user);
      renamed.add(uid);
    }
    if (renamed.size === 0) return;
    this.#compareUsers();
    for (const name of this.#byKey.values()) {
      const { uid, labels } = name;
      if (uid === undefined || !renamed.has(uid)) continue;
      const user = this.#users.get(uid) as string;
      const { of, key } = name;
      this.#byKey.set(key, { labels: { ...labels, user }, uid, of, key });
    }
    this.#byNumber = this.#byNumber.map(({ key }) => this.#byKey.get(key) as RowName);
  }

  #compareUsers(): void {
    const names = [...this.#users.values(), OTHER, RETIRED];
    this.#namesakes = new Set(names).size < names.length;
  }
}

/** The rows, those with the same name as one. */
function merged({ names, counts, namesakes }: Breakdown): Breakdown {
  const places = new Map<RowName, number>();
  const sums = new BigUint64Array(counts.length);
  for (let i = 0; i < names.length; i++) {
    const name = names[i] as RowName;
    let place = places.get(name);
    if (place === undefined) {
      place = places.size;
      places.set(name, place);
    }
    sums[place] = (sums[place] as bigint) + (counts[i] as bigint);
  }
  return { names: [...places.keys()], counts: sums.subarray(0, places.size), namesakes };
}
