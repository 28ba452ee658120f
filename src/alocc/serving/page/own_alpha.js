// The two alphas of a model, and those with which this browser has images scored where people chose others.
// A review alpha at alpha itself is the same as none: then there is no third verdict.

const KEY = "alocc.alphas";

const read = () => JSON.parse(localStorage.getItem(KEY) ?? "{}");

/** {alpha, review}; review is null without a third verdict. */
export function alphasOf({ alpha, review_alpha: review }) {
  return { alpha, review: review !== null && review > alpha ? review : null };
}

/** The same of this browser for a model; null where it uses the model's own. */
export function ownAlphas(model) {
  const own = model && read()[model.name];
  if (!own) return null;
  const alpha = Math.max(own.alpha, model.smallest_alpha);
  return { alpha, review: own.review === null ? null : Math.max(own.review, alpha) };
}

/** Keep them, or go back to the model's own by null. */
export function keepAlphas(model, alphas) {
  const all = read();
  if (alphas) all[model.name] = alphas;
  else delete all[model.name];
  localStorage.setItem(KEY, JSON.stringify(all));
}

/** As the server takes them: null is "the model's own" there. */
export const asQuery = (alphas) => (alphas ? { alpha: alphas.alpha, review_alpha: alphas.review ?? alphas.alpha } : {});
