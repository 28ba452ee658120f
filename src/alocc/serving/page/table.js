// A table of any length: only the rows in sight are elements. One tab stop; arrow keys move, Enter opens.

import { h, onceAFrame, place, freshId } from "./dom.js";

const BEYOND = 8; // rows above and below what is in sight

/**
 * columns: [{name, kind, cell(row) → text or element}]; pages: what gives the rows; open(i): Enter or a click on row i.
 */
export class Table {
  #elements = new Map();
  #stem = freshId("row");
  selected = 0;

  constructor(columns, { label, rowHeight, open }) {
    this.columns = columns;
    this.rowHeight = rowHeight;
    this.open = open;
    const heads = columns.map(({ name, kind }) => h("span", { role: "columnheader", class: kind }, name));
    this.head = h("div", { role: "row", class: "row heads", "aria-rowindex": "1" }, heads);
    this.space = h("div", { role: "rowgroup", class: "space" });
    this.element = h("div", { role: "grid", class: "table", tabindex: "0", "aria-label": label },
      h("div", { role: "rowgroup", class: "heads-group" }, this.head), this.space);
    this.draw = onceAFrame(() => this.#draw());
    this.element.addEventListener("scroll", this.draw, { passive: true });
    this.element.addEventListener("keydown", (event) => this.#move(event));
    this.element.addEventListener("click", (event) => this.#click(event));
    this.element.addEventListener("focus", this.draw);
    this.watch = new ResizeObserver(this.draw);
    this.watch.observe(this.element);
  }

  /** Show other pages, from the top. */
  show(pages) {
    this.pages = pages;
    this.selected = 0;
    this.element.scrollTop = 0;
    this.#forget();
    pages.addEventListener("loaded", () => { if (this.pages === pages) this.refresh(); });
    return pages.want(0);
  }

  /** Draw every row again, after rows have changed. */
  refresh() {
    this.#forget();
    this.draw();
  }

  get selectedRow() {
    return this.pages?.rows[this.selected] ?? null;
  }

  /** Select a row and bring it into sight. */
  select(i) {
    if (!this.pages?.total) return;
    this.selected = Math.max(0, Math.min(this.pages.total - 1, i));
    const height = this.rowHeight();
    const room = this.element.clientHeight - this.head.offsetHeight;
    const top = this.selected * height;
    const { scrollTop } = this.element;
    if (top < scrollTop) this.element.scrollTop = top;
    else if (top + height > scrollTop + room) this.element.scrollTop = top + height - room;
    this.draw();
  }

  #forget() {
    this.#elements.forEach((element) => element.remove());
    this.#elements.clear();
  }

  #draw() {
    if (!this.pages) return;
    const height = this.rowHeight();
    const { total } = this.pages;
    place(this.space, { height: `${total * height}px` });
    this.element.setAttribute("aria-rowcount", String(total + 1));
    const from = Math.max(0, Math.floor(this.element.scrollTop / height) - BEYOND);
    const to = Math.min(total, Math.ceil((this.element.scrollTop + this.element.clientHeight) / height) + BEYOND);
    for (const [i, element] of this.#elements) {
      if (i < from || i >= to || (element.isEmpty && this.pages.rows[i])) {
        element.remove();
        this.#elements.delete(i);
      }
    }
    for (let i = from; i < to; i += 1) if (!this.#elements.has(i)) this.#add(i, height);
    for (const [i, element] of this.#elements) element.setAttribute("aria-selected", String(i === this.selected));
    if (total) this.element.setAttribute("aria-activedescendant", `${this.#stem}-${this.selected}`);
    else this.element.removeAttribute("aria-activedescendant");
    if (to > this.pages.rows.length && this.pages.rows.length < total) this.pages.want(to - 1);
  }

  #add(i, height) {
    const row = this.pages.rows[i];
    const cells = this.columns.map(({ kind, cell }) => h("span", { role: "gridcell", class: kind }, row ? cell(row) : "·"));
    const element = h("div", { role: "row", class: "row", id: `${this.#stem}-${i}`, "aria-rowindex": String(i + 2), "data-index": String(i) }, cells);
    element.isEmpty = !row;
    place(element, { transform: `translateY(${i * height}px)` });
    this.space.append(element);
    this.#elements.set(i, element);
  }

  #move(event) {
    const page = Math.max(1, Math.floor(this.element.clientHeight / this.rowHeight()) - 2);
    const last = (this.pages?.total ?? 1) - 1;
    const to = { ArrowDown: this.selected + 1, ArrowUp: this.selected - 1, PageDown: this.selected + page, PageUp: this.selected - page, Home: 0, End: last }[event.key];
    if (to === undefined && event.key !== "Enter") return;
    event.preventDefault();
    if (event.key === "Enter") this.open(this.selected);
    else this.select(to);
  }

  #click(event) {
    const row = event.target.closest("[data-index]");
    if (!row) return;
    this.selected = Number(row.dataset.index);
    this.draw();
    this.open(this.selected);
  }
}
