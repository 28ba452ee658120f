// Threshold: where the alarm line is, what another alpha would change, how often a call was right, recalibration.

import { get, ofModel } from "../api.js";
import { AlphaSlider } from "../alpha_slider.js";
import { countsChart } from "../counts_chart.js";
import { h, whenQuiet } from "../dom.js";
import { effectOf } from "../effect.js";
import { alphasOf, keepAlphas, ownAlphas } from "../own_alpha.js";
import { precisionWords } from "../precision_words.js";
import { recalibration } from "../recalibration.js";
import { changeList } from "../row_list.js";
import { station } from "../station.js";
import { complain, toast } from "../toasts.js";
import { alphaValue, count, counted, score } from "../words.js";

const LAST = [100, 500, 2000, 10000];

export function show(main, signal) {
  const asked = { alpha: 0.01, review: null, last: 500 };
  const effect = h("div", { class: "effect" });
  const precision = h("div", { class: "precision" });
  const update = whenQuiet(() => showEffect(effect, asked, redraw), 120);
  const sliders = alphaControls(asked, update);
  const recalibrate = recalibration(asked, signal);
  const redraw = () => { sliders.takeFrom(station.model); update(); };
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
    redraw();
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
    const used = ownAlphas(model) ?? alphasOf(model);
    alpha.limits(model.smallest_alpha);
    alpha.set(used.alpha);
    asked.alpha = alpha.value;
    review.limits(asked.alpha);
    review.set(used.review ?? 5 * asked.alpha);
    third.checked = used.review !== null;
    review.disable(!third.checked);
    asked.review = third.checked ? review.value : null;
  };
  const element = h("div", { class: "alphas" }, alpha.element, review.element,
    h("label", { class: "check" }, third, "With a third verdict, can't tell"), h("label", { class: "last" }, "Tried on the last", last));
  return { element, takeFrom };
}

/** What the alphas asked for would change among the last images; a later question's answer takes the place of an earlier one. */
let asking = new AbortController();
async function showEffect(element, asked, redraw) {
  const { model } = station;
  if (!model) return;
  asking.abort();
  asking = new AbortController();
  try {
    const found = await effectOf(model, { ...asked }, { signal: asking.signal });
    element.replaceChildren(...effectParts(found, model, asked, redraw));
  } catch (error) {
    if (error.name !== "AbortError") complain(error);
  }
}

function effectParts(found, model, asked, redraw) {
  if (!found.n) return [h("p", { class: "soft" }, "This model has scored no image yet: there is nothing to try it on.")];
  const own = alphasOf(model);
  const isSame = asked.alpha === own.alpha && asked.review === own.review;
  const [{ alarm: before }, { alarm: after }] = found.lines;
  const words = isSame ? ["The alarm line is at ", h("strong", {}, score(before)), "."]
    : ["The alarm line would go from ", score(before), " to ", h("strong", {}, score(after)), "."];
  const bars = isSame ? [["Now", found.before]] : [["Now", found.before], [`Alpha ${alphaValue(asked.alpha)}`, found.after]];
  return [h("p", { role: "status" }, ...words, ` Of the last ${counted(found.n, "image")}:`), countsChart(bars), ...changes(found, isSame), choice(asked, model, isSame, redraw)];
}

function changes({ changes: rows, nListed }, isSame) {
  if (isSame) return [];
  return [changeList(rows, rows.length, `of the newest ${count(nListed)} would get another verdict`)];
}

/** Buttons: use these alphas in this browser, or the model's own again. */
function choice(asked, model, isSame, redraw) {
  const own = ownAlphas(model);
  const use = () => {
    keepAlphas(model, { alpha: asked.alpha, review: asked.review });
    toast(`Images sent from this browser are now called at alpha ${alphaValue(asked.alpha)}`);
    redraw();
  };
  const back = () => {
    keepAlphas(model, null);
    toast(`Back to the model's own alpha, ${alphaValue(model.alpha)}`);
    redraw();
  };
  const isUsed = own ? own.alpha === asked.alpha && own.review === asked.review : isSame;
  const words = own ? `This browser uses alpha ${alphaValue(own.alpha)}.` : "Recalibrate, below, to change it for everybody.";
  return h("div", { class: "actions" },
    h("button", { type: "button", disabled: isUsed, onclick: use }, "Use in this browser"),
    own ? h("button", { type: "button", onclick: back }, "Back to the model's own") : null, h("span", { class: "soft" }, words));
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
