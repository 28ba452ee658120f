// Threshold: where the alarm line is, what another alpha would change, how often a call was right, recalibration.

import { get, ofModel } from "../api.js";
import { AlphaSlider } from "../alpha_slider.js";
import { countsChart } from "../counts_chart.js";
import { h, whenQuiet } from "../dom.js";
import { keepAlphas, ownAlphas } from "../own_alpha.js";
import { precisionWords } from "../precision_words.js";
import { recalibration } from "../recalibration.js";
import { rowList, verdictChange } from "../row_list.js";
import { station } from "../station.js";
import { complain, toast } from "../toasts.js";
import { alphaValue, counted, score } from "../words.js";

const LAST = [100, 500, 2000, 10000];

export function show(main, signal) {
  const asked = { alpha: 0.01, review: null, last: 500 };
  const effect = h("div", { class: "effect", "aria-live": "polite" });
  const precision = h("div", { class: "precision" });
  const soon = whenQuiet(() => showEffect(effect, asked), 120);
  const sliders = alphaControls(asked, soon);
  const recalibrate = recalibration(asked, signal);
  main.append(
    h("section", { class: "card", "aria-labelledby": "line-title" }, h("h2", { id: "line-title" }, "Alarm line"), sliders.element, effect),
    h("section", { class: "card", "aria-labelledby": "precision-title" }, h("h2", { id: "precision-title" }, "How often a call was right"), precision),
    recalibrate.element);
  let drawn = "";
  const load = () => {
    const { model } = station;
    const facts = model && [model.name, model.version, model.calibration.number, model.alpha, model.review_alpha].join();
    if (!model || facts === drawn) return;
    drawn = facts;
    sliders.takeFrom(model);
    soon();
    showPrecision(precision);
    recalibrate.load();
  };
  station.on("models", load, signal);
  station.on("row", () => showPrecision(precision), signal);
  load();
}

function alphaControls(asked, changed) {
  const alpha = new AlphaSlider("Alpha", "The share of normal images that may be called anomalous.", (value) => {
    asked.alpha = value;
    review.limits(value);
    if (asked.review !== null) asked.review = review.value;
    changed();
  });
  const review = new AlphaSlider("Can't tell up to", "Images with a p-value between alpha and this go to a person's list.", (value) => {
    asked.review = value;
    changed();
  });
  const third = h("input", { type: "checkbox", onchange: () => {
    asked.review = third.checked ? review.value : null;
    review.disable(!third.checked);
    changed();
  } });
  const last = h("select", { onchange: () => { asked.last = Number(last.value); changed(); } },
    LAST.map((n) => h("option", { value: String(n) }, counted(n, "image"))));
  last.value = String(asked.last);
  const takeFrom = (model) => {
    const own = { alpha: model.alpha, review_alpha: model.review_alpha, ...ownAlphas(model.name) };
    alpha.limits(1 / (model.calibration.n_images + 1));
    alpha.set(own.alpha);
    asked.alpha = alpha.value;
    review.limits(asked.alpha);
    review.set(own.review_alpha ?? Math.min(0.5, 5 * asked.alpha));
    third.checked = own.review_alpha !== null && own.review_alpha !== undefined;
    review.disable(!third.checked);
    asked.review = third.checked ? review.value : null;
  };
  const element = h("div", { class: "alphas" }, alpha.element,
    h("div", {}, h("label", { class: "check" }, third, "A third verdict, can't tell"), review.element),
    h("label", { class: "last" }, "Tried on the last", last));
  return { element, takeFrom };
}

/** What the alphas asked for would change among the last images. */
async function showEffect(element, asked) {
  const { model } = station;
  if (!model) return;
  const query = { alpha: asked.alpha, review_alpha: asked.review, last: asked.last };
  try {
    const found = await get(ofModel(model.name, "alpha"), query);
    if (query.alpha !== asked.alpha || query.review_alpha !== asked.review) return;
    element.replaceChildren(...effectParts(found, model, asked));
  } catch (error) {
    complain(error);
  }
}

function effectParts(found, model, asked) {
  if (!found.n) return [h("p", { class: "soft" }, "No image was scored by this model yet: there is nothing to try it on.")];
  const line = h("p", {}, "The alarm line is at ", h("strong", {}, score(found.threshold)), `, now at ${score(model.threshold)}. `,
    `Of the last ${counted(found.n, "image")}:`);
  const same = asked.alpha === model.alpha && asked.review === (model.review_alpha ?? null);
  const bars = same ? [["Now", found.now]] : [["Now", found.now], [`With alpha ${alphaValue(asked.alpha)}`, found.then]];
  return [line, countsChart(bars), ...changes(found), use(asked, model)];
}

function changes({ changes: rows, n_changes: n }) {
  if (!n) return [];
  const title = h("summary", {}, `${counted(n, "image")} would get another verdict`);
  const more = n > rows.length ? h("p", { class: "soft" }, `The newest ${rows.length} of them.`) : null;
  return [h("details", { open: n <= 12 }, title, rowList(rows.map(({ row }) => row), (row) => {
    const { before, after } = rows.find((one) => one.row.id === row.id);
    return verdictChange(before, after);
  }), more)];
}

function use(asked, model) {
  const own = ownAlphas(model.name);
  const isOwn = own.alpha !== undefined;
  const take = () => {
    keepAlphas(model.name, { alpha: asked.alpha, review_alpha: asked.review });
    toast(`Images sent from this browser are now called at alpha ${alphaValue(asked.alpha)}`);
    station.dispatchEvent(new Event("models"));
  };
  const back = () => {
    keepAlphas(model.name, null);
    toast(`Back to the model's alpha, ${alphaValue(model.alpha)}`);
    station.dispatchEvent(new Event("models"));
  };
  const words = isOwn ? `This browser uses alpha ${alphaValue(own.alpha)}.` : "Recalibrate, below, to change it for everybody.";
  return h("div", { class: "actions" }, h("button", { type: "button", onclick: take }, "Use it in this browser"),
    isOwn ? h("button", { type: "button", onclick: back }, "Back to the model's") : null, h("span", { class: "soft" }, words));
}

async function showPrecision(element) {
  const { model } = station;
  if (!model) return;
  try {
    element.replaceChildren(...precisionWords(await get(ofModel(model.name, "precision"))));
  } catch (error) {
    complain(error);
  }
}
