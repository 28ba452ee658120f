// Models: what each one is, what its health check found, how its training went, and its report.

import { get, ofModel } from "../api.js";
import { lineChart } from "../charts.js";
import { h } from "../dom.js";
import { station } from "../station.js";
import { alphaValue, counted, score, sentence, whenInFull } from "../words.js";

const NO_CURVES = new Set(["phase", "iteration", "fold", "seconds", "epoch"]);

export function show(main, signal) {
  const body = h("div", { class: "models" });
  main.append(body);
  let drawn = "";
  const draw = () => {
    const text = JSON.stringify([station.models, station.model?.name]);
    if (text === drawn) return;
    drawn = text;
    body.replaceChildren(...station.models.map(card));
  };
  station.on("models", draw, signal);
  draw();
}

function card(model) {
  const isChosen = model.name === station.model?.name;
  const choose = isChosen ? h("strong", { class: "in-use" }, "chosen") : h("button", { type: "button", onclick: () => station.choose(model.name) }, "Choose");
  return h("section", { class: "card model", "aria-label": model.name },
    h("div", { class: "model-top" }, h("h2", {}, model.name), choose),
    model.problem ? h("p", { class: "problem" }, `A newer file is not used: ${model.problem}`) : null,
    health(model.health), facts(model),
    model.has_curves ? more("Curves of its training", () => curves(model)) : null,
    model.has_report ? more("Report", () => report(model)) : h("p", { class: "soft small" }, "No report was written for it; alocc report makes one."));
}

function facts(model) {
  const { calibration } = model;
  const line = (name, value) => value && h("div", {}, h("dt", {}, name), h("dd", {}, value));
  const basis = calibration.number ? `${calibration.number}, of ${whenInFull(calibration.date)}` : "the file's own";
  return h("dl", { class: "facts wide" },
    line("Images", model.images), line("Preset", model.preset), line("Alpha", alphaValue(model.alpha)),
    line("Can't tell up to", model.review_alpha ? alphaValue(model.review_alpha) : "not in use"), line("Alarm line", score(model.threshold)),
    line("Calibration", `${basis}; ${counted(calibration.n_images, "held-out image")}`), line("Maps", model.has_maps ? "yes" : "no"),
    line("Version", model.version), line("Loaded", whenInFull(model.loaded_at)));
}

function health(found) {
  if (!found) return h("p", { class: "soft" }, "No health check came with this model.");
  const words = { good: "Good", doubtful: "Doubtful", useless: "Useless" }[found.verdict];
  const items = found.findings.map((one) => h("li", {}, `${sentence(one.reason)} `, h("span", { class: "soft" }, sentence(one.advice))));
  return h("div", { class: `health ${found.verdict}` }, h("p", {}, h("strong", {}, `Health check: ${words}. `), found.meaning), items.length ? h("ul", {}, items) : null);
}

/** A part that is fetched when it is opened. */
function more(title, fill) {
  const body = h("div", { class: "more" });
  return h("details", { ontoggle: async (event) => {
    if (!event.target.open || body.childNodes.length) return;
    try {
      body.replaceChildren(...[await fill()].flat());
    } catch (error) {
      body.replaceChildren(h("p", { class: "soft" }, error.message));
    }
  } }, h("summary", {}, title), body);
}

async function curves(model) {
  const { columns } = await get(ofModel(model.name, "curves"));
  const charts = Object.entries(columns).filter(([name]) => !NO_CURVES.has(name)).map(([name, values]) => {
    const series = linesOf(columns, values);
    const chart = series.some(({ points }) => points.length > 1) && lineChart({ label: `${name} over iterations`, series, width: 340, height: 160 });
    return chart && h("figure", {}, h("figcaption", {}, name), chart);
  }).filter(Boolean);
  return h("div", { class: "curves" }, charts);
}

/** A line for each fold: networks of one fold do not go on from those of the one before. */
function linesOf({ iteration, fold }, values) {
  const lines = new Map();
  values.forEach((value, i) => {
    if (typeof value !== "number") return;
    const name = fold?.[i] ?? "";
    if (!lines.has(name)) lines.set(name, []);
    lines.get(name).push([iteration[i], value]);
  });
  return [...lines].map(([name, points]) => ({ name, points }));
}

function report(model) {
  const path = ofModel(model.name, "report");
  return [h("p", {}, h("a", { href: path, target: "_blank", rel: "noopener" }, "Open in its own tab")),
    h("iframe", { class: "report", title: `Report of ${model.name}`, src: path, sandbox: "allow-scripts", loading: "lazy" })];
}
