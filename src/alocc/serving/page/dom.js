// Elements from plain calls. What is not an element becomes a text node: no name from the server can be markup.

const PROPERTIES = new Set(["checked", "disabled", "hidden", "value", "open", "indeterminate", "multiple"]);

function fill(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes ?? {})) {
    if (value === null || value === undefined) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (PROPERTIES.has(name)) element[name] = value;
    else if (value !== false) element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.flat(2).filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

/** An HTML element: h("p", {class: "soft", onclick: f}, "text", child, …). */
export const h = (tag, attributes, ...children) => fill(document.createElement(tag), attributes, children);

/** The same in SVG. */
export const svg = (tag, attributes, ...children) =>
  fill(document.createElementNS("http://www.w3.org/2000/svg", tag), attributes, children);

/** Set style properties: {left: "3px", "--y": .5}. The content-security policy forbids style attributes, not this. */
export function place(element, styles) {
  for (const [name, value] of Object.entries(styles)) element.style.setProperty(name, value);
  return element;
}

/** A name that no other element of the page has. */
let last = 0;
export const freshId = (stem) => `${stem}-${(last += 1)}`;

/** Call a function at most once a frame, with what it was last called with. */
export function onceAFrame(work) {
  let waiting = null;
  return (...values) => {
    if (waiting === null) requestAnimationFrame(() => { const now = waiting; waiting = null; work(...now); });
    waiting = values;
  };
}

/** Call a function once nobody has called it for a while. */
export function whenQuiet(work, milliseconds = 200) {
  let timer = 0;
  return (...values) => {
    clearTimeout(timer);
    timer = setTimeout(() => work(...values), milliseconds);
  };
}
