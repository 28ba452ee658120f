// What other alphas would make of the last images: counts of all of them, and which of the newest would change.

import { get, ofModel } from "./api.js";
import { alphasOf, asQuery } from "./own_alpha.js";

const LISTED = 1000; // the newest images, among which changes are listed one by one

/**
 * {n, before, after: counts by verdict, threshold: [before, after], changes: [{row, before, after}], nListed}.
 * asked: {alpha, review, last}.
 */
export async function effectOf(model, asked, options) {
  const own = alphasOf(model);
  const path = ofModel(model.name, "alpha");
  const [counts, before, after, history] = await Promise.all([
    get(path, { ...asQuery(asked), last: asked.last }, options),
    linesAt(path, own, options),
    linesAt(path, asked, options),
    get("/v1/history", { model: model.name, version: model.version, limit: Math.min(LISTED, asked.last) }, options),
  ]);
  const rows = history.rows.filter(({ verdict }) => verdict);
  const changes = rows
    .map((row) => ({ row, before: verdictAt(row, before), after: verdictAt(row, after) }))
    .filter((one) => one.before !== one.after);
  return { n: counts.n_images, before: counts.before, after: counts.after, lines: [before, after], changes, nListed: rows.length };
}

/** The scores above which an image is anomalous, and above which it is not normal. */
async function linesAt(path, { alpha, review }, options) {
  const line = async (at) => (await get(path, { ...asQuery({ alpha: at, review: null }), last: 1 }, options)).threshold_after;
  const alarm = await line(alpha);
  return { alarm, review: review === null ? alarm : await line(review) };
}

function verdictAt({ anomaly_score: score }, { alarm, review }) {
  if (score > alarm) return "anomalous";
  return score > review ? "can't tell" : "normal";
}

/** The score from which a model's images are for a person; null without a third verdict. */
export async function reviewLine(model) {
  const { review } = alphasOf(model);
  return review === null ? null : (await linesAt(ofModel(model.name, "alpha"), { alpha: review, review: null })).alarm;
}
