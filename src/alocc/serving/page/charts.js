// Line and bar charts, drawn by hand in SVG. Colours come from the style sheet, numbers from tables that go with them.

import { svg } from "./dom.js";

const ROOM = { left: 48, right: 12, top: 16, bottom: 26 };

/** Round steps between two values: at most six or so, of 1, 2 or 5 times a power of ten. */
export function ticks(low, high, most = 5) {
  const span = high - low || Math.abs(high) || 1;
  const rough = span / most;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = power * ([1, 2, 5, 10].find((one) => one * power >= rough) ?? 10);
  const first = Math.ceil(low / step - 1e-9);
  const found = [];
  for (let i = first; i * step <= high + step * 1e-9; i += 1) found.push(Number((i * step).toPrecision(12)));
  return found;
}

const span = (values) => [Math.min(...values), Math.max(...values)];
const short = (value) => (Math.abs(value) >= 10000 || (value !== 0 && Math.abs(value) < 0.001) ? value.toExponential(0) : String(value));

/**
 * A chart of lines over one axis.
 * series: [{name, points: [[x, y]…]}]; lines: [{y, words}]; marks: [[x, words]…] along the top; whole: x are numbers
 * of things. Without a single point there is no chart: null.
 */
export function lineChart({ label, series, lines = [], marks = [], low, high, yWords = short, width = 480, height = 190, whole = false }) {
  const points = series.flatMap((one) => one.points).filter(([, y]) => Number.isFinite(y));
  if (!points.length) return null;
  const [x0, x1] = span(points.map(([x]) => x));
  const ys = [...points.map(([, y]) => y), ...lines.map(({ y }) => y)];
  const [y0, y1] = [low ?? Math.min(...ys), high ?? Math.max(...ys)];
  const { left, right, top, bottom } = ROOM;
  const toX = (x) => left + (width - left - right) * (x1 > x0 ? (x - x0) / (x1 - x0) : 0.5);
  const toY = (y) => height - bottom - ((height - top - bottom) * (y - y0)) / (y1 - y0 || 1);
  const axis = [
    ...ticks(y0, y1, 4).map((y) => [
      svg("path", { class: "grid", d: `M${left} ${toY(y)}H${width - right}` }),
      svg("text", { class: "tick", x: left - 8, y: toY(y) + 4, "text-anchor": "end" }, yWords(y)),
    ]),
    ...ticks(x0, x1, 6).filter((x) => !whole || Number.isInteger(x)).map((x) => svg("text", { class: "tick", x: toX(x), y: height - 8, "text-anchor": "middle" }, short(x))),
  ];
  const drawn = series.map(({ points: some }) => {
    const known = some.filter(([, y]) => Number.isFinite(y));
    const path = known.map(([x, y], at) => `${at ? "L" : "M"}${toX(x).toFixed(1)} ${toY(y).toFixed(1)}`).join("");
    const dots = known.length <= 60 ? known.map(([x, y]) => svg("circle", { cx: toX(x), cy: toY(y), r: 3 })) : [];
    return svg("g", { class: "series" }, svg("path", { d: path }), dots);
  });
  const across = lines.map(({ y, words }) => [
    svg("path", { class: "reference", d: `M${left} ${toY(y)}H${width - right}` }),
    svg("text", { class: "reference-words", x: width - right, y: toY(y) - 5, "text-anchor": "end" }, words),
  ]);
  const flags = marks.map(([x, words]) => svg("path", { class: "flag", d: `M${toX(x)} ${top - 10}l5 9h-10Z` }, svg("title", {}, words)));
  return svg("svg", { class: "chart", viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": label }, axis, across, drawn, flags);
}
