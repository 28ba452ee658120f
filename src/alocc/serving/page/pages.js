// Rows of history, page after page, as far down as somebody looks.

import { get } from "./api.js";

const A_PAGE = 500;

/** What passes a filter, newest first. rows holds what is loaded; total says how many there are. */
export class Pages extends EventTarget {
  rows = [];
  total = 0;
  #next = undefined; // undefined: nothing asked for yet; null: that was the last page
  #wanted = 0;
  #loading = null;

  constructor(filter) {
    super();
    this.filter = filter;
  }

  /** Load until row i is there, or the last. */
  want(i) {
    this.#wanted = Math.max(this.#wanted, i + 1);
    this.#loading ??= this.#load().finally(() => { this.#loading = null; });
    return this.#loading;
  }

  /** Put a row that has changed in its place. */
  replace(row) {
    const at = this.rows.findIndex((one) => one.id === row.id);
    if (at >= 0) this.rows[at] = row;
    return at >= 0;
  }

  async #load() {
    while (this.rows.length < this.#wanted && this.#next !== null) {
      const page = await get("/v1/history", { ...this.filter, limit: A_PAGE, before: this.#next });
      this.rows.push(...page.rows);
      this.total = page.total;
      this.#next = page.next;
      this.dispatchEvent(new Event("loaded"));
    }
  }
}
