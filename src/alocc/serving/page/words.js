// Numbers, times and verdicts as people read them.

const COUNT = new Intl.NumberFormat("en");
const CLOCK = new Intl.DateTimeFormat("en-GB", { hour: "2-digit", minute: "2-digit", second: "2-digit" });
const DAY = new Intl.DateTimeFormat("en-GB", { day: "numeric", month: "short" });
const LONG = new Intl.DateTimeFormat("en-GB", { dateStyle: "medium", timeStyle: "medium" });

export const count = (n) => COUNT.format(n);

/** "1 image", "1,200 images". */
export const counted = (n, noun) => `${count(n)} ${noun}${n === 1 ? "" : "s"}`;

/** An anomaly score: three figures after the point, one where it is large. */
export function score(value) {
  if (value === null || value === undefined) return "–";
  return value.toFixed(Math.abs(value) < 100 ? 3 : 1).replace("-", "−");
}

/** A probability that may be small. */
export function chance(p) {
  if (p === null || p === undefined) return "–";
  return p >= 0.0995 ? p.toFixed(2) : p >= 0.00995 ? p.toFixed(3) : p >= 0.0001 ? p.toFixed(4) : p.toExponential(1);
}

/** As short as it can be told: alpha 0.01, not 0.0100. */
export const alphaValue = (alpha) => String(Number(alpha.toPrecision(3)));

/** 0.8095 → "81 %"; small ones get figures. */
export function percent(share) {
  const p = 100 * share;
  return `${p >= 9.95 ? p.toFixed(0) : Number(p.toPrecision(2))} %`;
}

/** The clock for today, the day before it otherwise. */
export function when(time) {
  const date = new Date(time);
  const isToday = date >= new Date().setHours(0, 0, 0, 0);
  return isToday ? CLOCK.format(date) : `${DAY.format(date)}, ${CLOCK.format(date)}`;
}
export const whenInFull = (time) => LONG.format(new Date(time));

/** Seconds that are left: "40 s", "3 min", "2 h 5 min". */
export function duration(seconds) {
  if (!Number.isFinite(seconds)) return "";
  if (seconds < 90) return `${Math.max(1, Math.round(seconds))} s`;
  const minutes = Math.round(seconds / 60);
  return minutes < 90 ? `${minutes} min` : `${Math.floor(minutes / 60)} h ${minutes % 60} min`;
}

/** A clause as a sentence. */
export const sentence = (text) => `${text.charAt(0).toUpperCase()}${text.slice(1)}${/[.!?]$/.test(text) ? "" : "."}`;

/** The word of a row's verdict, capital first; a row without one could not be used. */
export const verdictWord = (verdict) =>
  ({ normal: "Normal", "can't tell": "Can't tell", anomalous: "Anomalous" })[verdict] ?? "Not usable";

/** The class of a verdict, for its colour. */
export const verdictClass = (verdict) =>
  ({ normal: "is-normal", "can't tell": "is-unsure", anomalous: "is-anomalous" })[verdict] ?? "is-broken";

/** What a mark says of an image with this verdict, in a few words. */
export function markWord(mark, verdict) {
  if (verdict === "can't tell") return { "false alarm": "Good", confirmed: "Defective", missed: "Defective" }[mark] ?? "";
  return { "false alarm": "False alarm", confirmed: "Confirmed", missed: "Missed" }[mark] ?? "";
}

/**
 * What a p-value says. The server's is (1 + k) / (n + 1), where k of n held-out normal images score at least as high;
 * where n is not known any more, the share is told.
 */
export function meaning(p, n) {
  const k = n ? p * (n + 1) - 1 : NaN;
  const rounded = Math.round(k);
  if (!(Math.abs(k - rounded) < 1e-3)) return `About ${percent(p)} of normal images score this high.`;
  if (rounded === 0) return `None of the ${count(n)} normal images that set the alarm line scored this high.`;
  const verb = rounded === 1 ? "scores" : "score";
  return `${count(rounded)} of the ${count(n)} normal images that set the alarm line ${verb} this high or higher.`;
}
