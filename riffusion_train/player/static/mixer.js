// @ts-check
// The mixer: prompts and LoRAs with faders, and the knobs that are turned while it plays.
import { button, byId, input, make, notify, notifyError } from "./elements.js";
import { Midi } from "./midi.js";
/** @typedef {import("./player.js").Player} Player */
/** @typedef {import("./types.d.ts").Settings} Settings */

const PAUSE_MS = 60; // between two changes that are sent
const TYPING_MS = 300;
const STEP = { strength: 0.05, guidance_scale: 0.5 };

export class Mixer {
  /** @param {Player} player */
  constructor(player) {
    this.player = player;
    /** What is not sent yet. @type {Record<string, unknown>} */
    this.pending = {};
    this.sending = false;
    this.typing = 0;
    /** @type {HTMLInputElement[]} */
    this.faders = [];
    const { choices } = player;
    byId("mix-prompts").replaceChildren(...Array.from({ length: choices.limits.mix }, (_, index) => this.#prompt(index)));
    const { strength, guidance_scale: guidance } = choices.schema;
    byId("mix-knobs").replaceChildren(
      this.#row("knob-strength", make("span", {}, "Strength"), strength.slider ?? { minimum: 0, maximum: 1, step: 0.01 }, (value) => ({ strength: value })),
      this.#row("knob-guidance", make("span", {}, "Guidance"), guidance.slider ?? { minimum: 1, maximum: 15, step: 0.5 }, (value) => ({ guidance_scale: value })),
    );
    byId("mix-loras").replaceChildren(...choices.loras.map((lora, index) => this.#row(
      `lora-${index}`, make("span", {}, lora.name), { minimum: 0, maximum: 1.5, step: 0.05 }, () => ({ loras: this.#loras() }),
    )));
    byId("lora-group").hidden = !choices.loras.length;
    this.midi = new Midi(() => this.faders);
    this.midi.addEventListener("change", () => this.show());
    button("midi").addEventListener("click", () => this.#learn());
    player.addEventListener("change", () => this.show());
    this.show();
  }

  /** The text field of a further prompt. @param {number} index From 1. */
  #text(index) {
    return input(`mix-text-${index}`);
  }

  /** @param {number} index 0 is the prompt that plays. */
  #prompt(index) {
    const text = index === 0
      ? make("span", { id: "mix-text-0", class: "prompt" })
      : make("input", { type: "text", id: `mix-text-${index}`, "aria-label": `Prompt ${index + 1}`, placeholder: `Prompt ${index + 1}`, maxlength: this.player.choices.limits.prompt_chars, spellcheck: "false" });
    if (index > 0) {
      text.addEventListener("input", () => {
        clearTimeout(this.typing);
        this.typing = window.setTimeout(() => this.#sendMix(), TYPING_MS);
      });
      text.addEventListener("change", () => this.#sendMix());
    }
    const change = (/** @type {number} */ value) => (index === 0 ? { prompt_weight: value } : { mix: this.#mix() });
    return this.#row(`fader-${index}`, text, { minimum: 0, maximum: 1, step: 0.01 }, change);
  }

  /** A fader with what it belongs to. @param {string} id @param {HTMLElement} title @param {{ minimum: number, maximum: number, step: number }} range @param {(value: number) => Record<string, unknown>} change */
  #row(id, title, range, change) {
    const fader = make("input", { type: "range", id, min: range.minimum, max: range.maximum, step: range.step, value: range.minimum });
    if (title instanceof HTMLSpanElement) {
      title.id ||= `${id}-title`;
      fader.setAttribute("aria-labelledby", title.id);
    } else fader.setAttribute("aria-label", `How much of ${title.getAttribute("aria-label")}`);
    const learn = () => { if (this.midi.learning) this.midi.arm(id); };
    fader.addEventListener("pointerdown", learn);
    fader.addEventListener("focus", learn);
    fader.addEventListener("keydown", (event) => { if (event.key === "Delete" && this.midi.learning) this.midi.forget(id); });
    fader.addEventListener("input", () => { this.#label(fader); this.send(change(Number(fader.value))); });
    this.faders.push(fader);
    return make("div", { class: "strip" }, title, make("output", { id: `${id}-value`, for: id }), fader, make("small", { id: `${id}-midi` }));
  }

  /** The further prompts, in the order of their faders. */
  #mix() {
    const rows = this.faders.filter((fader) => /^fader-[1-9]/.test(fader.id)).map((fader, index) => ({ prompt: this.#text(index + 1).value.trim(), weight: Number(fader.value) }));
    while (rows.length && !rows[rows.length - 1].prompt) rows.pop();
    return rows.map((row) => (row.prompt ? row : { prompt: "", weight: 0 }));
  }

  #loras() {
    return this.player.choices.loras.map((lora, index) => ({ name: lora.name, scale: Number(input(`lora-${index}`).value) }));
  }

  #sendMix() {
    clearTimeout(this.typing);
    for (const [index, fader] of this.faders.slice(1, this.player.choices.limits.mix).entries()) {
      // A prompt that was just written is to be heard.
      if (this.#text(index + 1).value.trim() && Number(fader.value) === 0 && document.activeElement === this.#text(index + 1)) fader.value = "0.5";
    }
    if (JSON.stringify(this.#mix()) !== JSON.stringify(this.player.settings.mix)) this.send({ mix: this.#mix() });
  }

  /** Send changes; what comes while others are on their way is sent together. @param {Record<string, unknown>} changes */
  async send(changes) {
    Object.assign(this.pending, changes);
    if (this.sending) return;
    this.sending = true;
    while (Object.keys(this.pending).length) {
      const now = this.pending;
      this.pending = {};
      try {
        await this.player.steer(now);
      } catch (error) {
        notifyError(error);
      }
      await new Promise((resolve) => setTimeout(resolve, PAUSE_MS));
    }
    this.sending = false;
    this.show();
  }

  /** Turn a knob by a step. @param {"strength" | "guidance_scale"} name @param {number} sense 1 or -1. */
  turn(name, sense) {
    const fader = input(name === "strength" ? "knob-strength" : "knob-guidance");
    if (fader.disabled) return;
    fader.value = String(Number(fader.value) + sense * STEP[name]);
    fader.dispatchEvent(new Event("input"));
    notify(`${name === "strength" ? "Strength" : "Guidance"}: ${fader.value}`);
  }

  async #learn() {
    try {
      await this.midi.open();
    } catch (error) {
      notifyError(error);
      return;
    }
    this.midi.toggle();
  }

  show() {
    const { settings, owner, delayS } = this.player;
    byId("mix-text-0").textContent = settings.prompt || "–";
    const values = [settings.prompt_weight, settings.strength, settings.guidance_scale];
    [input("fader-0"), input("knob-strength"), input("knob-guidance")].forEach((fader, index) => this.#set(fader, values[index]));
    for (let index = 1; index < this.player.choices.limits.mix; index += 1) {
      const part = settings.mix[index - 1];
      if (document.activeElement !== this.#text(index) && !this.typing) this.#text(index).value = part?.prompt ?? this.#text(index).value;
      if (part) this.#set(input(`fader-${index}`), part.weight);
    }
    this.player.choices.loras.forEach((lora, index) => this.#set(input(`lora-${index}`), settings.loras.find((one) => one.name === lora.name)?.scale ?? lora.scale));
    for (const control of byId("mixer").querySelectorAll("input")) control.disabled = !owner;
    for (const fader of this.faders) {
      this.#label(fader);
      byId(`${fader.id}-midi`).textContent = this.midi.armed === fader.id ? "move a knob …" : this.midi.nameOf(fader.id);
    }
    byId("mixer").dataset.learning = String(this.midi.learning);
    button("midi").setAttribute("aria-pressed", String(this.midi.learning));
    const devices = this.midi.devices;
    byId("midi-text").textContent = this.midi.learning
      ? `Click a fader, then move a knob of ${devices[0] ?? "a controller, once one is connected"}. Delete removes it.`
      : devices.length ? devices.join(", ") : "";
    byId("delay").textContent = `Heard after ${delayS.toFixed(1)} s`;
  }

  /** Show a value, unless it is being changed. @param {HTMLInputElement} fader @param {number} value */
  #set(fader, value) {
    if (!this.sending) fader.value = String(value);
  }

  /** @param {HTMLInputElement} fader */
  #label(fader) {
    const text = Number(fader.max) > 2 ? Number(fader.value).toFixed(1) : `${Math.round(100 * Number(fader.value))} %`;
    byId(`${fader.id}-value`).textContent = text;
    fader.setAttribute("aria-valuetext", text);
  }
}
