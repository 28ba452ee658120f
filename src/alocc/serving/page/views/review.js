// To review: images that the detector cannot tell, one after another, for a person's word.

import { h } from "../dom.js";
import { verdictShape } from "../icons.js";
import { listen } from "../keys.js";
import { markKeys } from "../marks.js";
import { Pages } from "../pages.js";
import { Picture } from "../picture.js";
import { station } from "../station.js";
import { complain } from "../toasts.js";
import { verdictPanel } from "../verdict_panel.js";
import { counted, markWord, score } from "../words.js";

const LISTED = 200;

export function show(main, signal) {
  const picture = new Picture();
  const panel = h("section", { class: "card panel", "aria-label": "Verdict" });
  const list = h("ol", { class: "review-list" });
  const left = h("p", { class: "soft", role: "status" });
  const stage = h("section", { class: "card stage-card", "aria-label": "Image" }, picture.element, h("div", { class: "under" }, picture.tools));
  const body = h("div", { class: "review" }, h("section", { class: "card list-card", "aria-label": "Images to review" }, left, list), stage, panel);
  const empty = h("section", { class: "card nothing", hidden: true }, h("h2", {}, "Nothing to review"),
    h("p", { class: "soft" }, "Images come here when the detector cannot tell: with a p-value between alpha and a second alpha that you set in ",
      h("a", { href: "#/threshold" }, "Threshold"), "."));
  const pages = new Pages({ verdict: "can't tell", mark: "unmarked" });
  let at = 0;
  let shown = null;
  const present = () => pages.rows[at] ?? null;

  const draw = () => {
    const row = present();
    body.hidden = !row;
    empty.hidden = Boolean(row);
    if (!row) return;
    const open = pages.rows.filter(({ mark }) => !mark).length + pages.total - pages.rows.length;
    left.textContent = open ? `${counted(open, "image")} to review` : "All reviewed";
    list.replaceChildren(...pages.rows.slice(0, LISTED).map((one, i) => item(one, i === at, () => go(i))));
    panel.replaceChildren(...verdictPanel(row, { highlight: (i) => picture.highlight(i), marked: next }));
    if (shown !== row.id) { shown = row.id; picture.show(row); }
  };
  const go = (to) => {
    if (to < 0 || to >= Math.min(LISTED, pages.rows.length)) return;
    at = to;
    draw();
    list.children[at].scrollIntoView({ block: "nearest" });
  };
  /** After a mark: on to the next image without one, below, else above. */
  const next = (row) => {
    if (!row.mark) return;
    const isOpen = (one) => !one.mark;
    const below = pages.rows.findIndex((one, i) => i > at && isOpen(one));
    const to = below >= 0 ? below : pages.rows.findIndex(isOpen);
    if (to >= 0) go(to);
  };
  const quiet = listen({
    arrowleft: ["image before", () => go(at - 1)], arrowright: ["next image", () => go(at + 1)],
    arrowup: ["", () => go(at - 1)], arrowdown: ["", () => go(at + 1)],
    ...markKeys(present, next), ...picture.keys,
  });
  station.on("row", (row) => { if (pages.replace(row)) { const i = pages.rows.findIndex(({ id }) => id === row.id); if (!row.mark) at = i; draw(); } }, signal);
  signal.addEventListener("abort", () => { quiet(); picture.dispose(); });
  main.append(body, empty);
  pages.want(LISTED - 1).then(draw, complain);
}

function item(row, isPresent, open) {
  const mark = row.mark ? h("span", { class: "done" }, markWord(row.mark, row.verdict)) : null;
  return h("li", {}, h("button", { type: "button", "aria-current": isPresent ? "true" : null, onclick: open },
    verdictShape(row.verdict), h("span", { class: "name", title: row.name }, row.name), mark ?? h("span", { class: "figures" }, score(row.anomaly_score))));
}
