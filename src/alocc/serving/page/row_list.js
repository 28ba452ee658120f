// A short list of images, each a button that opens it.

import { h } from "./dom.js";
import { verdictBadge } from "./icons.js";
import { listOf, openViewer } from "./viewer.js";
import { chance, score } from "./words.js";

/** Rows as buttons; then(row) gives what stands at the end of each, such as the verdict that it would get. */
export function rowList(rows, then = () => null) {
  const open = (i, { currentTarget: button }) => openViewer(listOf(rows), i, () => button.focus());
  return h("ol", { class: "row-list" }, rows.map((row, i) => h("li", {},
    h("button", { type: "button", onclick: (event) => open(i, event) },
      h("span", { class: "name" }, row.name), h("span", { class: "figures" }, `score ${score(row.anomaly_score)}, p ${chance(row.p_value)}`),
      then(row)))));
}

/** One verdict → another. */
export const verdictChange = (before, after) =>
  h("span", { class: "change" }, verdictBadge(before), h("span", { class: "arrow" }, h("span", { class: "unseen" }, "becomes"), h("span", { "aria-hidden": "true" }, "→")), verdictBadge(after));
