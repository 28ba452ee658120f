// What people must know of a model before they believe it: its health check's verdict, and files that cannot be used.

import { h } from "./dom.js";
import { sentence } from "./words.js";

/** Fill the banner above every view; it is hidden where there is nothing to say. */
export function showHealth(banner, model) {
  const lines = model ? warnings(model) : [["No model is loaded; the server's log says why."]];
  banner.hidden = !lines.length;
  banner.className = `banner ${model?.health?.verdict ?? ""}`;
  banner.replaceChildren(...lines.map((parts) => h("p", {}, parts)));
}

function warnings(model) {
  const found = [];
  const { health } = model;
  if (health && health.verdict !== "good") {
    const [first] = health.findings;
    const words = health.verdict === "useless" ? "This detector is useless by its health check" : "This detector is doubtful by its health check";
    found.push([h("strong", {}, words), `: ${first.reason}. ${sentence(first.advice)} `, h("a", { href: "#/models" }, "What was found")]);
  }
  if (model.problem) found.push([h("strong", {}, "A newer file is not used"), `: ${model.problem}`]);
  return found;
}
