// The present image, large: its map over it, its regions as boxes, fitted to the room that there is.

import { picture as fetchPicture } from "./api.js";
import { h, place, freshId } from "./dom.js";
import { icon, key } from "./icons.js";
import { station } from "./station.js";

const LEAST_PIXELATED = 3; // from this enlargement on, pixels stay squares
const kept = { map: true, boxes: true, opacity: 1 }; // as people left them, for every picture of the page

/** Whether the model that scored a row is still here, and makes maps. */
const mapsOf = ({ model, version }) => station.models.some((one) => one.name === model && one.version === version && one.has_maps);

/** A stage for one image after another. {element, tools, show(row), clear(), keys, highlight(index), dispose()} */
export class Picture {
  #loading = null;
  #addresses = [];
  #size = null;
  #isActual = false;
  #watch = new ResizeObserver(() => this.#fit());

  constructor() {
    this.photo = h("img", { class: "photo", alt: "", draggable: "false" });
    this.map = h("img", { class: "map", alt: "", draggable: "false" });
    this.boxes = h("div", { class: "boxes" });
    this.note = h("p", { class: "picture-note", role: "status" });
    this.stage = h("div", { class: "stage", hidden: true }, this.photo, this.map, this.boxes);
    this.element = h("div", { class: "picture", tabindex: "-1" }, this.stage, this.note);
    this.tools = this.#makeTools();
    this.keys = {
      o: ["map over the image, on or off", () => this.#toggle("map")],
      b: ["boxes, on or off", () => this.#toggle("boxes")],
      z: ["every pixel, or fitted", () => this.#zoom()],
    };
    this.#watch.observe(this.element);
    this.#apply();
  }

  /** Show a row's image, and its map and regions where it has them. */
  async show(row) {
    this.#loading?.abort();
    const { signal } = (this.#loading = new AbortController());
    this.element.setAttribute("aria-busy", "true");
    this.note.textContent = "";
    if (row.error || row.kept === false) return this.#missing(row);
    try {
      const image = await fetchPicture(`/v1/history/${row.id}/image`, { signal });
      await this.#take(image, row, signal);
      await this.#takeMap(row, signal);
    } catch (error) {
      if (error.name !== "AbortError" && !signal.aborted) this.#missing(row, error);
    }
    if (!signal.aborted) this.element.setAttribute("aria-busy", "false");
    return undefined;
  }

  clear() {
    this.#loading?.abort();
    this.stage.hidden = true;
    this.note.textContent = "";
    this.#release();
  }

  dispose() {
    this.#loading?.abort();
    this.#watch.disconnect();
    this.#release();
  }

  /** Make one region's box stand out; none: -1. */
  highlight(index) {
    [...this.boxes.children].forEach((box, i) => box.classList.toggle("strong", i === index));
  }

  async #take(address, row, signal) {
    const next = new Image();
    next.src = address;
    await next.decode();
    if (signal.aborted) return URL.revokeObjectURL(address);
    this.#release();
    this.#addresses.push(address);
    this.photo.src = address;
    this.photo.alt = row.name;
    this.map.hidden = true;
    this.map.removeAttribute("src");
    this.#size = [next.naturalWidth, next.naturalHeight];
    this.stage.hidden = false;
    this.#drawBoxes(row);
    this.#fit();
  }

  async #takeMap(row, signal) {
    if (!mapsOf(row)) return;
    try {
      const address = await fetchPicture(`/v1/history/${row.id}/map`, { signal });
      if (signal.aborted) return URL.revokeObjectURL(address);
      this.#addresses.push(address);
      this.map.src = address;
      this.map.hidden = false;
    } catch (error) {
      if (error.name !== "AbortError" && !signal.aborted) this.note.textContent = `No map: ${error.message}`;
    }
  }

  #missing(row, error = { message: "this image is not kept" }) {
    this.stage.hidden = true;
    this.element.setAttribute("aria-busy", "false");
    this.note.textContent = row.error ?? `No picture: ${error.message}`;
  }

  #release() {
    this.#addresses.splice(0).forEach((address) => URL.revokeObjectURL(address));
  }

  #drawBoxes(row) {
    const [width, height] = row.width ? [row.width, row.height] : this.#size; // the picture of a huge image is smaller
    const boxes = (row.regions ?? []).map((region, i) => {
      const { left, top, right, bottom } = region.box;
      const box = h("div", { class: i ? "box" : "box first" }, h("span", { "aria-hidden": "true" }, String(i + 1)));
      return place(box, {
        left: `${(100 * left) / width}%`, top: `${(100 * top) / height}%`,
        width: `${(100 * (right - left)) / width}%`, height: `${(100 * (bottom - top)) / height}%`,
      });
    });
    this.boxes.replaceChildren(...boxes);
  }

  #fit() {
    if (!this.#size || this.stage.hidden) return;
    const room = this.element.getBoundingClientRect();
    const [width, height] = this.#size;
    const fitted = Math.min(room.width / width, room.height / height);
    const times = this.#isActual ? Math.max(1, Math.round(2 * fitted)) : fitted;
    place(this.stage, { width: `${width * times}px`, height: `${height * times}px` });
    this.stage.classList.toggle("pixelated", times >= LEAST_PIXELATED);
    this.element.classList.toggle("scrolls", this.#isActual);
  }

  #makeTools() {
    const id = freshId("opacity");
    const toggle = (name, words, letter) => h("button", {
      type: "button", class: "tool", "data-name": name, title: `${words} (${letter})`, onclick: () => this.#toggle(name),
    }, icon(name), h("span", {}, words), key(letter));
    this.slider = h("input", {
      type: "range", id, min: "0", max: "1", step: "0.05", value: String(kept.opacity),
      oninput: () => { kept.opacity = Number(this.slider.value); this.#apply(); },
    });
    this.zoomButton = h("button", {
      type: "button", class: "tool zoom", "aria-pressed": "false", title: "Every pixel, or fitted (Z)", onclick: () => this.#zoom(),
    }, icon("pixels"), h("span", {}, "Enlarge"), key("Z"));
    return h("div", { class: "tools", role: "group", "aria-label": "Picture" },
      toggle("map", "Map", "O"), h("label", { class: "opacity", for: id, title: "How strong the map is" }, h("span", { class: "unseen" }, "Opacity of the map"), this.slider),
      toggle("boxes", "Boxes", "B"), this.zoomButton);
  }

  #toggle(name) {
    kept[name] = !kept[name];
    this.#apply();
  }

  #zoom() {
    this.#isActual = !this.#isActual;
    this.zoomButton.setAttribute("aria-pressed", String(this.#isActual));
    this.element.tabIndex = this.#isActual ? 0 : -1;
    this.#fit();
  }

  #apply() {
    for (const button of this.tools.querySelectorAll("[data-name]")) {
      button.setAttribute("aria-pressed", String(kept[button.dataset.name]));
    }
    this.stage.classList.toggle("no-map", !kept.map);
    this.stage.classList.toggle("no-boxes", !kept.boxes);
    place(this.map, { opacity: String(kept.opacity) });
  }
}
