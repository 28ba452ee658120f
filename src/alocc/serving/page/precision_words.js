// Precision in words: how many calls were looked at, how many were right, and how sure that is.

import { h, svg } from "./dom.js";
import { counted, percent } from "./words.js";

/** Parts of a section from {value, low, high, n_confirmed, n_false_alarms, n_unmarked}. */
export function precisionWords(found) {
  const looked = found.n_confirmed + found.n_false_alarms;
  const unseen = found.n_unmarked ? ` ${counted(found.n_unmarked, "called image")} ${found.n_unmarked === 1 ? "was" : "were"} not looked at.` : "";
  if (!looked) {
    return [h("p", {}, `Nobody has marked a called image yet.${unseen}`),
      h("p", { class: "soft" }, "Mark called images as confirmed (C) or a false alarm (F), and the share that was right stands here, with its interval.")];
  }
  return [
    h("p", { class: "figure" }, h("strong", {}, percent(found.value)), h("span", { class: "soft" }, ` 95 % interval: ${percent(found.low)} to ${percent(found.high)}`)),
    interval(found),
    h("p", {}, `${found.n_confirmed} of ${counted(looked, "called image")} that somebody looked at ${found.n_confirmed === 1 || looked === 1 ? "was" : "were"} defective.${unseen}`),
    unseen ? h("p", { class: "soft" }, "The figure holds for the others too only if those that were looked at were not picked out.") : null,
  ].filter(Boolean);
}

function interval({ value, low, high }) {
  const x = (share) => 6 + 388 * share;
  return svg("svg", { class: "interval", viewBox: "0 0 400 16", "aria-hidden": "true" },
    svg("path", { class: "ground", d: "M6 8H394" }), svg("path", { class: "range", d: `M${x(low)} 8H${x(high)}` }),
    svg("circle", { cx: x(value), cy: 8, r: 5 }));
}
