// The live strip: the last results as dots on the score axis, with the alarm line. One tab stop; arrows move in it.

import { h, place } from "./dom.js";
import { verdictShape } from "./icons.js";
import { reviewLine } from "./effect.js";
import { results } from "./results.js";
import { station } from "./station.js";
import { markWord, score, verdictClass, verdictWord } from "./words.js";

const ROOM = 0.08; // above the highest and below the lowest dot

/** The strip as an element; it draws itself until the signal ends. */
export function strip(signal) {
  const line = h("div", { class: "alarm" }, h("span", {}));
  const second = h("div", { class: "alarm review-line", hidden: true }, h("span", {}));
  const dots = h("div", { class: "dots", role: "group", "aria-label": "Last results, the newest on the right; arrow keys move" });
  const empty = h("p", { class: "soft strip-empty" }, "Results will line up here, the newest on the right.");
  const element = h("div", { class: "strip" }, line, second, dots, empty);
  let reviewAt = null;
  const draw = () => {
    const rows = results.rows;
    empty.hidden = rows.length > 0;
    line.hidden = !station.model || !rows.length;
    const axis = axisOf(rows, station.model?.threshold);
    if (station.model) placeLine(line, axis, station.model.threshold, "alarm line");
    second.hidden = reviewAt === null || !rows.length;
    if (reviewAt !== null) placeLine(second, axis, reviewAt, "can't tell");
    const hadFocus = dots.contains(document.activeElement);
    dots.replaceChildren(...rows.map((row, i) => dot(row, axis, i === rows.length - 1)));
    if (hadFocus) dots.querySelector("[tabindex='0']")?.focus({ preventScroll: true });
  };
  results.addEventListener("rows", draw, { signal });
  results.addEventListener("selected", draw, { signal });
  const load = async () => {
    if (!station.model) return;
    reviewAt = await reviewLine(station.model).catch(() => null);
    draw();
  };
  station.on("models", load, signal);
  dots.addEventListener("keydown", move);
  draw();
  load();
  return element;
}

function placeLine(line, axis, threshold, words) {
  place(line, { "--y": String(axis(threshold)) });
  line.firstChild.textContent = `${words} ${score(threshold)}`;
}

/** Scores → 0 (bottom) to 1 (top). Scores far above the alarm line share the top: what matters is near the line. */
export function axisOf(rows, threshold = 0) {
  const scores = rows.filter((row) => row.verdict).map((row) => row.anomaly_score);
  const low = Math.min(threshold, ...scores);
  const span = Math.max(threshold - low, 1e-6);
  const high = Math.max(threshold + 0.35 * span, Math.min(Math.max(threshold, ...scores), threshold + 1.6 * span));
  return (value) => Math.min(1, ROOM + ((1 - 2 * ROOM) * (Math.min(value, high) - low)) / (high - low));
}

function dot(row, axis, isLast) {
  const isSelected = row.id === results.selected;
  const isStop = isSelected || (isLast && !results.present);
  const words = row.verdict ? `${verdictWord(row.verdict)}, score ${score(row.anomaly_score)}` : "Not usable";
  const marked = row.mark ? `, marked ${markWord(row.mark, row.verdict).toLowerCase()}` : "";
  const button = h("button", {
    type: "button", class: `dot ${verdictClass(row.verdict)}${row.mark ? " has-mark" : ""}`, tabindex: isStop ? "0" : "-1",
    "aria-pressed": String(isSelected), "aria-label": `${row.name}: ${words}${marked}`, title: `${row.name}\n${words}${marked}`,
    onclick: () => results.select(row.id),
  }, verdictShape(row.verdict));
  return place(button, { "--y": String(row.verdict ? axis(row.anomaly_score) : 0.5) });
}

function move(event) {
  const by = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
  if (!by) return;
  event.preventDefault();
  results.step(by, event.shiftKey);
}
