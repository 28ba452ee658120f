// How far the upload is: images done, rate, time left, pause and cancel; afterwards what came out.

import { h } from "./dom.js";
import { icon, verdictShape } from "./icons.js";
import { uploads } from "./uploads.js";
import { count, counted, duration, verdictWord } from "./words.js";

/** The bar as an element; hidden until something is sent. */
export function uploadBar(signal) {
  const meter = h("progress", { max: "1", value: 0, "aria-label": "Upload" });
  const words = h("p", { class: "upload-words", role: "status" });
  const pause = h("button", { type: "button", onclick: () => uploads.pause(!uploads.isPaused) });
  const cancel = h("button", { type: "button", onclick: () => uploads.cancel() }, "Cancel");
  const again = h("button", { type: "button", onclick: () => uploads.sendAgain() }, "Send again");
  const shut = () => { uploads.forget(); element.hidden = true; };
  const close = h("button", { type: "button", class: "plain", "aria-label": "Close", title: "Close", onclick: shut }, icon("close"));
  const more = h("details", { class: "broken", hidden: true });
  const element = h("section", { class: "card upload", "aria-label": "Upload", hidden: true },
    h("div", { class: "upload-row" }, words, more, again, pause, cancel, close), meter);
  const draw = () => {
    const { isActive } = uploads;
    if (!uploads.n) { element.hidden = true; return; }
    if (isActive) element.hidden = false;
    meter.hidden = !isActive;
    meter.value = uploads.nDone / uploads.n;
    pause.hidden = cancel.hidden = !isActive;
    close.hidden = isActive;
    again.hidden = isActive || !uploads.unsent.length;
    pause.replaceChildren(icon(uploads.isPaused ? "resume" : "pause"), uploads.isPaused ? "Go on" : "Pause");
    words.replaceChildren(...(isActive ? progress() : outcome()));
    listBroken(more);
  };
  uploads.addEventListener("progress", draw, { signal });
  uploads.addEventListener("finished", () => { if (uploads.n === 1 && !uploads.unsent.length && !uploads.nOthers) element.hidden = true; }, { signal });
  draw();
  element.hidden = !uploads.isActive && !uploads.unsent.length;
  return element;
}

function progress() {
  const parts = [`${count(uploads.nDone)} of ${counted(uploads.n, "image")}`];
  if (uploads.isPaused) parts.push("paused");
  else if (uploads.busyUntil > Date.now()) parts.push("the server is busy, waiting");
  else if (uploads.rate) parts.push(`${uploads.rate.toFixed(uploads.rate < 10 ? 1 : 0)} a second`, `${duration(uploads.secondsLeft)} left`);
  return [parts.join(" · ")];
}

function outcome() {
  const kinds = [["anomalous", "anomalous"], ["can't tell", "can't tell"], ["normal", "normal"], ["broken", null]];
  const parts = kinds.filter(([kind]) => uploads.tally[kind]).map(([kind, verdict]) =>
    h("span", { class: "tally" }, verdictShape(verdict), `${count(uploads.tally[kind])} ${verdictWord(verdict).toLowerCase()}`));
  const { unsent, nOthers } = uploads;
  if (unsent.length) parts.push(h("strong", { class: "tally" }, `${count(unsent.length)} not sent: ${unsent.at(-1).why}`));
  if (nOthers) parts.push(h("span", { class: "tally" }, `${counted(nOthers, "file")} ${nOthers === 1 ? "is no image" : "are no images"}`));
  return [`${counted(uploads.nDone, "image")}: `, ...parts];
}

function listBroken(more) {
  more.hidden = !uploads.broken.length;
  if (more.hidden) return;
  const items = uploads.broken.slice(0, 50).map(([name, why]) => h("li", {}, h("strong", {}, name), ` ${why}`));
  const rest = uploads.broken.length - items.length;
  const after = rest > 0 ? h("li", { class: "soft" }, `and ${count(rest)} more`) : "";
  more.replaceChildren(h("summary", {}, "Why"), h("ul", {}, items, after));
}

