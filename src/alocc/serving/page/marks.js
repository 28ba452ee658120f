// What a person says of a verdict: a false alarm, missed, confirmed. One key each, kept on the server, undone by U.

import { send } from "./api.js";
import { h } from "./dom.js";
import { icon, key } from "./icons.js";
import { station } from "./station.js";
import { complain, say, toast } from "./toasts.js";
import { markWord } from "./words.js";

/** Which marks an image with this verdict takes, by key, in the words that stand on the buttons. */
const TAKEN = {
  anomalous: { f: ["false alarm", "False alarm"], c: ["confirmed", "Confirmed"] },
  "can't tell": { f: ["false alarm", "Good"], c: ["confirmed", "Defective"] },
  normal: { m: ["missed", "Missed"] },
};
const WRONG = {
  f: "F says that an image was called without reason; this one was not called",
  c: "C confirms that an image is defective; this one was not called. M marks it as missed",
  m: "M marks a defective image that was not called; this one was. C confirms it",
};

/** Events of marks that were set in this page and not taken back, the last one last. */
const mine = [];

/** Give a row a mark, or take it away by the mark that it has. Gives the new row, or null where it was not taken. */
export async function mark(row, what) {
  const wanted = row.mark === what ? null : what;
  try {
    const { event, ...fresh } = await send("PUT", `/v1/history/${row.id}/mark`, { mark: wanted });
    mine.push(event);
    station.changed(fresh);
    const line = wanted ? `${row.name}: ${markWord(wanted, row.verdict).toLowerCase()}` : `${row.name}: no mark`;
    toast(line, { label: "Undo", act: () => undo(event) });
    say(line);
    return fresh;
  } catch (error) {
    complain(error);
    return null;
  }
}

/** Take back a mark by its event: the last one of this page, or if there is none, the last of all. */
export async function undo(event = mine.at(-1) ?? null) {
  const place = mine.indexOf(event);
  try {
    const { image: row } = await send("POST", "/v1/marks/undo", { event });
    if (!row) return toast("There is no mark to take back");
    station.changed(row);
    const now = row.mark ? markWord(row.mark, row.verdict).toLowerCase() : "no mark";
    toast(`Taken back. ${row.name}: ${now}`);
    return say(`Taken back. ${row.name}: ${now}`);
  } catch (error) {
    return complain(error);
  } finally {
    if (place >= 0) mine.splice(place, 1); // one that the server refuses was changed or taken back by somebody else
  }
}

/** Keys for marks: present() gives the row that they are of, or null; then(row) is called with the new one. */
export function markKeys(present, then = () => {}) {
  const press = (letter) => async () => {
    const row = present();
    if (!row) return;
    const taken = TAKEN[row.verdict]?.[letter];
    if (!taken) return toast(row.verdict ? WRONG[letter] : "This image could not be used: there is no verdict to mark");
    const fresh = await mark(row, taken[0]);
    if (fresh) then(fresh);
  };
  return {
    f: ["false alarm, or good", press("f")],
    m: ["missed", press("m")],
    c: ["confirmed, or defective", press("c")],
    u: ["take the last mark back", () => undo()],
  };
}

/** Buttons of the marks that a row takes. */
export function markButtons(row, then = () => {}) {
  const taken = Object.entries(TAKEN[row.verdict] ?? {});
  const buttons = taken.map(([letter, [what, words]]) => {
    const press = async () => {
      const fresh = await mark(row, what);
      if (fresh) then(fresh);
    };
    return h("button", { type: "button", class: "mark", "aria-pressed": String(row.mark === what), onclick: press },
      words, key(letter.toUpperCase()));
  });
  const back = h("button", { type: "button", class: "plain", onclick: () => undo() }, icon("undo"), "Take the last mark back", key("U"));
  return h("div", { class: "marks", role: "group", "aria-label": "Your mark" }, buttons, back);
}
