// Short messages at the lower edge, and the line that a screen reader says. One message at a time; it leaves by itself.

import { h } from "./dom.js";
import { icon } from "./icons.js";

const STAYS = 6000;
let timer = 0;

/** Show a message, with a button if there is something to do about it: {label, act}. */
export function toast(message, action = null, kind = "") {
  const corner = document.getElementById("toasts");
  clearTimeout(timer);
  const close = () => { clearTimeout(timer); corner.replaceChildren(); };
  const button = action && h("button", { type: "button", onclick: () => { close(); action.act(); } }, action.label);
  const shut = h("button", { type: "button", class: "plain", "aria-label": "Close message", onclick: close }, icon("close"));
  corner.replaceChildren(h("div", { class: `toast ${kind}` }, h("span", {}, message), button, shut));
  const wait = () => { timer = setTimeout(() => (corner.matches(":hover, :focus-within") ? wait() : close()), STAYS); };
  wait();
}

/** Say what went wrong. */
export const complain = (error) => toast(`${capital(error.message ?? String(error))}`, null, "bad");

const capital = (text) => text.charAt(0).toUpperCase() + text.slice(1);

/** Let a screen reader say a line, politely; at most one in two seconds, the last one. */
let waiting = null;
let next = 0;
export function say(line) {
  waiting = line;
  const wait = Math.max(0, next - Date.now());
  clearTimeout(say.timer);
  say.timer = setTimeout(() => {
    document.getElementById("said").textContent = waiting;
    next = Date.now() + 2000;
  }, wait);
}
