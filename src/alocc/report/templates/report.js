"use strict";
// Nothing is scored here. The detector's rule, p_value <= alpha, is asked again at another alpha, and at another review alpha.
const root = document.documentElement, byId = (id) => document.getElementById(id);
const read = (id) => byId(id) && JSON.parse(byId(id).textContent);
const data = read("data");
root.classList.add("live");

// ── light or dark
const isDark = () => (root.dataset.theme || (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light")) === "dark";
function showTheme() { byId("theme").textContent = isDark() ? "Light" : "Dark"; byId("theme").setAttribute("aria-label", `Show in ${isDark() ? "light" : "dark"} colours`); }
byId("theme").addEventListener("click", () => { root.dataset.theme = isDark() ? "light" : "dark"; showTheme(); });
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", showTheme);
showTheme();

if (data) report(data);

function report(data) {
  const table = data.table, n = data.held_out.length, total = table.path.length;
  const hasReview = data.review_alpha !== undefined; // a third verdict
  const state = { alpha: data.alpha, review: hasReview ? data.review_alpha : 0, sort: "anomaly_score", descending: true, page: 0 };
  const pValue = (k) => (1 + k) / (n + 1); // the very division that the detector makes
  const reviewAlpha = () => Math.max(state.alpha, state.review); // below alpha, nothing is for a person
  const isAnomaly = (row) => pValue(table.k[row]) <= state.alpha;
  const cannotTell = (row) => !isAnomaly(row) && pValue(table.k[row]) <= reviewAlpha();
  const whole = (value) => value.toLocaleString("en");
  const short = (value) => value === 0 ? "0" : String(Number(value.toPrecision(3)));

  // ── alpha
  function threshold(alpha) {
    let k = 0;
    while (k <= n && pValue(k) <= alpha) k++;
    return k === 0 ? Infinity : k <= n ? data.held_out[n - k] : -Infinity;
  }
  function counts() { // of each group: how many images, how many of them are called anomalies, and how many are for a person
    return data.groups.map((group) => group.k.reduce((sum, k, i) => {
      const count = group.counts[i], called = pValue(k) <= state.alpha, review = !called && pValue(k) <= reviewAlpha();
      return { n: sum.n + count, called: sum.called + (called ? count : 0), review: sum.review + (review ? count : 0) };
    }, { n: 0, called: 0, review: 0 }));
  }
  function figures([normal, anomalous]) {
    const called = normal.called + anomalous.called;
    return { accuracy: (normal.n - normal.called + anomalous.called) / (normal.n + anomalous.n),
      precision: called ? anomalous.called / called : 0, recall: anomalous.called / anomalous.n,
      f1: 2 * anomalous.called / (called + anomalous.n) };
  }
  function showCounts() {
    const groups = counts();
    groups.forEach(({ n, called, review }, i) => {
      byId(`normal-${i}`).textContent = whole(n - called - review);
      if (hasReview) byId(`review-${i}`).textContent = whole(review);
      byId(`anomaly-${i}`).textContent = whole(called);
      byId(`share-${i}`).textContent = `${(100 * called / n).toFixed(2)} %`;
    });
    if (groups.length === 2) for (const [name, value] of Object.entries(figures(groups))) byId(`live-${name}`).textContent = value.toFixed(4);
    return groups.reduce((sum, group) => sum + group.called, 0);
  }
  function place(name, score) { // a line in the histogram: where it is, in per cent
    const { low, high } = byId("cut").dataset, left = Math.min(100, Math.max(0, 100 * (score - low) / (high - low))), line = byId(name);
    line.style.left = `${left}%`;
    line.classList.toggle("right", left > 65);
    return left;
  }
  function showReview(groups, at) { // beside the threshold, which is at so many per cent
    const cut = threshold(reviewAlpha()), told = groups.map(({ n, review }, i) => `${whole(review)} of ${whole(n)}${groups.length === 2 ? [" normal", " anomalous"][i] : ""}`);
    place("review-cut", cut);
    byId("review-cut").style.right = `${100 - at}%`;
    byId("review-value").textContent = cut.toFixed(3);
    byId("threshold-section").dataset.review = state.review;
    byId("review-slider").setAttribute("aria-valuetext", short(state.review));
    byId("review-reset").disabled = state.review === data.review_alpha;
    return state.review > state.alpha ? ` Up to alpha ${short(state.review)} it can't tell: ${told.join(" and ")} images are for a person.` : " The review alpha is not above alpha: nothing is for a person.";
  }
  function showAlpha() {
    const cut = threshold(state.alpha), left = place("cut", cut), called = showCounts(), shown = cut.toFixed(3);
    byId("threshold-section").dataset.alpha = state.alpha;
    byId("cut-value").textContent = shown;
    const groups = counts(), of = (i) => `${whole(groups[i].called)} of ${whole(groups[i].n)}`;
    const told = groups.length === 2 ? `${of(0)} normal and ${of(1)} anomalous images are called anomalies` : `${whole(called)} ${called === 1 ? "image is called an anomaly" : "images are called anomalies"}`;
    byId("alpha-said").textContent = `At alpha ${short(state.alpha)} the threshold is ${shown}: ${told}.${hasReview ? showReview(groups, left) : ""}`;
    byId("alpha-slider").setAttribute("aria-valuetext", short(state.alpha));
    byId("alpha-reset").disabled = state.alpha === data.alpha;
  }
  function control(name, own, alphas) { // slider, number and button of alpha or of the review alpha
    const slider = byId(`${name}-slider`), number = byId(`${name}-number`);
    function set(value, typed) {
      state[name] = value;
      const steps = alphas.findIndex((step) => step >= value);
      slider.value = steps < 0 ? alphas.length - 1 : steps;
      if (!typed) number.value = Number(value.toPrecision(4));
      showAlpha();
      showRows();
    }
    slider.addEventListener("input", () => set(alphas[slider.value]));
    number.addEventListener("change", () => { // no smaller than the held-out images support, and below 1
      const asked = Number(number.value), usable = number.value !== "" && asked >= alphas[0] && asked < 1;
      if (usable) set(asked, true); else set(asked >= 1 ? alphas.at(-1) : number.value === "" ? state[name] : alphas[0]);
    });
    byId(`${name}-reset`).addEventListener("click", () => { set(own); slider.focus(); });
    return set;
  }
  const setAlpha = control("alpha", data.alpha, data.alphas);

  // ── the table: which images, in which order
  const lower = table.path.map((path) => (table.folder + path).toLowerCase());
  const isMistake = (row) => table.is_anomalous && !cannotTell(row) && isAnomaly(row) !== Boolean(table.is_anomalous[row]);
  const kinds = { anomaly: isAnomaly, "cant-tell": cannotTell, normal: (row) => !isAnomaly(row) && !cannotTell(row), "false-alarm": (row) => isMistake(row) && isAnomaly(row),
    missed: (row) => isMistake(row) && !isAnomaly(row) };
  const keys = { path: (row) => table.path[row], class: (row) => table.class_names[table.class[row]], anomaly_score: (row) => table.anomaly_score[row],
    p_value: (row) => table.k[row], verdict: (row) => 2 * isAnomaly(row) + cannotTell(row) };
  const words = new Intl.Collator("en", { numeric: true });
  function found() {
    const text = byId("filter-text").value.trim().toLowerCase(), kind = kinds[byId("filter-verdict").value], wanted = byId("filter-class")?.value ?? "";
    const rows = [];
    for (let row = 0; row < total; row++)
      if ((!text || lower[row].includes(text)) && (!kind || kind(row)) && (wanted === "" || table.class[row] === Number(wanted))) rows.push(row);
    const key = keys[state.sort], sign = state.descending ? -1 : 1;
    const compare = state.sort === "path" || state.sort === "class" ? words.compare : (a, b) => a - b;
    return rows.sort((a, b) => sign * compare(key(a), key(b)) || a - b);
  }

  // ── the table: rows on the page
  const sheets = table.pictures.sheets.map((text) => URL.createObjectURL(new Blob([Uint8Array.from(atob(text), (c) => c.charCodeAt(0))], { type: "image/webp" })));
  function make(name, text, className) {
    const element = document.createElement(name);
    if (text !== undefined) element.textContent = text;
    if (className) element.className = className;
    return element;
  }
  function pictures(row) {
    const cell = make("td"), { width, height, per_sheet, columns } = table.pictures, place = table.picture[row];
    if (place < 0) { cell.append(make("span", "no picture kept", "soft small")); return cell; }
    const three = make("div", undefined, "three"), at = place % per_sheet;
    for (const [i, alt] of ["input", "reconstruction", "anomaly map"].entries()) {
      const image = make("img");
      Object.assign(image, { src: sheets[Math.floor(place / per_sheet)], width, height, alt });
      image.style.objectPosition = `${-width * (3 * (at % columns) + i)}px ${-height * Math.floor(at / columns)}px`;
      three.append(image);
    }
    cell.append(opens(three, table.view[row], table.path[row]));
    return cell;
  }

  // ── enlarged views
  const views = data.views, view = byId("view");
  function opens(three, place, name) { // pictures that there is more of are a button
    if (place < 0) return three;
    const button = make("button", undefined, "three");
    button.type = "button";
    button.setAttribute("aria-label", `Enlarge ${name}`);
    button.append(...three.childNodes);
    button.addEventListener("click", () => enlarge(place));
    return button;
  }
  function flip(what) { // the map's layer, or the boxes
    const hidden = byId("view-stage").classList.toggle(`no-${what}`);
    byId(`view-${what}-switch`).setAttribute("aria-pressed", !hidden);
  }
  function box([x, y, width, height], i, [rows, columns]) {
    const element = make("div", undefined, i ? "box" : "box strongest"), share = (part, all) => `${100 * part / all}%`;
    Object.assign(element.style, { left: share(x, columns), top: share(y, rows), width: share(width, columns), height: share(height, rows) });
    element.append(make("span", i + 1));
    return element;
  }
  function full(wanted) { // every pixel that the file has
    byId("view-frame").classList.toggle("full", wanted);
    byId("view-stage").style.width = `${wanted ? Math.max(views.width, byId("view-image").naturalWidth) : views.width}px`;
    byId("view-full-switch").setAttribute("aria-pressed", wanted);
  }
  function enlarge(place) {
    const { name, said, image, map, size, regions, n_regions } = views.items[place], stage = byId("view-stage"), address = "data:image/webp;base64,";
    byId("view-name").textContent = name;
    byId("view-said").textContent = said;
    full(false);
    stage.style.aspectRatio = `${views.width} / ${views.height}`;
    byId("view-image").src = address + image;
    byId("view-image").classList.toggle("pixelated", views.grows);
    byId("view-map").src = address + map;
    for (const old of stage.querySelectorAll(".box")) old.remove();
    stage.append(...regions.map((region, i) => box(region, i, size)));
    byId("view-regions").replaceChildren(...regions.map((region) => make("li", region[4])));
    byId("view-count").textContent = !n_regions ? "Not called an anomaly: nothing is marked or coloured." : n_regions > regions.length ? `${whole(n_regions)} regions, of which these have the highest peaks:` : n_regions > 1 ? `${n_regions} regions:` : "One region:";
    view.showModal();
  }
  for (const three of document.querySelectorAll("[data-view]")) three.replaceWith(opens(three, Number(three.dataset.view), three.dataset.name));
  for (const what of ["map", "boxes"]) byId(`view-${what}-switch`).addEventListener("click", () => flip(what));
  byId("view-full-switch").addEventListener("click", () => full(!byId("view-frame").classList.contains("full")));
  byId("view-close").addEventListener("click", () => view.close());
  view.addEventListener("click", (event) => { if (event.target === view) view.close(); }); // beside it
  view.addEventListener("keydown", (event) => {
    const what = { m: "map", b: "boxes" }[event.key.toLowerCase()];
    if (event.key.toLowerCase() === "f" && !event.ctrlKey && !event.metaKey && !event.altKey) byId("view-full-switch").click();
    if (what && !event.ctrlKey && !event.metaKey && !event.altKey) flip(what);
  });

  function verdict(row) {
    const called = isAnomaly(row), [said, look] = called ? ["anomaly", "is-anomaly"] : cannotTell(row) ? ["can't tell", "is-review"] : ["normal", "is-normal"];
    const cell = make("td", said, look);
    if (isMistake(row)) cell.append(make("span", called ? "false alarm" : "missed", "mark"));
    return cell;
  }
  function number(name, text) {
    const cell = make("td", text, "number");
    cell.dataset.name = name; // shown beside it where the screen is too narrow for columns
    return cell;
  }
  function line(row) {
    const tr = make("tr");
    tr.append(pictures(row), make("td", table.path[row], "path"));
    if (byId("filter-class")) tr.append(number("class", keys.class(row)));
    tr.append(number("score", table.anomaly_score[row].toFixed(3)), number("p", short(pValue(table.k[row]))), verdict(row));
    tr.setAttribute("role", "row"); // named, since narrow screens lay rows out in another way
    for (const cell of tr.cells) cell.setAttribute("role", "cell");
    return tr;
  }
  function showRows() {
    const rows = found(), size = Number(byId("page-size").value), last = Math.max(0, Math.ceil(rows.length / size) - 1);
    state.page = Math.min(state.page, last);
    const from = state.page * size, to = Math.min(from + size, rows.length);
    byId("rows").replaceChildren(...rows.slice(from, to).map(line));
    byId("found").textContent = rows.length ? `${whole(rows.length)} of ${whole(total)} images; ${whole(from + 1)} to ${whole(to)} shown` : "No image passes these filters";
    byId("page").textContent = `page ${whole(state.page + 1)} of ${whole(last + 1)}`;
    for (const [id, edge] of [["first", 0], ["previous", 0], ["next", last], ["last", last]]) byId(id).disabled = state.page === edge;
    for (const th of document.querySelectorAll("th[data-sort]"))
      if (th.dataset.sort === state.sort) th.setAttribute("aria-sort", state.descending ? "descending" : "ascending"); else th.removeAttribute("aria-sort");
  }
  function turn(page) { state.page = page; showRows(); }
  for (const id of ["filter-text", "filter-verdict", "filter-class", "page-size"]) byId(id)?.addEventListener("input", () => turn(0));
  for (const th of document.querySelectorAll("th[data-sort]")) th.querySelector("button").addEventListener("click", () => {
    const again = state.sort === th.dataset.sort;
    state.descending = again ? !state.descending : ["anomaly_score", "verdict"].includes(th.dataset.sort);
    state.sort = th.dataset.sort;
    turn(0);
  });
  byId("first").addEventListener("click", () => turn(0));
  byId("previous").addEventListener("click", () => turn(state.page - 1));
  byId("next").addEventListener("click", () => turn(state.page + 1));
  byId("last").addEventListener("click", () => turn(Infinity));
  byId("filters").addEventListener("submit", (event) => event.preventDefault());

  if (hasReview) control("review", data.review_alpha, data.review_alphas)(data.review_alpha);
  setAlpha(data.alpha);
}
