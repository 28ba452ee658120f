// How many images wait for a person, beside the name of their view.

import { get } from "./api.js";
import { h, whenQuiet } from "./dom.js";
import { results } from "./results.js";
import { station } from "./station.js";
import { count } from "./words.js";

/** Keep the figure on a link of the navigation up to date. */
export function watchReviews(link) {
  const figure = h("span", { class: "badge-count", hidden: true });
  link.append(figure);
  const load = whenQuiet(async () => {
    try {
      const { total } = await get("/v1/history", { verdict: "can't tell", mark: "unmarked", limit: 1 });
      figure.hidden = !total;
      figure.textContent = total > 999 ? "999+" : count(total);
    } catch { /* the next one may go better */ }
  }, 500);
  station.addEventListener("row", load);
  results.addEventListener("rows", load);
  load();
}
