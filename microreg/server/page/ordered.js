/** Compares by `order`, which is different for different things, and never changes. */
export const byOrder = (a, b) => (a.order < b.order ? -1 : a.order > b.order ? 1 : 0);

/** So that orders-2 comes before orders-10: as people sort, by code points. */
export const natural = (text) => text.replace(/\d+/g, (digits) => digits.padStart(12, "0"));

/** Compares texts in that order. */
export const naturally = (a, b) => (natural(a) < natural(b) ? -1 : natural(a) > natural(b) ? 1 : 0);

/** A list that is always sorted: O(log n) to find where an item belongs. */
export class Ordered {
  items = [];

  get size() {
    return this.items.length;
  }

  /** Where the item is or would be. */
  place(item) {
    let low = 0;
    let high = this.items.length;
    while (low < high) {
      const middle = (low + high) >> 1;
      if (byOrder(this.items[middle], item) < 0) low = middle + 1;
      else high = middle;
    }
    return low;
  }

  /** Where the item is; -1 where it is not. */
  indexOf(item) {
    const place = this.place(item);
    return this.items[place] === item ? place : -1;
  }

  /** Have it in the list, or not. */
  put(item, wanted) {
    const place = this.place(item);
    if ((this.items[place] === item) === wanted) return;
    if (wanted) this.items.splice(place, 0, item);
    else this.items.splice(place, 1);
  }

  /** Hold exactly these. */
  fill(items) {
    this.items = items.sort(byOrder);
  }
}
