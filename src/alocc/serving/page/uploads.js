// Images on their way to the server: 32 a request, two requests at a time, one once it was busy; paused, cancelled.

import { address, send } from "./api.js";
import { results } from "./results.js";
import { asQuery, ownAlphas } from "./own_alpha.js";
import { station } from "./station.js";

const A_REQUEST = 32;
const BYTES = 24 * 1024 * 1024; // of a request; the server says 413 where its limit is lower
const AT_ONCE = 2;
const OF_THE_IMAGES = new Set([400, 413, 415, 422]); // what the server says of the images themselves

class Uploads extends EventTarget {
  waiting = [];
  n = 0;
  nDone = 0;
  tally = {};
  broken = [];
  unsent = []; // [{image, why}], until they are sent again or forgotten
  nOthers = 0; // files that are no images, chosen with these
  isPaused = false;
  busyUntil = 0;
  #running = 0;
  #atOnce = AT_ONCE;
  #stop = new AbortController();
  #began = 0;
  #worked = 0;

  get isActive() {
    return this.nDone < this.n;
  }

  /** Images a second, over the time that was not paused; 0 before the first answer. */
  get rate() {
    const seconds = (this.#worked + (this.#began ? performance.now() - this.#began : 0)) / 1000;
    return this.nDone && seconds > 0 ? this.nDone / seconds : 0;
  }

  get secondsLeft() {
    return this.rate ? (this.n - this.nDone) / this.rate : NaN;
  }

  /** Take images: [{file, path}], chosen together with some files that are no images. */
  add(images, nOthers = 0) {
    if (!images.length) return;
    if (!this.isActive) this.#reset();
    this.nOthers += nOthers;
    this.waiting.push(...images);
    this.n += images.length;
    if (!this.isPaused) this.#began ||= performance.now();
    this.#tell();
    this.#go();
  }

  pause(isPaused) {
    this.isPaused = isPaused;
    if (isPaused && this.#began) this.#worked += performance.now() - this.#began;
    this.#began = isPaused ? 0 : performance.now();
    this.#tell();
    this.#go();
  }

  /** Forget what has not been sent, and do not wait for what was. */
  cancel() {
    this.#stop.abort();
    this.#stop = new AbortController();
    this.waiting = [];
    this.n = this.nDone;
    this.isPaused = false;
    this.#tell();
  }

  /** Send those again that did not reach the server. */
  sendAgain() {
    this.add(this.unsent.splice(0).map(({ image }) => image));
  }

  /** Give up those that were not sent. */
  forget() {
    this.unsent = [];
    this.#tell();
  }

  #reset() {
    Object.assign(this, { n: 0, nDone: 0, tally: {}, broken: [], nOthers: 0, isPaused: false });
    this.#worked = this.#began = 0;
    this.#atOnce = AT_ONCE;
  }

  #go() {
    while (!this.isPaused && this.waiting.length && this.#running < this.#atOnce) this.#work(this.#next());
  }

  #next() {
    let bytes = 0;
    let n = 0;
    while (n < Math.min(A_REQUEST, this.waiting.length)) {
      bytes += this.waiting[n].file.size;
      if (n && bytes > BYTES) break;
      n += 1;
    }
    return this.waiting.splice(0, n);
  }

  async #work(images) {
    this.#running += 1;
    const { signal } = this.#stop;
    try {
      this.#took(await this.#score(images, signal), images);
    } catch (error) {
      if (!signal.aborted) this.#failed(error, images);
    }
    this.#running -= 1;
    this.#tell();
    this.#go();
  }

  /** One request; asked again after the time that a busy server names. */
  async #score(images, signal) {
    for (;;) {
      const form = new FormData();
      images.forEach(({ file, path }) => form.append("images", file, path));
      const query = { model: station.model?.name, source: "page", ...asQuery(ownAlphas(station.model)) };
      try {
        return await send("POST", address("/v1/score", query), form, { signal });
      } catch (error) {
        if (error.status !== 429) throw error;
        this.#atOnce = 1;
        await this.#wait(Math.max(0.5, error.retryAfter), signal);
      }
    }
  }

  async #wait(seconds, signal) {
    this.busyUntil = Date.now() + 1000 * seconds;
    this.#tell();
    await new Promise((resolve) => setTimeout(resolve, 1000 * seconds));
    if (signal.aborted) throw new DOMException("cancelled", "AbortError");
  }

  #took(reply, images) {
    this.nDone += images.length;
    for (const image of reply.images) {
      const kind = image.verdict ?? "broken";
      this.tally[kind] = (this.tally[kind] ?? 0) + 1;
      if (image.error) this.broken.push([image.name, image.error]);
    }
    if (!this.isActive) this.#finish();
    results.add(reply.images.filter((image) => image.id).map((image) => rowOf(image, reply)));
  }

  /** Too large together: each half alone. Anything else is said of these images, and the others go on. */
  #failed(error, images) {
    if (error.status === 413 && images.length > 1) {
      this.waiting.unshift(...images);
      const half = images.length >> 1;
      const [one, other] = [this.waiting.splice(0, half), this.waiting.splice(0, images.length - half)];
      this.#work(one);
      this.#work(other);
      return;
    }
    this.nDone += images.length;
    if (OF_THE_IMAGES.has(error.status)) {
      this.tally.broken = (this.tally.broken ?? 0) + images.length;
      this.broken.push(...images.map(({ path }) => [path, error.message]));
    } else {
      const why = error.status ? error.message : "the server does not answer";
      this.unsent.push(...images.map((image) => ({ image, why })));
    }
    if (!this.isActive) this.#finish();
  }

  /** Where nothing got through, what was shown before is not the result of these images. */
  #finish() {
    if (this.unsent.length && !Object.keys(this.tally).length) results.deselect();
    if (this.#began) this.#worked += performance.now() - this.#began;
    this.#began = 0;
    this.dispatchEvent(new Event("finished"));
  }

  #tell() {
    this.dispatchEvent(new Event("progress"));
  }
}

/** An image of a reply as a row of history. */
function rowOf(image, reply) {
  const { name, version, calibration } = reply.model;
  return { ...image, model: name, version, calibration, alpha: reply.alpha, review_alpha: reply.review_alpha, time: new Date().toISOString(), mark: null };
}

export const uploads = new Uploads();
