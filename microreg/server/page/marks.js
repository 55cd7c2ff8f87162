// Statuses, as they are drawn.

import { count, plural } from "./text.js";
import { el, mark, set } from "./dom.js";
import { STATUSES } from "./model.js";

const SINGLE = 20; // nodes up to which each has a mark of its own

/** "5 nodes: 4 passing, 1 critical" */
export function told(counts, total) {
  const parts = STATUSES.filter((status) => counts[status]).map((status) => `${count(counts[status])} ${status}`);
  return total ? `${plural(total, "node")}: ${parts.join(", ")}` : "no nodes";
}

/** Fill an element with a mark for each node; where these are many, one for each status with its number. */
export function marks(element, counts, total) {
  const label = told(counts, total);
  if (element.dataset.told === label) return;
  element.dataset.told = label;
  const single = (status) => Array.from({ length: counts[status] }, () => mark(status));
  const tally = (status) => el("span", { class: "tally", "aria-hidden": "true" }, mark(status), count(counts[status]));
  const drawn = STATUSES.filter((status) => counts[status]).flatMap(total <= SINGLE ? single : tally);
  element.replaceChildren(...drawn, el("span", { class: total ? "unseen" : "none" }, label));
}

/** A bar with the share of each status. */
export function bar(element, counts) {
  for (const [index, status] of STATUSES.entries()) {
    const piece = element.children[index] ?? element.appendChild(el("i", { "data-status": status }));
    piece.style.flexGrow = counts[status];
    set(piece, "hidden", counts[status] === 0);
  }
}
