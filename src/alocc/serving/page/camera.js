// The camera: a small live picture, captured by a key or every few seconds. Frames go the way of every other image.

import { h } from "./dom.js";
import { icon, key } from "./icons.js";
import { uploads } from "./uploads.js";

const MOST_WAITING = 4; // captures that are on their way; more are not taken meanwhile
const MOST_UNSENT = 100; // captures that a server did not take, kept to be sent again

const stamp = () => new Date().toISOString().replace("T", " ").replace(/[:.]/g, "-").slice(0, 23);

/** The camera as a card. {element, start(), stop(), capture(), isOn}; changed() is called when it goes on or off. */
export class Camera {
  #stream = null;
  #timer = 0;

  constructor(changed) {
    this.changed = changed;
    this.video = h("video", { muted: true, playsinline: true, autoplay: true, "aria-label": "Live picture of the camera" });
    this.video.muted = true;
    this.devices = h("select", { "aria-label": "Which camera", onchange: () => this.start(this.devices.value) });
    this.problem = h("p", { class: "problem", role: "alert" });
    this.seconds = h("input", { type: "number", min: "0.2", max: "3600", step: "0.1", value: "2", "aria-label": "Seconds between two captures", onchange: () => this.#repeat() });
    this.every = h("input", { type: "checkbox", onchange: () => this.#repeat() });
    this.element = h("section", { class: "card camera", "aria-label": "Camera", hidden: true },
      this.video, this.problem,
      h("div", { class: "camera-row" },
        h("button", { type: "button", class: "primary", onclick: () => this.capture() }, "Capture", key("Space")),
        h("label", { class: "check" }, this.every, "every"), this.seconds, h("span", { class: "soft" }, "s"),
        h("button", { type: "button", class: "plain", "aria-label": "Camera off", title: "Camera off", onclick: () => this.stop() }, icon("close"))),
      this.devices);
  }

  get isOn() {
    return !this.element.hidden;
  }

  async start(device) {
    this.#end();
    this.element.hidden = false;
    this.problem.textContent = "";
    this.changed();
    try {
      if (!navigator.mediaDevices) throw new Error("a browser gives the camera only to https and to this machine's own address");
      const size = { width: { ideal: 1920 }, height: { ideal: 1080 } };
      this.#stream = await navigator.mediaDevices.getUserMedia({ video: { ...size, ...(device && { deviceId: { exact: device } }) } });
      this.video.srcObject = this.#stream;
      await this.#listDevices(device);
    } catch (error) {
      this.problem.textContent = `No camera: ${error.message}`;
    }
  }

  stop() {
    this.#end();
    this.every.checked = false;
    this.#repeat();
    this.element.hidden = true;
    this.changed();
  }

  /** Send the present frame, unless enough of them are on their way. */
  async capture() {
    const { videoWidth: width, videoHeight: height } = this.video;
    const isFull = uploads.unsent.length >= MOST_UNSENT;
    this.problem.textContent = isFull ? "Pictures wait to be sent again: no more are taken until then" : "";
    if (isFull) return;
    if (!width || uploads.waiting.length >= MOST_WAITING) return;
    const canvas = h("canvas", { width, height });
    canvas.getContext("2d").drawImage(this.video, 0, 0);
    const blob = await new Promise((resolve) => canvas.toBlob(resolve, "image/png"));
    const path = `camera ${stamp()}.png`;
    uploads.add([{ file: new File([blob], path, { type: "image/png" }), path }]);
  }

  async #listDevices(chosen) {
    const all = (await navigator.mediaDevices.enumerateDevices()).filter(({ kind }) => kind === "videoinput");
    const present = chosen ?? this.#stream.getVideoTracks()[0].getSettings().deviceId;
    this.devices.replaceChildren(...all.map(({ deviceId, label }, i) => h("option", { value: deviceId }, label || `Camera ${i + 1}`)));
    this.devices.value = present;
    this.devices.hidden = all.length < 2;
  }

  #repeat() {
    clearInterval(this.#timer);
    const seconds = Math.max(0.2, Number(this.seconds.value) || 2);
    if (this.every.checked) this.#timer = setInterval(() => this.capture(), 1000 * seconds);
  }

  #end() {
    this.#stream?.getTracks().forEach((track) => track.stop());
    this.#stream = null;
  }
}
