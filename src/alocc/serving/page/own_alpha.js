// The alpha with which this browser has images scored, where people chose another one than the model's own.

const KEY = "alocc.alphas";

const read = () => JSON.parse(localStorage.getItem(KEY) ?? "{}");

/** {alpha, review_alpha} for this model; {} for its own. */
export const ownAlphas = (model) => read()[model] ?? {};

/** Keep them, or go back to the model's own by null. */
export function keepAlphas(model, alphas) {
  const all = read();
  if (alphas) all[model] = alphas;
  else delete all[model];
  localStorage.setItem(KEY, JSON.stringify(all));
}
