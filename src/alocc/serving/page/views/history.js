// History: every image that was scored, searched and filtered, however many there are.

import { address } from "../api.js";
import { h, whenQuiet } from "../dom.js";
import { icon, verdictBadge } from "../icons.js";
import { listen } from "../keys.js";
import { markKeys } from "../marks.js";
import { Pages } from "../pages.js";
import { results } from "../results.js";
import { station } from "../station.js";
import { Table } from "../table.js";
import { complain } from "../toasts.js";
import { openViewer } from "../viewer.js";
import { chance, counted, markWord, score, when } from "../words.js";

const PERIODS = [["", "any time"], ["1", "last hour"], ["24", "last 24 hours"], ["168", "last 7 days"], ["720", "last 30 days"], ["own", "between …"]];
const VERDICTS = [["", "any verdict"], ["anomalous", "anomalous"], ["can't tell", "can't tell"], ["normal", "normal"], ["unusable", "not usable"]];
const MARKS = [["", "any mark"], ["unmarked", "no mark"], ["false alarm", "false alarm, good"], ["missed", "missed"], ["confirmed", "confirmed, defective"]];
const COLUMNS = [
  { name: "Time", kind: "c-time", cell: (row) => h("time", { datetime: row.time }, when(row.time)) },
  { name: "Name", kind: "c-name", cell: (row) => h("span", { title: row.name }, row.name) },
  { name: "Verdict", kind: "c-verdict", cell: (row) => verdictBadge(row.verdict) },
  { name: "Score", kind: "c-score", cell: (row) => score(row.anomaly_score) },
  { name: "p-value", kind: "c-p", cell: (row) => chance(row.p_value) },
  { name: "Mark", kind: "c-mark", cell: (row) => (row.mark ? markWord(row.mark, row.verdict) : "") },
  { name: "Model", kind: "c-model", cell: (row) => row.model },
  { name: "From", kind: "c-source", cell: (row) => row.source },
];

export function show(main, signal) {
  const found = h("p", { class: "found soft", role: "status" });
  const download = h("a", { class: "button", download: "history.csv" }, icon("download"), "Download CSV");
  const fresh = h("button", { type: "button", class: "fresh", hidden: true, onclick: () => load() });
  const list = { get total() { return pages.total; }, at: async (i) => { await pages.want(i); return pages.rows[i]; } };
  const table = new Table(COLUMNS, {
    label: "Images, the newest first", rowHeight: () => (matchMedia("(max-width: 45rem)").matches ? 68 : 40),
    open: (i) => pages.rows[i] && openViewer(list, i, (at) => { table.select(at); table.element.focus(); }),
  });
  const form = filters(() => load());
  let pages = new Pages({});

  const tell = () => {
    form.knowModels(pages.rows);
    found.textContent = pages.total ? counted(pages.total, "image") : "No image passes these filters.";
    table.element.classList.toggle("empty", !pages.total);
  };
  const load = async () => {
    const filter = form.filter();
    download.href = address("/v1/history.csv", filter);
    pages = new Pages(filter);
    fresh.hidden = true;
    pages.addEventListener("loaded", tell);
    try {
      await table.show(pages);
      tell();
    } catch (error) {
      complain(error);
    }
  };
  main.append(h("div", { class: "history" }, form.element,
    h("div", { class: "history-top" }, found, fresh, h("span", { class: "grow" }), download),
    h("div", { class: "card table-card" }, table.element)));
  station.on("row", (row) => { if (pages.replace(row)) table.refresh(); }, signal);
  results.addEventListener("rows", () => {
    const newest = results.rows.at(-1);
    if (!newest || pages.rows.some((row) => row.id === newest.id) || newest.id === tell.seen) return;
    tell.seen = newest.id;
    fresh.hidden = false;
    fresh.textContent = "New results: show";
  }, { signal });
  const quiet = listen({ "/": ["search", () => form.search.focus()], ...markKeys(() => table.selectedRow) });
  signal.addEventListener("abort", quiet);
  load().then(() => table.element.focus({ preventScroll: true }));
}

/** Search and filters. {element, search, filter(), knowModels(rows)}; changed() is called when another list is wanted. */
function filters(changed) {
  const soon = whenQuiet(changed);
  const select = (label, options) => {
    const element = h("select", { "aria-label": label, onchange: changed }, options.map(([value, words]) => h("option", { value }, words)));
    return element;
  };
  const search = h("input", { type: "search", placeholder: "Search names", "aria-label": "Search names", spellcheck: "false", oninput: soon });
  const model = select("Model", [["", "any model"], ...station.models.map(({ name }) => [name, name])]);
  const verdict = select("Verdict", VERDICTS);
  const mark = select("Mark", MARKS);
  const period = select("Time", PERIODS);
  const moment = (label) => h("input", { type: "datetime-local", "aria-label": label, onchange: changed });
  const [since, until] = [moment("From"), moment("To")];
  const between = h("span", { class: "between", hidden: true }, since, "to", until);
  period.addEventListener("change", () => { between.hidden = period.value !== "own"; });
  const utc = (field) => (field.value ? new Date(field.value).toISOString() : "");
  const filter = () => {
    const hours = Number(period.value);
    const start = period.value === "own" ? utc(since) : hours ? new Date(Date.now() - 3600000 * hours).toISOString() : "";
    const end = period.value === "own" ? utc(until) : "";
    return { text: search.value.trim(), model: model.value, verdict: verdict.value, mark: mark.value, since: start, until: end };
  };
  /** Models that are not loaded any more are in the history too. */
  const knowModels = (rows) => {
    const known = new Set([...model.options].map(({ value }) => value));
    const others = new Set(rows.map((row) => row.model).filter((name) => !known.has(name)));
    model.append(...[...others].map((name) => h("option", { value: name }, name)));
  };
  const element = h("form", { class: "filters", role: "search", onsubmit: (event) => event.preventDefault() },
    search, model, verdict, mark, period, between);
  return { element, search, filter, knowModels };
}

