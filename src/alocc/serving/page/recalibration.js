// Recalibration: what it would change is shown before it is done, every version is kept, and any of them can come back.

import { get, ofModel, send } from "./api.js";
import { countsChart } from "./counts_chart.js";
import { h } from "./dom.js";
import { rowList, verdictChange } from "./row_list.js";
import { station } from "./station.js";
import { complain, toast } from "./toasts.js";
import { alphaValue, count, counted, score, whenInFull } from "./words.js";

const BASES = [
  ["added", "Held-out images, and good ones since", "What the model was calibrated on stays, and images that count as good since then are added."],
  ["recent", "Good images since, alone", "For when normal images look different now. It needs enough of them for the alpha."],
];

/** The section; asked has the alphas and the last N of the sliders above it. {element, load()} */
export function recalibration(asked, signal) {
  const proposal = h("div", { class: "proposal", "aria-live": "polite" });
  const versions = h("div", { class: "versions" });
  const bases = BASES.map(([value, words, help], i) => h("label", { class: "choice" },
    h("input", { type: "radio", name: "basis", value, checked: i === 0, onchange: () => proposal.replaceChildren() }),
    h("span", {}, h("strong", {}, words), h("span", { class: "soft small" }, help))));
  const basis = () => bases.map((label) => label.querySelector("input")).find(({ checked }) => checked).value;
  const query = () => ({ basis: basis(), alpha: asked.alpha, review_alpha: asked.review, last: asked.last });
  const load = () => { proposal.replaceChildren(); showVersions(versions); };

  const propose = async () => {
    const wanted = query();
    try {
      const found = await get(ofModel(station.model.name, "recalibration"), wanted);
      proposal.replaceChildren(...proposalParts(found, () => apply(wanted, found.digest), () => proposal.replaceChildren()));
    } catch (error) {
      proposal.replaceChildren(h("p", { class: "problem" }, error.message));
    }
  };
  const apply = async (wanted, digest) => {
    try {
      const { name } = station.model;
      const { number } = await send("POST", ofModel(name, "recalibration"), { ...wanted, digest });
      await station.refreshModel(name);
      load();
      toast(`Calibration ${number} is in use`, { label: "Roll back", act: () => activate(name, number - 1, versions) });
    } catch (error) {
      complain(error);
      if (error.status === 409) propose();
    }
  };
  const element = h("section", { class: "card", "aria-labelledby": "recalibration-title" },
    h("h2", { id: "recalibration-title" }, "Recalibrate"),
    h("p", { class: "soft" }, "Sets the alarm line anew, from images that count as good: not called and not marked as missed, or marked as a false alarm. ",
      "Called images without a mark are left out. Nothing is trained, nothing is lost."),
    h("fieldset", { class: "choices" }, h("legend", {}, "From"), bases),
    h("div", { class: "actions" }, h("button", { type: "button", class: "primary", onclick: propose }, "Show what would change")),
    proposal, h("h3", {}, "Versions"), versions);
  station.on("row", () => proposal.replaceChildren(), signal);
  return { element, load };
}

function proposalParts(found, apply, dismiss) {
  const { old_threshold: before, new_threshold: after } = found;
  const moves = after > before ? "higher: fewer images are called" : after < before ? "lower: more images are called" : "where it was";
  const rows = found.changes;
  return [
    h("p", { class: "figure" }, `Alarm line ${score(before)} `, h("span", { "aria-hidden": "true" }, "→"), h("span", { class: "unseen" }, "to"), " ", h("strong", {}, score(after))),
    h("p", {}, `It is ${moves}. ${counted(found.n_normals, "good image")} of this history ${found.n_normals === 1 ? "is" : "are"} in it, ${count(found.n_false_alarms)} of them false alarms that somebody marked.`),
    countsChart([["Now", found.old_counts], ["Then", found.new_counts]]),
    rows.length ? h("details", { open: rows.length <= 12 }, h("summary", {}, `${counted(found.n_changes, "image")} of the last ${count(found.n_last)} would get another verdict`),
      rowList(rows.map(({ row }) => row), (row) => { const one = rows.find((other) => other.row.id === row.id); return verdictChange(one.before, one.after); })) : h("p", {}, "No verdict among the last images would change."),
    h("div", { class: "actions" }, h("button", { type: "button", class: "primary", onclick: apply }, "Apply for everybody"), h("button", { type: "button", onclick: dismiss }, "Leave it")),
  ];
}

async function showVersions(element) {
  const { name } = station.model;
  try {
    const { calibrations } = await get(ofModel(name, "calibrations"));
    const rows = calibrations.map((one) => h("tr", {},
      h("th", { scope: "row" }, one.number ? `Calibration ${one.number}` : "The file's own"),
      h("td", {}, score(one.threshold)), h("td", {}, alphaValue(one.alpha), one.review_alpha ? ` to ${alphaValue(one.review_alpha)}` : ""),
      h("td", {}, count(one.n_images)), h("td", {}, one.date ? whenInFull(one.date) : ""),
      h("td", {}, one.active ? h("strong", { class: "in-use" }, "in use") : h("button", { type: "button", class: "small", onclick: () => activate(name, one.number, element) }, "Use this one"))));
    element.replaceChildren(h("div", { class: "scroll", tabindex: "0", role: "group", "aria-label": "Versions" }, h("table", {}, h("thead", {}, h("tr", {},
      ["Version", "Alarm line", "Alpha", "Images", "Made", ""].map((head) => h("th", { scope: "col" }, head || h("span", { class: "unseen" }, "Use"))))), h("tbody", {}, rows))));
  } catch (error) {
    complain(error);
  }
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

