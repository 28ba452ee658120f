// Recalibration: what it would change is shown before it is done, every version is kept, and any of them can come back.

import { get, ofModel, send } from "./api.js";
import { countsChart } from "./counts_chart.js";
import { h } from "./dom.js";
import { alphasOf, asQuery } from "./own_alpha.js";
import { changeList } from "./row_list.js";
import { station } from "./station.js";
import { complain, toast } from "./toasts.js";
import { alphaValue, count, counted, percent, score, when, whenInFull } from "./words.js";

const BASES = [
  ["added", "Held-out images, and good ones since", "What the model was calibrated on stays; images that count as good since then are added."],
  ["recent", "Good images since, alone", "For when normal images look different now. Needs enough of them for the alpha."],
];

/** The section; asked has the alphas of the sliders above it. {element, load()} */
export function recalibration(asked, signal) {
  const proposal = h("div", { class: "proposal", role: "status" });
  const versions = h("div", { class: "versions" });
  const bases = BASES.map(([value, words, help], i) => h("label", { class: "choice" },
    h("input", { type: "radio", name: "basis", value, checked: i === 0, onchange: () => proposal.replaceChildren() }),
    h("span", {}, h("strong", {}, words), h("span", { class: "soft small" }, help))));
  const basis = () => bases.map((label) => label.querySelector("input")).find(({ checked }) => checked).value;
  const clear = () => proposal.replaceChildren();

  const propose = async () => {
    const wanted = { basis: basis(), ...asQuery(asked) };
    try {
      const found = await get(ofModel(station.model.name, "recalibration"), wanted);
      proposal.replaceChildren(...proposalParts(found, () => apply(wanted, found.digest), clear));
    } catch (error) {
      proposal.replaceChildren(h("p", { class: "problem" }, error.message));
    }
  };
  const apply = async (wanted, digest) => {
    try {
      const { name, calibration } = station.model;
      const { number } = await send("POST", ofModel(name, "recalibration"), { ...wanted, digest });
      await station.refreshModel(name);
      load();
      toast(`Calibration ${number} is in use`, { label: "Roll back", act: () => activate(name, calibration.number, versions) });
    } catch (error) {
      complain(error);
      if (error.status === 409) propose();
    }
  };
  const load = () => { clear(); showVersions(versions); };
  const element = h("section", { class: "card", "aria-labelledby": "recalibration-title" },
    h("h2", { id: "recalibration-title" }, "Recalibrate"),
    h("p", { class: "soft" }, "Sets the alarm line anew, with the alphas above, from images that count as good: marked as a false alarm, or neither called nor marked as missed. ",
      "Called images without a mark are left out: mark every false alarm first, or more good images are called than alpha says. ",
      "Nothing is trained, and every version is kept."),
    h("fieldset", { class: "choices" }, h("legend", {}, "From"), bases),
    h("div", { class: "actions" }, h("button", { type: "button", class: "primary", onclick: propose }, "Show what would change")),
    proposal, h("h3", {}, "Versions"), versions);
  station.on("row", clear, signal);
  return { element, load };
}

function proposalParts(found, apply, dismiss) {
  const { threshold_before: before, threshold: after } = found;
  const way = after > before ? "The line rises." : after < before ? "The line falls." : "The line stays.";
  const { review } = alphasOf(found);
  const alphas = review === null ? `alpha ${alphaValue(found.alpha)}` : `alpha ${alphaValue(found.alpha)}, can't tell up to ${alphaValue(review)}`;
  const sure = found.n_left_out ? ` ${counted(found.n_left_out, "called image")} without a mark ${found.n_left_out === 1 ? "is" : "are"} left out; if all of them are good, ${percent(found.rate_if_left_out_are_good)} of good images would be called.` : "";
  const changes = found.changes.map(({ image, ...verdicts }) => ({ row: image, ...verdicts }));
  const nChanges = found.verdicts.filter((one) => one.before !== one.after).reduce((sum, { n }) => sum + n, 0);
  return [
    h("p", { class: "figure" }, `Alarm line ${score(before)} `, h("span", { "aria-hidden": "true" }, "→"), h("span", { class: "unseen" }, "to"), " ", h("strong", {}, score(after))),
    h("p", {}, `${way} It would rest on ${counted(found.n_held_out, "score")}, at ${alphas}: ${counted(found.n_normals, "good image")} of this history, ${count(found.n_false_alarms)} of them marked as such.${sure}`),
    countsChart([["Now", sums(found.verdicts, "before")], ["Then", sums(found.verdicts, "after")]]),
    changeList(changes, nChanges, `of the last ${count(found.n_images)} would get another verdict`),
    precisionChange(found),
    h("div", { class: "actions" }, h("button", { type: "button", class: "primary", onclick: apply }, "Apply for everybody"), h("button", { type: "button", onclick: dismiss }, "Leave it")),
  ].filter(Boolean);
}

function sums(verdicts, side) {
  const found = {};
  for (const one of verdicts) found[one[side]] = (found[one[side]] ?? 0) + one.n;
  return found;
}

function precisionChange({ precision_before: before, precision: after }) {
  const words = ({ n_confirmed: right, n_false_alarms: wrong }) => `${count(right)} of ${count(right + wrong)}`;
  if (before.value === null && after.value === null) return null;
  return h("p", {}, `Of called images that somebody marked, ${words(before)} are defective now, ${words(after)} then. `,
    h("span", { class: "soft" }, "These very images set the line: expect a little less of new ones."));
}

async function showVersions(element) {
  const { name } = station.model;
  try {
    const found = await get(ofModel(name, "calibrations"));
    const rows = found.map((one) => h("tr", {},
      h("th", { scope: "row" }, one.number ? `Calibration ${one.number}` : "The file's own"),
      h("td", {}, score(one.threshold)), h("td", {}, alphaWords(one)), h("td", {}, count(one.n_held_out)),
      h("td", {}, one.time ? h("time", { datetime: one.time, title: whenInFull(one.time) }, when(one.time)) : "–"),
      h("td", {}, one.active ? h("strong", { class: "in-use" }, "in use")
        : h("button", { type: "button", class: "small", onclick: () => activate(name, one.number, element) }, "Use this one", h("span", { class: "unseen" }, `, ${one.number || "the file's own"}`)))));
    const heads = ["Version", "Alarm line", "Alpha", "Scores in it", "Made", "State"].map((head) => h("th", { scope: "col" }, head));
    element.replaceChildren(h("div", { class: "scroll", tabindex: "0", role: "group", "aria-label": "Versions" },
      h("table", {}, h("thead", {}, h("tr", {}, heads)), h("tbody", {}, rows))));
  } catch (error) {
    complain(error);
  }
}

function alphaWords(calibration) {
  const { alpha, review } = alphasOf(calibration);
  return review === null ? alphaValue(alpha) : `${alphaValue(alpha)}, can't tell to ${alphaValue(review)}`;
}

async function activate(name, number, versions) {
  try {
    await send("POST", ofModel(name, `calibrations/${number}/activate`));
    await station.refreshModel(name);
    await showVersions(versions);
    toast(number ? `Calibration ${number} is in use` : "The file's own calibration is in use");
  } catch (error) {
    complain(error);
  }
}
