// One image of a list in a dialog, large, with everything that is known of it; arrows go on, marks work.

import { get } from "./api.js";
import { h } from "./dom.js";
import { icon } from "./icons.js";
import { listen } from "./keys.js";
import { markKeys } from "./marks.js";
import { Picture } from "./picture.js";
import { station } from "./station.js";
import { complain } from "./toasts.js";
import { count } from "./words.js";
import { verdictPanel } from "./verdict_panel.js";

/** Open row i of a list: list.at(i) gives a row or undefined, list.total how many there are; left(i) when it closes. */
export function openViewer(list, i, left = () => {}) {
  const picture = new Picture();
  const ending = new AbortController();
  const panel = h("div", { class: "panel" });
  const where = h("p", { class: "soft", "aria-live": "polite" });
  let at = i;
  let row = null;

  const draw = () => {
    where.textContent = `${count(at + 1)} of ${count(list.total)}`;
    panel.replaceChildren(...verdictPanel(row, { highlight: (one) => picture.highlight(one) }));
  };
  const go = async (to) => {
    const next = await list.at(to);
    if (!next) return;
    at = to;
    row = next;
    draw();
    picture.show(row);
    try {
      const { image: whole } = await get(`/v1/history/${next.id}`);
      if (row.id !== next.id) return;
      row = whole;
      draw();
    } catch (error) {
      complain(error);
    }
  };
  const tool = (words, name, act) => h("button", { type: "button", class: "plain", "aria-label": words, title: words, onclick: act }, icon(name));
  const dialog = h("dialog", { class: "viewer", "aria-label": "Image" },
    h("div", { class: "viewer-top" }, tool("Previous (←)", "before", () => go(at - 1)), tool("Next (→)", "after", () => go(at + 1)),
      where, h("span", { class: "grow" }), tool("Close (Esc)", "close", () => dialog.close())),
    h("div", { class: "viewer-body" }, h("div", { class: "viewer-picture" }, picture.element, picture.tools), panel));

  station.on("row", (fresh) => { if (row?.id === fresh.id) { row = { ...row, ...fresh }; draw(); } }, ending.signal);
  const quiet = listen({
    arrowleft: ["previous image", () => go(at - 1)], arrowright: ["next image", () => go(at + 1)],
    arrowup: ["", () => go(at - 1)], arrowdown: ["", () => go(at + 1)],
    ...markKeys(() => row), ...picture.keys,
  }, { alone: true });
  dialog.addEventListener("close", () => {
    quiet();
    ending.abort();
    picture.dispose();
    dialog.remove();
    left(at);
  });
  document.body.append(dialog);
  dialog.showModal();
  go(i);
}

/** Rows that are all there as a list for the viewer. */
export const listOf = (rows) => ({ total: rows.length, at: (i) => rows[i] });
