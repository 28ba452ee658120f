// What is known of one image, in words: verdict, score on its axis, p-value, regions with their reasons, marks.

import { h, svg } from "./dom.js";
import { verdictShape } from "./icons.js";
import { markButtons } from "./marks.js";
import { nBehind, station } from "./station.js";
import { alphaValue, chance, counted, markWord, meaning, score, sentence, verdictClass, verdictWord, when, whenInFull } from "./words.js";

const NO_PICTURE = "No picture was kept: programs send keep=true to have them here, or the server is started with --keep suspects, or --keep all.";
const GONE = "The picture is not kept any more.";

/** The panel of a row. highlight(index) is told which region people point at; marked(row) of a new mark. */
export function verdictPanel(row, { highlight = () => {}, marked = () => {} } = {}) {
  const head = [
    h("h2", { class: `verdict ${verdictClass(row.verdict)}` }, verdictShape(row.verdict), verdictWord(row.verdict)),
    h("p", { class: "file" }, row.name),
  ];
  if (!row.verdict) return [...head, h("p", {}, row.error ?? "This image could not be used."), facts(row)];
  return [
    ...head,
    h("p", { class: "meaning" }, meaning(row.p_value, nBehind(row))),
    gauge(row),
    row.kept === false ? h("p", { class: "no-picture" }, row.source === "page" ? GONE : NO_PICTURE) : null,
    markButtons(row, marked),
    row.mark ? h("p", { class: "marked" }, "Marked: ", h("strong", {}, markWord(row.mark, row.verdict))) : null,
    regions(row, highlight),
    facts(row),
  ].filter(Boolean);
}

/** The score on a short axis, with the alarm line. */
function gauge(row) {
  const line = lineOf(row);
  if (line === undefined) return null;
  const reach = Math.max(Math.abs(line), 1e-9) * 2;
  const at = (value) => Math.min(1, Math.max(0, 0.5 + (value - line) / (2 * reach)));
  const here = 300 * at(row.anomaly_score);
  const drawing = svg("svg", { class: `gauge ${verdictClass(row.verdict)}`, viewBox: "-6 0 312 26", "aria-hidden": "true" },
    svg("path", { class: "ground", d: "M0 13H300" }), svg("path", { class: "beyond", d: "M150 13H300" }),
    svg("path", { class: "line", d: "M150 3V23" }), svg("circle", { class: "here", cx: here, cy: 13, r: 6 }));
  return h("div", { class: "gauge-box" }, drawing,
    h("div", { class: "gauge-words" },
      h("span", {}, "score ", h("strong", {}, score(row.anomaly_score))), h("span", {}, `alarm line ${score(line)}`)));
}

/** The score from which this row's images were called; undefined if its model has another calibration or alpha now. */
function lineOf(row) {
  const model = station.models.find((one) => one.name === row.model);
  return model && nBehind(row) !== undefined && model.alpha === row.alpha ? model.threshold : undefined;
}

function regions(row, highlight) {
  if (!row.regions?.length) return null;
  const items = row.regions.map((region, i) => h("li", {
    onmouseenter: () => highlight(i), onmouseleave: () => highlight(-1),
  }, h("span", { class: "number", "aria-hidden": "true" }, String(i + 1)), h("span", {}, region.reason)));
  return h("section", { class: "regions" }, h("h3", {}, "Where"), h("ol", {}, items));
}

function facts(row) {
  const line = (name, value, title) => value && h("div", { title }, h("dt", {}, name), h("dd", {}, value));
  const alphas = row.review_alpha > row.alpha ? `${alphaValue(row.alpha)}, can't tell to ${alphaValue(row.review_alpha)}` : row.alpha && alphaValue(row.alpha);
  return h("dl", { class: "facts" },
    line("Score", row.verdict && score(row.anomaly_score)), line("p-value", row.verdict && chance(row.p_value)), line("Alpha", alphas),
    line("Size", row.width && `${row.width} × ${row.height}`), line("Model", `${row.model}${row.calibration ? `, calibration ${row.calibration}` : ""}`, `version ${row.version}`),
    line("Scored", when(row.time), whenInFull(row.time)));
}

/** What is said of images that did not reach the server: [{image, why}]. */
export function notSent(unsent, sendAgain) {
  const [{ image, why }] = unsent.slice(-1);
  return [
    h("h2", { class: "verdict is-broken" }, verdictShape(null), "Not sent"),
    h("p", { class: "file" }, unsent.length === 1 ? image.path : counted(unsent.length, "image")),
    h("p", {}, sentence(why)), h("button", { type: "button", class: "primary", onclick: sendAgain }, "Send again"),
  ];
}

/** Leave the panel empty. */
export const nothingYet = () => [h("h2", { class: "verdict soft" }, "No image yet"),
  h("p", { class: "soft" }, "Its verdict, and why, will stand here.")];

