// Inspect: images in, the present one large with its verdict, the last results as a strip.

import { get } from "../api.js";
import { Camera } from "../camera.js";
import { h } from "../dom.js";
import { chosen, dropped } from "../dropped.js";
import { icon, key } from "../icons.js";
import { listen } from "../keys.js";
import { markKeys } from "../marks.js";
import { Picture } from "../picture.js";
import { results } from "../results.js";
import { station } from "../station.js";
import { strip } from "../strip.js";
import { complain, say } from "../toasts.js";
import { uploads } from "../uploads.js";
import { uploadBar } from "../upload_bar.js";
import { notSent, nothingYet, verdictPanel } from "../verdict_panel.js";
import { score, verdictWord } from "../words.js";

/** Fill the view; everything stops when the signal ends. */
export function show(main, signal) {
  const picture = new Picture();
  const camera = new Camera(() => cameraButton.setAttribute("aria-pressed", String(camera.isOn)));
  const [filesButton, folderButton, inputs] = choosers();
  const cameraButton = h("button", {
    type: "button", "aria-pressed": "false", onclick: () => (camera.isOn ? camera.stop() : camera.start()),
  }, icon("camera"), "Camera");
  const follow = h("input", { type: "checkbox", checked: results.follows, onchange: () => results.follow(follow.checked) });
  const panel = h("section", { class: "card panel", "aria-label": "Verdict" });
  const hint = h("div", { class: "drop-hint" }, icon("files"), h("p", { class: "big" }, "Drop images or a folder here"),
    h("p", { class: "soft" }, "PNG, JPEG, BMP, TIFF or WebP. Or choose them, or use the camera."));
  const stageCard = h("section", { class: "card stage-card", "aria-label": "Image" }, picture.element, hint,
    h("div", { class: "under" }, picture.tools, steps()));
  main.append(
    h("div", { class: "inspect" },
      h("div", { class: "toolbar" }, filesButton, folderButton, cameraButton, inputs, h("span", { class: "soft drop-words" }, "or drop images or a folder anywhere"),
        h("label", { class: "check follow" }, follow, h("span", {}, "Follow", h("span", { class: "wide-only" }, " new results")))),
      uploadBar(signal), stageCard, h("div", { class: "beside" }, camera.element, panel),
      h("section", { class: "card strip-card", "aria-label": "Last results" }, strip(signal))));

  const draw = () => present(picture, panel, hint, follow);
  results.addEventListener("rows", draw, { signal });
  results.addEventListener("selected", draw, { signal });
  uploads.addEventListener("progress", () => { if (!results.present) draw(); }, { signal });
  station.on("models", draw, signal);
  const quiet = listen({
    arrowleft: ["result before; with Shift, only those called", (event) => results.step(-1, event.shiftKey)],
    arrowright: ["result after", (event) => results.step(1, event.shiftKey)],
    ...markKeys(() => results.present), ...picture.keys,
    l: ["follow new results, or stay", () => results.follow(!results.follows)],
    " ": ["capture, while the camera is on", () => camera.isOn && camera.capture()],
  });
  takeDrops(signal);
  signal.addEventListener("abort", () => { quiet(); camera.stop(); picture.dispose(); });
  draw();
}

/** Show the selected result, unless it is shown already; its row is completed from history (regions of others' images). */
let shown = { id: null, element: null };
function present(picture, panel, hint, follow) {
  const row = results.present;
  follow.checked = results.follows;
  hint.hidden = Boolean(row);
  picture.element.hidden = !row;
  panel.replaceChildren(...(row ? verdictPanel(row, { highlight: (i) => picture.highlight(i) }) : withoutRow()));
  if (!row) {
    shown = { id: null, element: null };
    return picture.clear();
  }
  if (shown.id === row.id && shown.element === picture) return undefined;
  shown = { id: row.id, element: picture };
  say(row.verdict ? `${row.name}: ${verdictWord(row.verdict)}, score ${score(row.anomaly_score)}` : `${row.name}: not usable`);
  return row.regions && row.width !== undefined ? picture.show(row) : complete(row, picture);
}

function withoutRow() {
  const { unsent } = uploads;
  if (!unsent.length) return nothingYet();
  return notSent(unsent, () => uploads.sendAgain());
}

async function complete(row, picture) {
  try {
    const { image: whole } = await get(`/v1/history/${row.id}`);
    if (shown.id !== row.id) return;
    station.changed(whole);
    picture.show(whole);
  } catch (error) {
    complain(error);
    if (shown.id === row.id) picture.show(row); // else the one before would stay beside this row's verdict
  }
}

function steps() {
  const tool = (words, name, act) => h("button", { type: "button", class: "tool", title: words, "aria-label": words, onclick: act }, icon(name));
  return h("div", { class: "tools", role: "group", "aria-label": "Results" },
    tool("Result before (←)", "before", () => results.step(-1)), tool("Result after (→)", "after", () => results.step(1)),
    h("button", { type: "button", class: "tool", title: "Next one that was called or is to be looked at (Shift →)", onclick: () => results.step(1, true) },
      h("span", {}, "Next called"), key("⇧ →")));
}

function choosers() {
  const take = ({ target }) => { send(chosen(target.files)); target.value = ""; };
  const files = h("input", { type: "file", multiple: true, accept: "image/*,.tif,.tiff", class: "unseen", tabindex: "-1", "aria-hidden": "true", onchange: take });
  const folder = h("input", { type: "file", webkitdirectory: true, class: "unseen", tabindex: "-1", "aria-hidden": "true", onchange: take });
  const button = (words, name, input, kind) => h("button", { type: "button", class: kind, onclick: () => input.click() }, icon(name), words);
  return [button(h("span", {}, "Choose", h("span", { class: "wide-only" }, " images")), "files", files, "primary"), button("Folder", "folder", folder, "wide-only"), [files, folder]];
}

function send({ images, nOthers }) {
  if (!images.length) return complain(new Error(nOthers ? "none of these files is an image" : "there is no file in there"));
  return uploads.add(images, nOthers);
}

function takeDrops(signal) {
  let depth = 0; // of nested elements that a drag is over
  const isOver = (over) => document.body.classList.toggle("drags", over);
  const hasFiles = (event) => event.dataTransfer?.types.includes("Files");
  addEventListener("dragenter", (event) => { if (hasFiles(event)) isOver((depth += 1) > 0); }, { signal });
  addEventListener("dragleave", (event) => { if (hasFiles(event)) isOver((depth = Math.max(0, depth - 1)) > 0); }, { signal });
  addEventListener("dragover", (event) => { if (hasFiles(event)) event.preventDefault(); }, { signal });
  addEventListener("drop", async (event) => {
    if (!hasFiles(event)) return;
    event.preventDefault();
    isOver(Boolean((depth = 0)));
    send(await dropped(event.dataTransfer));
  }, { signal });
  signal.addEventListener("abort", () => isOver(false));
}
