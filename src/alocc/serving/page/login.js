// The token, asked for when the server answers 401. It is sent once and becomes a cookie that no script can read.

import { h } from "./dom.js";

let asking = null;

/** Ask until the server takes a token. However many requests wait for it, people are asked once. */
export function askForToken() {
  asking ??= ask().finally(() => { asking = null; });
  return asking;
}

function ask() {
  const field = h("input", {
    type: "password", id: "token", name: "token", autocomplete: "current-password", required: true,
    "aria-describedby": "token-error", spellcheck: "false",
  });
  const error = h("p", { id: "token-error", class: "problem", role: "alert" });
  const button = h("button", { class: "primary", type: "submit" }, "Sign in");
  const nobody = h("input", { type: "text", name: "username", autocomplete: "username", value: "station", hidden: true }); // for password managers
  const form = h("form", { method: "dialog" }, nobody,
    h("h2", { id: "login-title" }, "Sign in"),
    h("p", { class: "soft" }, "This station is protected. Enter the token that it was started with."),
    h("label", { for: "token" }, "Token"), field, error, h("div", { class: "actions" }, button));
  const dialog = h("dialog", { class: "login", "aria-labelledby": "login-title" }, form);
  dialog.addEventListener("cancel", (event) => event.preventDefault());
  document.body.append(dialog);
  dialog.showModal();
  return new Promise((resolve) => {
    form.addEventListener("submit", async (event) => {
      event.preventDefault();
      button.disabled = true;
      error.textContent = await refusal(field.value);
      button.disabled = false;
      if (error.textContent) return field.select();
      dialog.close();
      dialog.remove();
      resolve();
    });
  });
}

async function refusal(token) {
  const body = JSON.stringify({ token });
  try {
    const headers = { "Content-Type": "application/json" };
    const reply = await fetch("/v1/session", { method: "POST", headers, body, credentials: "same-origin" });
    if (reply.ok) return "";
    if (reply.status === 401 || reply.status === 403) return "That is not this station's token.";
    return (await reply.json()).error ?? "The server did not take it.";
  } catch {
    return "The server does not answer.";
  }
}
