/** Elements of the page, and how numbers and names look in them. */
import { escaped, visible } from "../../base/text.ts";

/** A count from JSON: beyond the safe integers a bigint, where the browser can parse it so. */
export type Count = number | bigint;

export function element<Type extends HTMLElement = HTMLElement>(id: string): Type {
  return document.getElementById(id) as Type;
}

/** Sets a text only where it changes: so a selection in it stays. */
export function setText(node: Element, text: string): void {
  if (node.textContent !== text) node.textContent = text;
}

export function make(tag: string, text = ""): HTMLElement {
  const node = document.createElement(tag);
  node.textContent = text;
  return node;
}

export function clock(date: Date): string {
  return date.toLocaleTimeString([], { hour12: false });
}

export function digits(count: Count | null): string {
  return count === null ? "not counted" : count.toLocaleString("en");
}

export function perSecond(rate: number | null | undefined): string {
  if (rate === null || rate === undefined) return "–";
  return rate.toLocaleString(
    "en",
    rate < 100 ? { maximumFractionDigits: 1 } : { maximumFractionDigits: 0 },
  );
}

/** A name as the page shows it; no two look the same. */
export function spelled(name: string): string {
  return visible(escaped(name, /\\/g));
}
