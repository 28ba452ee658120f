// How many images get which verdict, now and then: two bars over one another, with figures.

import { h, place } from "./dom.js";
import { verdictShape } from "./icons.js";
import { count, verdictClass, verdictWord } from "./words.js";

const VERDICTS = ["normal", "can't tell", "anomalous"];

/** bars: [[words, {normal: n, …}], …]. */
export function countsChart(bars) {
  return h("div", { class: "counts" }, bars.map(([words, counts]) => {
    const total = VERDICTS.reduce((sum, verdict) => sum + (counts[verdict] ?? 0), 0);
    const pieces = VERDICTS.filter((verdict) => counts[verdict]).map((verdict) =>
      place(h("span", { class: `piece ${verdictClass(verdict)}` }), { "flex-grow": String(counts[verdict] / total) }));
    const figures = VERDICTS.filter((verdict) => counts[verdict] || verdict !== "can't tell").map((verdict) =>
      h("span", { class: "tally" }, verdictShape(verdict), h("strong", {}, count(counts[verdict] ?? 0)), ` ${verdictWord(verdict).toLowerCase()}`));
    return h("div", { class: "counts-row" }, h("h3", {}, words), h("div", { class: "counts-bar", "aria-hidden": "true" }, pieces), h("p", { class: "counts-figures" }, figures));
  }));
}
