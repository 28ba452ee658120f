// Short messages above everything, and the line that a screen reader says. One message at a time; it leaves by itself.

import { h } from "./dom.js";
import { icon } from "./icons.js";

const STAYS = 6000;
const corner = document.getElementById("toasts");
const said = document.getElementById("said");
let timer = 0;

/** While a dialog is open, nothing outside it can be pressed or is read out: both move into it, and back. */
const settle = () => (document.querySelector("dialog[open]") ?? document.body).append(corner, said);
document.addEventListener("close", settle, true);

/** Show a message, with a button if there is something to do about it: {label, act}. */
export function toast(message, action = null, kind = "") {
  clearTimeout(timer);
  settle();
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
    if (said.closest("dialog") !== document.querySelector("dialog[open]")) settle();
    said.textContent = waiting;
    next = Date.now() + 2000;
  }, wait);
}
