// @ts-check
// Web MIDI: a controller's knobs move the faders of the page; which one moves which is learned by a click and remembered.
import { preferences } from "./elements.js";

const CONTROL_CHANGE = 0xb0;
const PREFERENCE = "midi";

/** Events: "change" (what is shown of it). */
export class Midi extends EventTarget {
  /** @param {() => HTMLInputElement[]} faders The faders that can be moved. */
  constructor(faders) {
    super();
    this.faders = faders;
    /** Which fader a controller moves, by channel and number. @type {Record<string, string>} */
    this.map = preferences.read(PREFERENCE, {});
    /** @type {MIDIAccess | null} */
    this.access = null;
    this.learning = false;
    /** The fader that waits for a controller. */
    this.armed = "";
    if (Object.keys(this.map).length) this.#openIfAllowed();
  }

  /** The names of the controllers. */
  get devices() {
    return [...(this.access?.inputs.values() ?? [])].filter((one) => one.state !== "disconnected").map((one) => one.name ?? "MIDI");
  }

  /** Ask for the controllers; the browser may ask the listener. Throws errors with a message for the listener. */
  async open() {
    if (this.access) return;
    if (!navigator.requestMIDIAccess) throw new Error("This browser has no Web MIDI: use Chromium, Edge or Firefox");
    try {
      this.access = await navigator.requestMIDIAccess();
    } catch {
      throw new Error("The browser does not let this page use MIDI: allow it in the address bar");
    }
    this.access.onstatechange = () => this.#attach();
    this.#attach();
  }

  /** Begin or end to learn. */
  toggle() {
    [this.learning, this.armed] = [!this.learning, ""];
    this.#changed();
  }

  /** Let the next controller that moves be that of a fader. @param {string} id */
  arm(id) {
    this.armed = id;
    this.#changed();
  }

  /** Forget which controllers move a fader. @param {string} id */
  forget(id) {
    this.#remember(Object.fromEntries(Object.entries(this.map).filter(([, fader]) => fader !== id)));
  }

  /** What moves a fader, as text. @param {string} id */
  nameOf(id) {
    const key = Object.keys(this.map).find((one) => this.map[one] === id);
    return key === undefined ? "" : `CC ${key.split(":")[1]}`;
  }

  /** Without a question, where the listener has allowed it before. */
  async #openIfAllowed() {
    try {
      const { state } = await navigator.permissions.query({ name: /** @type {PermissionName} */ ("midi") });
      if (state === "granted") await this.open();
    } catch {
      // It is opened when the listener presses the button.
    }
  }

  #attach() {
    for (const input of this.access?.inputs.values() ?? []) input.onmidimessage = (event) => this.#take(event.data);
    this.#changed();
  }

  /** @param {Uint8Array | null} data */
  #take(data) {
    if (!data || data.length < 3 || (data[0] & 0xf0) !== CONTROL_CHANGE) return;
    const key = `${data[0] & 0x0f}:${data[1]}`;
    if (this.learning && this.armed) {
      const others = Object.entries(this.map).filter(([one, fader]) => one !== key && fader !== this.armed);
      const fader = this.armed;
      this.armed = "";
      this.#remember({ ...Object.fromEntries(others), [key]: fader });
    }
    const fader = this.faders().find((one) => one.id === this.map[key]);
    if (!fader || fader.disabled) return;
    const [least, most] = [Number(fader.min), Number(fader.max)];
    const value = String(least + (data[2] / 127) * (most - least));
    if (fader.value === value) return;
    fader.value = value; // the browser rounds to its step
    fader.dispatchEvent(new Event("input", { bubbles: true }));
  }

  /** @param {Record<string, string>} map */
  #remember(map) {
    this.map = map;
    preferences.write(PREFERENCE, map);
    this.#changed();
  }

  #changed() {
    this.dispatchEvent(new Event("change"));
  }
}
