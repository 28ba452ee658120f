// Drift: do new images still score like those that set the alarm line? Window by window, with the figures below.

import { get, ofModel } from "../api.js";
import { lineChart } from "../charts.js";
import { h } from "../dom.js";
import { station } from "../station.js";
import { alphaValue, chance, counted, percent, sentence } from "../words.js";

const WINDOWS = [50, 100, 500];
const LAST = [1000, 5000, 20000];

export function show(main, signal) {
  const select = (label, values, present) => {
    const element = h("select", { onchange: load }, values.map((n) => h("option", { value: String(n) }, counted(n, "image"))));
    element.value = String(present);
    return [h("label", { class: "last" }, label, element), element];
  };
  const [windowLabel, size] = select("Windows of", WINDOWS, 100);
  const [lastLabel, last] = select("among the last", LAST, 5000);
  const body = h("div", { class: "drift-body" });
  main.append(h("section", { class: "card" }, h("p", {}, "Scores of images that come in, against those of the held-out normal images that set the alarm line. No mark is needed."),
    h("div", { class: "row-of-controls" }, windowLabel, lastLabel)), body);
  let drawn = "";
  async function load() {
    const { model } = station;
    if (!model) return;
    drawn = model.name;
    try {
      const found = await get(ofModel(model.name, "drift"), { window: size.value, last: last.value });
      body.replaceChildren(...parts(found, model));
    } catch (error) {
      body.replaceChildren(h("section", { class: "card" }, h("p", { class: "soft" }, error.message)));
    }
  }
  station.on("models", () => { if (station.model?.name !== drawn) load(); }, signal);
  load();
}

function parts({ windows, verdict, has_drifted: hasDrifted }, model) {
  if (!windows.length) return [h("section", { class: "card said", role: "status" }, h("p", {}, sentence(verdict)))];
  const points = (name) => windows.map((one, i) => [i + 1, one[name]]);
  const flags = windows.flatMap((one, i) => (one.has_drifted ? [[i + 1, `window ${i + 1} has drifted`]] : []));
  const shares = windows.map((one) => one.share_of_anomalies);
  return [
    h("section", { class: `card said ${hasDrifted ? "has-drifted" : ""}`, role: "status" }, h("h2", {}, hasDrifted ? "The images have changed" : "No sign of a change"), hasDrifted ? h("p", {}, sentence(verdict)) : null),
    h("div", { class: "charts" },
      figure("Mean p-value", "About 0.5 while nothing has changed; lower when images get more unusual.",
        lineChart({ label: "Mean p-value of each window", series: [{ name: "mean p-value", points: points("mean_p_value") }], whole: true, lines: [{ y: 0.5, words: "usual" }], marks: flags, low: 0, high: 1 })),
      figure("Called anomalous", `About ${percent(model.alpha)} of normal images are called, at alpha ${alphaValue(model.alpha)}.`,
        lineChart({ label: "Share of each window that was called anomalous", series: [{ name: "share", points: points("share_of_anomalies") }], whole: true, lines: [{ y: model.alpha, words: "alpha" }], marks: flags, low: 0, high: Math.min(1, Math.max(0.1, ...shares) * 1.1), yWords: percent }))),
    h("section", { class: "card" }, h("details", {}, h("summary", {}, `Figures of ${counted(windows.length, "window")}`), table(windows))),
  ];
}

function figure(title, help, chart) {
  return h("section", { class: "card" }, h("h2", {}, title), h("p", { class: "soft" }, help), chart);
}

function table(windows) {
  const heads = ["Window", "From", "To", "Images", "Mean p-value", "Called", "p of no change", ""];
  const rows = windows.map((one, i) => h("tr", {}, h("th", { scope: "row" }, String(i + 1)), h("td", {}, one.first), h("td", {}, one.last), h("td", {}, String(one.n_images)),
    h("td", {}, one.mean_p_value.toFixed(2)), h("td", {}, percent(one.share_of_anomalies)), h("td", {}, chance(one.p_same)), h("td", {}, one.has_drifted ? h("strong", { class: "is-anomalous" }, "changed") : "")));
  return h("div", { class: "scroll", tabindex: "0", role: "group", "aria-label": "Figures of each window" },
    h("table", {}, h("thead", {}, h("tr", {}, heads.map((head) => (head ? h("th", { scope: "col" }, head) : h("td", {}))))), h("tbody", {}, rows)));
}
