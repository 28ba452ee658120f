// What the whole page shares: the models, the one that is chosen, and every row that was seen to change.

import { get, ofModel } from "./api.js";

const CHOSEN = "alocc.model";

class Station extends EventTarget {
  models = [];
  chosen = null;

  /** The chosen model's facts; null while there are none. */
  get model() {
    return this.models.find((model) => model.name === this.chosen) ?? this.models[0] ?? null;
  }

  /** Ask the server for its models; tell whoever listens if anything is different. */
  async refresh() {
    const before = JSON.stringify(this.models);
    this.models = (await get("/v1/models")).models;
    this.chosen ??= localStorage.getItem(CHOSEN);
    if (JSON.stringify(this.models) !== before) this.dispatchEvent(new Event("models"));
  }

  /** The same for one model, after something of it was changed. */
  async refreshModel(name) {
    const fresh = await get(ofModel(name));
    this.models = this.models.map((model) => (model.name === name ? fresh : model));
    this.dispatchEvent(new Event("models"));
  }

  choose(name) {
    this.chosen = name;
    localStorage.setItem(CHOSEN, name);
    this.dispatchEvent(new Event("models"));
  }

  /** Tell every view that an image's row is another one now: its mark, mostly. */
  changed(row) {
    this.dispatchEvent(new CustomEvent("row", { detail: row }));
  }

  /** Listen until the signal of a view ends. */
  on(kind, work, signal) {
    this.addEventListener(kind, (event) => work(event.detail), { signal });
  }
}

export const station = new Station();

/** How many held-out images are behind a row's p-value; undefined if the model has another calibration by now. */
export function nBehind(row) {
  const model = station.models.find((one) => one.name === row.model);
  const same = model && model.version === row.version && (row.calibration ?? 0) === model.calibration.number;
  return same ? model.calibration.n_images : undefined;
}
