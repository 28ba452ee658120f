// Lists of images, each a button that opens it.

import { h } from "./dom.js";
import { verdictBadge } from "./icons.js";
import { listOf, openViewer } from "./viewer.js";
import { count, counted, score } from "./words.js";

const SHOWN = 50;
const OPEN = 12; // a list this short is not folded

/** Images that would get another verdict: [{row, before, after}], the first of n; words end the sentence of the summary. */
export function changeList(changes, n, words) {
  if (!n) return h("p", { class: "soft" }, `No image ${words}.`);
  const some = changes.slice(0, SHOWN);
  const rows = some.map(({ row }) => row);
  const items = some.map(({ row, before, after }, i) => h("li", {},
    h("button", { type: "button", onclick: ({ currentTarget: button }) => openViewer(listOf(rows), i, () => button.focus()) },
      h("span", { class: "name" }, row.name), h("span", { class: "figures" }, `score ${score(row.anomaly_score)}`), change(before, after))));
  const rest = n > some.length ? h("p", { class: "soft" }, `and ${count(n - some.length)} more`) : null;
  return h("details", { open: n <= OPEN }, h("summary", {}, `${counted(n, "image")} ${words}`), h("ol", { class: "row-list" }, items), rest);
}

const change = (before, after) => h("span", { class: "change" }, verdictBadge(before),
  h("span", { class: "arrow" }, h("span", { class: "unseen" }, "becomes"), h("span", { "aria-hidden": "true" }, "→")), verdictBadge(after));
