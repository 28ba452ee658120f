// The page starts here: models, the view that the address names, the frame around it.

import { get, send } from "./api.js";
import { h } from "./dom.js";
import { showHealth } from "./health_banner.js";
import { icon } from "./icons.js";
import { areOff, inUse, listen, switchOff } from "./keys.js";
import { results } from "./results.js";
import { watchReviews } from "./review_count.js";
import { station } from "./station.js";
import { complain } from "./toasts.js";
import * as drift from "./views/drift.js";
import * as history from "./views/history.js";
import * as inspect from "./views/inspect.js";
import * as models from "./views/models.js";
import * as review from "./views/review.js";
import * as threshold from "./views/threshold.js";

const VIEWS = [
  ["inspect", "Inspect", inspect], ["history", "History", history], ["threshold", "Threshold", threshold],
  ["review", "To review", review], ["drift", "Drift", drift], ["models", "Models", models],
];
const REFRESH = 15000; // models may be replaced on the server, or recalibrated by somebody else

let leave = new AbortController();

/** Show the view that the address names; a view works until its signal ends. */
function route(event) {
  const asked = location.hash.replace(/^#\//, "").split("/")[0];
  const [name, title, view] = VIEWS.find(([one]) => one === asked) ?? VIEWS[0];
  leave.abort();
  leave = new AbortController();
  document.title = `${title} · alocc`;
  document.body.dataset.view = name;
  for (const link of document.querySelectorAll("#views a")) {
    if (link.dataset.name === name) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  const main = document.getElementById("view");
  main.replaceChildren(h("h1", { class: name === "inspect" ? "unseen" : "" }, title));
  view.show(main, leave.signal);
  window.scrollTo(0, 0);
  if (event) main.focus({ preventScroll: true });
}

function frame() {
  const items = VIEWS.map(([name, title], i) =>
    h("li", {}, h("a", { href: `#/${name}`, "data-name": name, title: `${title} (${i + 1})` }, icon(name), h("span", {}, title))));
  document.getElementById("views").replaceChildren(...items);
  document.getElementById("skip").addEventListener("click", () => document.getElementById("view").focus());
  document.getElementById("model").addEventListener("change", ({ target }) => station.choose(target.value));
  const button = document.getElementById("keys");
  button.append(icon("keys"), h("span", {}, "Keys"));
  button.addEventListener("click", showKeys);
  const keys = VIEWS.map(([name, title], i) => [String(i + 1), [title, () => { location.hash = `#/${name}`; }]]);
  listen({ ...Object.fromEntries(keys), "?": ["this list", showKeys] });
}

function showModels() {
  const select = document.getElementById("model");
  const names = station.models.map(({ name }) => name);
  if (names.join("\n") !== [...select.options].map(({ value }) => value).join("\n")) {
    select.replaceChildren(...names.map((name) => h("option", { value: name }, name)));
  }
  select.value = station.model?.name ?? "";
  showHealth(document.getElementById("banner"), station.model);
}

function showLive() {
  const words = results.isLive ? "Live" : "Not connected";
  document.getElementById("live").replaceChildren(h("span", { class: results.isLive ? "light on" : "light", "aria-hidden": "true" }), h("span", {}, words));
}

function showKeys() {
  if (document.querySelector("dialog[open]")) return;
  const rows = inUse().map(([name, what]) => h("div", {}, h("dt", {}, h("kbd", {}, name)), h("dd", {}, what)));
  const box = h("input", { type: "checkbox", checked: !areOff(), onchange: () => switchOff(!box.checked) });
  const dialog = h("dialog", { class: "keys-list", "aria-labelledby": "keys-title", onclose: () => { quiet(); dialog.remove(); } },
    h("h2", { id: "keys-title" }, "Keys"), h("dl", {}, rows), h("label", { class: "check" }, box, "Single letters and figures are keys"),
    h("form", { method: "dialog", class: "actions" }, h("button", {}, "Close")));
  const quiet = listen({ "?": ["", () => dialog.close()] }, { alone: true });
  document.body.append(dialog);
  dialog.showModal();
}

/** A way out, where a token let people in. */
async function showSignOut() {
  const { needed } = await get("/v1/session");
  if (!needed) return;
  const leave = async () => { await send("DELETE", "/v1/session"); location.reload(); };
  document.querySelector(".nav").append(h("button", { type: "button", class: "plain", onclick: leave }, icon("out"), h("span", {}, "Sign out")));
}

async function begin() {
  frame();
  showLive();
  station.addEventListener("models", showModels);
  results.addEventListener("live", showLive);
  try {
    await station.refresh();
    await showSignOut();
  } catch (error) {
    complain(error);
  }
  results.start();
  watchReviews(document.querySelector("#views [data-name=review]"));
  route();
  addEventListener("hashchange", route);
  setInterval(() => { if (!document.hidden) station.refresh().catch(() => {}); }, REFRESH);
}

begin();
