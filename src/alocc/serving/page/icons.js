// Small drawings: one shape a verdict, so that colour is never all that tells them apart; icons of views and tools.

import { h, svg } from "./dom.js";
import { verdictClass, verdictWord } from "./words.js";

const VERDICTS = {
  "is-normal": ["circle", { cx: 8, cy: 8, r: 5.5 }],
  "is-unsure": ["path", { d: "M8 1.5 14.5 8 8 14.5 1.5 8Z" }],
  "is-anomalous": ["path", { d: "M8 1.6 15 14H1Z" }],
  "is-broken": ["path", { d: "M3 3 13 13M13 3 3 13", class: "line" }],
};

const PATHS = {
  inspect: "M3 7V4a1 1 0 0 1 1-1h3M13 3h3a1 1 0 0 1 1 1v3M17 13v3a1 1 0 0 1-1 1h-3M7 17H4a1 1 0 0 1-1-1v-3M10 7a3 3 0 1 0 0 6 3 3 0 0 0 0-6Z",
  history: "M3.5 5h13M3.5 10h13M3.5 15h8",
  threshold: "M3 6h7M14 6h3M3 14h3M10 14h7M12 4v4M8 12v4",
  review: "M7.2 7.4a2.8 2.8 0 1 1 3.9 2.6c-.7.3-1.1.8-1.1 1.6M10 14.4v.1M10 2.5a7.5 7.5 0 1 0 0 15 7.5 7.5 0 0 0 0-15Z",
  drift: "M2.5 13c2.5 0 2.5-6 5-6s2.5 5 5 5 2.5-7 5-7M2.5 17h15",
  models: "M10 2.5 17 6l-7 3.5L3 6ZM3 10l7 3.5 7-3.5M3 14l7 3.5 7-3.5",
  files: "M4 17V3h7l5 5v9ZM11 3v5h5",
  folder: "M2.5 16V4.5h5l2 2.5h8v9Z",
  camera: "M2.5 6.5h3.3L7.3 4h5.4l1.5 2.5h3.3V16h-15ZM10 8.3a2.8 2.8 0 1 0 0 5.6 2.8 2.8 0 0 0 0-5.6Z",
  map: "M10 17.5c3 0 5-2.1 5-4.8 0-3.4-3-4.2-3-8.2-3 1-4 3.4-3.6 5.6C7.3 9.8 7 9 7 8.2c-1.4 1.2-2 2.8-2 4.5 0 2.7 2 4.800 5 4.800Z",
  boxes: "M3 7V3h4M13 3h4v4M17 13v4h-4M7 17H3v-4",
  pixels: "M8.5 3a5.5 5.5 0 1 0 0 11 5.5 5.5 0 0 0 0-11ZM12.5 12.5 17 17M6 8.5h5M8.5 6v5",
  before: "M12.5 4 6.5 10l6 6",
  after: "M7.5 4l6 6-6 6",
  close: "M4.5 4.5l11 11M15.5 4.5l-11 11",
  keys: "M2.5 5h15v10h-15ZM5.5 8h.1M8.5 8h.1M11.5 8h.1M14.5 8h.1M6 12h8",
  download: "M10 3v9M6 8.5l4 4 4-4M3.5 16.5h13",
  pause: "M7 4.5v11M13 4.5v11",
  resume: "M6 4l10 6-10 6Z",
  out: "M8 3.5H4v13h4M12 6.5l3.5 3.5L12 13.5M15 10H8",
  undo: "M7 4 3.5 7.5 7 11M3.5 7.5H12a4.5 4.5 0 0 1 0 9H8",
};

/** The shape of a verdict, without its word. */
export function verdictShape(verdict) {
  const kind = verdictClass(verdict);
  const [tag, attributes] = VERDICTS[kind];
  return svg("svg", { class: `shape ${kind}`, viewBox: "0 0 16 16", "aria-hidden": "true" }, svg(tag, attributes));
}

/** Shape and word. */
export const verdictBadge = (verdict) =>
  h("span", { class: `badge ${verdictClass(verdict)}` }, verdictShape(verdict), verdictWord(verdict));

export const icon = (name) =>
  svg("svg", { class: "icon", viewBox: "0 0 20 20", "aria-hidden": "true" }, svg("path", { d: PATHS[name] }));

/** A key as it stands on a button. */
export const key = (name) => h("kbd", { "aria-hidden": "true" }, name);
