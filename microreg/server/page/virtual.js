// A long list of which only the part that can be seen is in the document.

import { framed, set } from "./dom.js";

const still = matchMedia("(prefers-reduced-motion: reduce)");
const MARGIN = 6; // rows more than can be seen, at both ends
const CALM = 8; // rows that are lit at once where they change; more would be unrest

/**
 * Shows `items()`, which is Ordered, as rows of equal height. `make()` makes a row, `update(row, item)` fills it; above
 * them are `heads` rows of another kind. Arrow keys move among rows, and the link in one of them is where Tab stops.
 */
export class VirtualList {
  redraw = framed(() => this.draw()); // where it was scrolled
  #rows = new Map(); // item → element
  #dirty = new Set();
  #all = false;
  #active = null;
  #life = new AbortController();

  constructor(element, { items, make, update, heads = 0 }) {
    Object.assign(this, { element, items, make, update, heads });
    const { signal } = this.#life;
    document.addEventListener("scroll", this.redraw, { capture: true, passive: true, signal });
    addEventListener("resize", this.redraw, { signal });
    element.addEventListener("keydown", (event) => this.#moved(event));
    element.addEventListener("focusin", (event) => this.#focused(event.target.closest("[data-row]")));
  }

  /** An item has changed: to be drawn next time. */
  touch(item) {
    if (this.#rows.has(item)) this.#dirty.add(item);
  }

  /** Everything may have changed. */
  touchAll() {
    this.#all = true;
  }

  /** Be no more. */
  close() {
    this.#life.abort();
  }

  /** Put the focus on an item's row, wherever that is. */
  focus(item) {
    const index = this.items().indexOf(item);
    if (index < 0) return false;
    this.#active = item;
    this.#reveal(index);
    this.draw();
    this.#rows.get(item)?.querySelector("a")?.focus({ preventScroll: true });
    return true;
  }

  /** Bring the document up to date. */
  draw() {
    if (!this.element.offsetParent) return; // not on this view
    const list = this.items();
    const items = list.items;
    const height = this.#height();
    this.element.style.height = `${items.length * height}px`;
    set(this.element.parentElement, "aria-rowcount", items.length + this.heads);
    const [first, last] = this.#seen(height, items.length);
    const bereft = this.#keepActive(list);
    const active = this.#active ? list.indexOf(this.#active) : -1;
    const wanted = new Map();
    if (active >= 0 && active < first) wanted.set(items[active], active);
    for (let index = first; index < last; index++) wanted.set(items[index], index);
    if (active >= last) wanted.set(items[active], active);
    this.#place(wanted, height, this.#active ?? items[first]);
    this.#all = false;
    this.#dirty.clear();
    if (bereft && this.#active) this.focus(this.#active);
  }

  /** Where the active item is gone, its neighbour is active; whether it had the focus, too. */
  #keepActive(list) {
    if (!this.#active || list.indexOf(this.#active) >= 0) return false;
    const focused = this.#rows.get(this.#active)?.contains(document.activeElement) ?? false;
    this.#active = list.items[Math.min(list.place(this.#active), list.size - 1)] ?? null;
    return focused;
  }

  #place(wanted, height, entry) {
    const spare = [];
    for (const [item, row] of this.#rows) {
      if (wanted.has(item)) continue;
      this.#rows.delete(item);
      spare.push(row);
    }
    let next = this.element.firstElementChild;
    for (const [item, index] of wanted) {
      let row = this.#rows.get(item);
      const fresh = !row;
      if (fresh) {
        row = spare.pop() ?? this.#made();
        this.#rows.set(item, row);
      }
      while (next && spare.includes(next)) next = next.nextElementSibling;
      // Rows that stay are in order already, and are not moved: one of them may have the focus.
      if (row === next) next = next.nextElementSibling;
      else this.element.insertBefore(row, next);
      const dirty = this.#dirty.has(item);
      if (fresh || dirty || this.#all) this.update(row, item);
      if (dirty && !fresh && this.#dirty.size <= CALM) flash(row);
      row.style.transform = `translateY(${index * height}px)`;
      set(row, "aria-rowindex", index + 1 + this.heads);
      set(row.querySelector("a"), "tabindex", item === entry ? "0" : "-1");
    }
    for (const row of spare) row.remove();
  }

  #made() {
    const row = this.make();
    row.dataset.row = "";
    return row;
  }

  #height() {
    return parseFloat(getComputedStyle(this.element).getPropertyValue("--row")) || 40;
  }

  /** From which to which row there is something to be seen. */
  #seen(height, size) {
    const here = this.element.getBoundingClientRect();
    const clip = this.element.closest("[data-scroll]")?.getBoundingClientRect() ?? { top: 0, bottom: innerHeight };
    const top = Math.max(clip.top, 0) - here.top;
    const bottom = Math.min(clip.bottom, innerHeight) - here.top;
    const first = Math.floor(top / height) - MARGIN;
    const last = Math.ceil(bottom / height) + MARGIN;
    return [Math.min(Math.max(first, 0), size), Math.max(Math.min(last, size), 0)];
  }

  // -- keyboard ------------------------------------------------------------------------------------------------

  #focused(row) {
    for (const [item, element] of this.#rows) if (element === row) this.#active = item;
  }

  #moved(event) {
    if (event.ctrlKey || event.altKey || event.metaKey || !this.#active) return;
    const { items } = this.items();
    const page = Math.max(1, Math.floor(innerHeight / this.#height() / 2));
    const here = this.items().indexOf(this.#active);
    const near = { ArrowDown: 1, j: 1, ArrowUp: -1, k: -1 };
    const steps = { ...near, PageDown: page, PageUp: -page, Home: -here, End: items.length };
    if (here < 0 || !(event.key in steps)) return;
    event.preventDefault();
    this.focus(items[Math.max(0, Math.min(items.length - 1, here + steps[event.key]))]);
  }

  #reveal(index) {
    const height = this.#height();
    const here = this.element.getBoundingClientRect();
    const scroller = this.element.closest("[data-scroll]");
    const own = scroller && scroller.scrollHeight > scroller.clientHeight + 1;
    const clip = own ? scroller.getBoundingClientRect() : { top: 0, bottom: innerHeight };
    const top = here.top + index * height;
    const by = top < clip.top + height ? top - clip.top - height : Math.max(0, top + 2 * height - clip.bottom);
    if (by) (own ? scroller : window).scrollBy({ top: by, behavior: "instant" });
  }
}

/** Let the eye see that a row has changed, once in a while. */
function flash(row) {
  if (still.matches || row.getAnimations().length) return;
  const from = getComputedStyle(row).getPropertyValue("--flash");
  row.animate([{ backgroundColor: from }, { backgroundColor: "transparent" }], { duration: 900, easing: "ease-out" });
}
