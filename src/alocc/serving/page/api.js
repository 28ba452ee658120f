// Requests to the server that this page comes from. Errors carry its one clear line; a 401 asks for the token, once.

import { askForToken } from "./login.js";

export class ApiError extends Error {
  constructor(status, message, retryAfter = 0) {
    super(message);
    this.status = status;
    this.retryAfter = retryAfter;
  }
}

/** "/v1/history" and {model: "a", text: ""} → "/v1/history?model=a": what is empty is left out. */
export function address(path, query = {}) {
  const given = Object.entries(query).filter(([, value]) => value !== null && value !== undefined && value !== "");
  return given.length ? `${path}?${new URLSearchParams(given)}` : path;
}

/** The address of a model's resource. */
export const ofModel = (name, what = "") => `/v1/models/${encodeURIComponent(name)}${what && `/${what}`}`;

async function failure(reply) {
  let message = `the server answered ${reply.status}`;
  try {
    message = (await reply.json()).error ?? message;
  } catch { /* not JSON: from something between us and the server */ }
  return new ApiError(reply.status, message, Number(reply.headers.get("Retry-After")) || 0);
}

async function answer(path, options) {
  let reply;
  try {
    reply = await fetch(path, { credentials: "same-origin", cache: "no-store", ...options });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ApiError(0, "the server does not answer");
  }
  if (reply.status === 401) {
    await askForToken();
    return answer(path, options);
  }
  if (!reply.ok) throw await failure(reply);
  return reply;
}

export async function get(path, query, options) {
  return (await answer(address(path, query), options)).json();
}

/** Send JSON, or a form where body is one. */
export async function send(method, path, body, options = {}) {
  const isForm = body instanceof FormData;
  const headers = body === undefined || isForm ? {} : { "Content-Type": "application/json" };
  const text = body === undefined || isForm ? body : JSON.stringify(body);
  const reply = await answer(path, { method, headers, body: text, ...options });
  return reply.status === 204 ? null : reply.json();
}

/** A picture of the server's, as an address that <img> takes. Release it with URL.revokeObjectURL. */
export async function picture(path, options) {
  const reply = await answer(path, { cache: "default", ...options });
  return URL.createObjectURL(await reply.blob());
}
