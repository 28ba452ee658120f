// Single keys. Views lay a set of them on a stack; a dialog's set hides those below. People can switch them all off.

const OFF = "alocc.keys-off";
const stack = [];

/**
 * Lay a set of keys on the stack: {f: ["false alarm", work], …}; what comes back takes it away.
 * A set that is alone hides every set below it, as a dialog's does.
 */
export function listen(keys, { alone = false } = {}) {
  const layer = { keys, alone };
  stack.push(layer);
  return () => stack.splice(stack.indexOf(layer), 1);
}

export const areOff = () => localStorage.getItem(OFF) === "yes";
export const switchOff = (off) => localStorage.setItem(OFF, off ? "yes" : "no");

/** Every key that does something now, and what: [["F", "false alarm"], …]. */
export function inUse() {
  const found = new Map();
  for (const layer of [...stack].reverse()) {
    for (const [name, [what]] of Object.entries(layer.keys)) if (what && !found.has(name)) found.set(name, what);
    if (layer.alone) break;
  }
  return [...found].map(([name, what]) => [KEYCAPS[name] ?? name.toUpperCase(), what]);
}

const KEYCAPS = { arrowleft: "←", arrowright: "→", arrowup: "↑", arrowdown: "↓", " ": "Space", enter: "Enter", escape: "Esc" };
const TYPED = "input:not([type=checkbox]):not([type=radio]):not([type=range]), textarea, select, [contenteditable]";

function isTaken(event, name) {
  if (event.defaultPrevented || event.ctrlKey || event.metaKey || event.altKey) return true;
  if (event.target.closest?.(TYPED)) return true;
  const isMove = name.startsWith("arrow");
  if (isMove && event.target.closest?.("input, [role=grid], iframe")) return true;
  return (name === " " || name === "enter") && Boolean(event.target.closest?.("button, a, input, summary"));
}

document.addEventListener("keydown", (event) => {
  const name = event.key.toLowerCase();
  const isLetter = name.length === 1 && name !== " ";
  if (isTaken(event, name) || (isLetter && areOff())) return;
  for (const layer of [...stack].reverse()) {
    if (layer.keys[name]) {
      event.preventDefault();
      layer.keys[name][1](event);
      return;
    }
    if (layer.alone) return;
  }
});
