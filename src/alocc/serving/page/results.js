// The last results of the chosen model, newest last: from history at the start, then from the server's events.

import { get } from "./api.js";
import { station } from "./station.js";
import { complain, toast } from "./toasts.js";

const KEPT = 60;
const TOGETHER = 120; // milliseconds in which results count as one group: of the group, one is shown

class Results extends EventTarget {
  rows = [];
  selected = null;
  follows = true;
  isLive = false;
  #model = null;
  #version = null;
  #source = null;
  #arrived = [];

  /** The row that is shown, or null. */
  get present() {
    return this.rows.find((row) => row.id === this.selected) ?? null;
  }

  /** Start, and start over when another model is chosen. */
  start() {
    station.addEventListener("models", () => this.#load().catch(complain));
    station.addEventListener("row", ({ detail }) => this.#replace(detail));
    this.#load().catch(complain);
    this.#listen();
  }

  /** Show a row; what comes later does not take its place, unless people follow. */
  select(id, { follows = false } = {}) {
    this.selected = id;
    this.follows = follows;
    this.#tell("selected");
  }

  /** Show none of the rows. */
  deselect() {
    this.selected = null;
    this.#tell("selected");
  }

  follow(follows) {
    this.follows = follows;
    if (follows && this.rows.length) this.selected = this.rows.at(-1).id;
    this.#tell("selected");
  }

  /** Go some results on or back; only to those that were called, or are to be looked at, if wanted. */
  step(by, onlyCalled = false) {
    const at = this.present ? this.rows.indexOf(this.present) : this.rows.length;
    for (let i = at + by; i >= 0 && i < this.rows.length; i += by) {
      if (!onlyCalled || this.rows[i].verdict !== "normal") return this.select(this.rows[i].id);
    }
    if (onlyCalled) toast(`No ${by > 0 ? "newer" : "older"} called image among the last results`);
    return undefined;
  }

  /** Take rows that were just scored; those that are there already stay. */
  add(rows) {
    const known = new Set(this.rows.map((row) => row.id));
    const fresh = rows.filter((row) => row.model === this.#model && !known.has(row.id));
    if (!fresh.length) return;
    this.rows = [...this.rows, ...fresh].slice(-KEPT);
    const isGone = !this.rows.some((row) => row.id === this.selected);
    if (this.follows || isGone) this.selected = mostNotable(fresh).id;
    this.#tell("rows");
  }

  /** Another model, or another file of it, has scores of its own: the strip starts over. */
  async #load() {
    const { name: model = null, version = null } = station.model ?? {};
    if (model === this.#model && version === this.#version) return;
    [this.#model, this.#version] = [model, version];
    this.rows = [];
    const { rows } = model ? await get("/v1/history", { model, version, limit: KEPT }) : { rows: [] };
    if (model !== this.#model || version !== this.#version) return;
    this.rows = rows.reverse();
    this.selected = this.rows.at(-1)?.id ?? null;
    this.#tell("rows");
  }

  #replace(row) {
    const at = this.rows.findIndex((one) => one.id === row.id);
    if (at < 0) return;
    this.rows[at] = row;
    this.#tell("rows");
  }

  #listen() {
    this.#source = new EventSource("/v1/events");
    const state = (isLive) => () => { this.isLive = isLive; this.#tell("live"); };
    this.#source.addEventListener("open", state(true));
    this.#source.addEventListener("error", state(false));
    this.#source.addEventListener("error", () => {
      if (this.#source.readyState === EventSource.CLOSED) setTimeout(() => this.#again(), 3000);
    });
    this.#source.addEventListener("message", ({ data }) => this.#arrive(JSON.parse(data)));
  }

  #arrive(row) {
    if (!this.#arrived.length) setTimeout(() => this.add(this.#arrived.splice(0)), TOGETHER);
    this.#arrived.push(row);
  }

  /** After the server refused us: any request asks for the token, if that is why. */
  async #again() {
    try {
      await station.refresh();
      this.#listen();
    } catch {
      setTimeout(() => this.#again(), 3000);
    }
  }

  #tell(kind) {
    this.dispatchEvent(new Event(kind));
  }
}

/** Of several results at once, the one to look at: the first that was called, else that cannot be told, else the last. */
function mostNotable(rows) {
  const first = (verdict) => rows.find((row) => row.verdict === verdict);
  return first("anomalous") ?? first("can't tell") ?? rows.at(-1);
}

export const results = new Results();
