// A probability on a slider whose steps are equal ratios, with a field beside it for the exact value.

import { freshId, h } from "./dom.js";
import { alphaValue } from "./words.js";

const STEPS = 400;

/** {element, value, set(alpha), limits(low, high)}; changed(alpha) while it moves. */
export class AlphaSlider {
  constructor(label, help, changed) {
    const [id, helpId] = [freshId("alpha"), freshId("alpha-help")];
    this.low = 0.001;
    this.high = 0.5;
    this.value = 0.01;
    this.slider = h("input", { type: "range", id, min: "0", max: String(STEPS), step: "1", "aria-describedby": helpId });
    this.field = h("input", { type: "number", "aria-label": `${label}, typed`, step: "any", min: "0", max: "1" });
    this.slider.addEventListener("input", () => this.#take(this.#at(Number(this.slider.value)), changed));
    this.field.addEventListener("change", () => this.#take(Number(this.field.value) || this.low, changed));
    this.element = h("div", { class: "alpha" }, h("label", { for: id }, label), h("p", { class: "soft small", id: helpId }, help),
      h("div", { class: "alpha-row" }, this.slider, this.field));
  }

  limits(low, high = 0.5) {
    this.low = low;
    this.high = Math.max(high, low);
    this.set(this.value);
  }

  set(alpha) {
    this.value = Math.min(this.high, Math.max(this.low, alpha));
    this.slider.value = String(Math.round((STEPS * Math.log(this.value / this.low)) / (Math.log(this.high / this.low) || 1)));
    this.slider.setAttribute("aria-valuetext", alphaValue(this.value));
    this.field.value = alphaValue(this.value);
  }

  disable(off) {
    this.slider.disabled = this.field.disabled = off;
  }

  #at(step) {
    const alpha = this.low * (this.high / this.low) ** (step / STEPS);
    return step === 0 ? this.low : Number(alpha.toPrecision(3));
  }

  #take(alpha, changed) {
    this.set(alpha);
    changed(this.value);
  }
}
