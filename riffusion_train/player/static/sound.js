// @ts-check
// Audio output: an AudioContext at the model's sample rate, the worklet that plays pieces, and which sample is heard.
/** @typedef {import("./page.d.ts").Report} Report */
/** @typedef {import("./page.d.ts").WorkletMessage} WorkletMessage */

const SNAP_S = 0.2;
const SLEEP_MS = 1500;

export class Sound extends EventTarget {
  /** @param {number} rateHz @param {number} channels */
  constructor(rateHz, channels) {
    super();
    this.rateHz = rateHz;
    this.channels = channels;
    /** @type {AudioContext | null} */
    this.context = null;
    /** @type {AudioWorkletNode | null} */
    this.node = null;
    /** @type {GainNode | null} */
    this.gain = null;
    /** @type {Report | null} */
    this.report = null;
    this.epoch = 0;
    this.on = false;
    this.volume = 0.8;
    this.muted = false;
    /** @type {{ position: number, at: number } | null} */
    this.smooth = null;
    this.sleep = 0;
    this.changeMs = 0; // when the last change was heard
  }

  /** Open the output; must be called from a click or a key. Throws errors with a message for the listener. */
  async open() {
    if (this.context) return;
    if (!window.isSecureContext) {
      throw new Error("Browsers play live sound only from https or from this machine: open the page as localhost, for example through ssh -L");
    }
    if (navigator.audioSession) navigator.audioSession.type = "playback"; // an iPhone's silent switch would mute it
    try {
      const context = new AudioContext({ sampleRate: this.rateHz, latencyHint: "balanced" });
      await context.audioWorklet.addModule("/static/worklet.js");
      const node = new AudioWorkletNode(context, "riffusion-player", {
        numberOfInputs: 0, numberOfOutputs: 1, outputChannelCount: [this.channels],
      });
      const gain = new GainNode(context, { gain: 0 });
      node.connect(gain).connect(context.destination);
      node.port.onmessage = (event) => this.#heard(event.data);
      context.onstatechange = () => this.#contextChanged();
      [this.context, this.node, this.gain] = [context, node, gain];
      this.#applyVolume();
    } catch (error) {
      throw new Error(`This browser gives no sound output (${error instanceof Error ? error.message : error}): connect a loudspeaker or headphones and press play again`);
    }
  }

  /** Start or resume. Resolves to whether the browser allows sound; if it does not, a click is needed. */
  async play() {
    if (!this.context) return false;
    this.on = true;
    clearTimeout(this.sleep);
    this.#post({ type: "run", on: true });
    if (this.context.state === "running") return true;
    const waiting = new Promise((resolve) => setTimeout(resolve, 700));
    await Promise.race([this.context.resume().catch(() => {}), waiting]);
    return /** @type {string} */ (this.context.state) === "running";
  }

  pause() {
    this.on = false;
    this.#post({ type: "run", on: false });
    clearTimeout(this.sleep);
    this.sleep = window.setTimeout(() => { if (!this.on) this.context?.suspend().catch(() => {}); }, SLEEP_MS);
  }

  /** Drop what was pushed; the next piece begins elsewhere. */
  seek() {
    this.epoch += 1;
    this.smooth = null;
    this.#post({ type: "seek", epoch: this.epoch });
  }

  /** @param {number} start Its first sample in the session. @param {Int16Array} pcm Interleaved. @param {boolean} fade Whether it does not follow the piece before. */
  push(start, pcm, fade) {
    const channels = this.#split(pcm);
    this.#post({ type: "push", epoch: this.epoch, start, channels, fade }, channels.map((samples) => samples.buffer));
  }

  /** Play other samples instead of everything from one on. @param {number} start @param {Int16Array} pcm Interleaved. */
  splice(start, pcm) {
    const channels = this.#split(pcm);
    this.#post({ type: "splice", epoch: this.epoch, start, channels, fade: false }, channels.map((samples) => samples.buffer));
  }

  /** @param {Int16Array} pcm Interleaved. @returns {Float32Array<ArrayBuffer>[]} */
  #split(pcm) {
    const count = pcm.length / this.channels;
    const channels = Array.from({ length: this.channels }, () => new Float32Array(count));
    channels.forEach((samples, channel) => {
      for (let index = 0; index < count; index += 1) samples[index] = pcm[index * this.channels + channel] / 32768;
    });
    return channels;
  }

  /** @param {number} volume @param {boolean} muted */
  setVolume(volume, muted) {
    [this.volume, this.muted] = [Math.min(1, Math.max(0, volume)), muted];
    this.#applyVolume();
  }

  /** The sample that is heard now, with the latency of the output subtracted; null before there is any. @returns {number | null} */
  heard() {
    const { report, context } = this;
    if (!report || !context || report.epoch !== this.epoch || report.played === 0) return this.smooth?.position ?? null;
    const now = performance.now() / 1000;
    const ahead = report.moving && context.state === "running" ? Math.min(context.currentTime - report.time, report.buffered / this.rateHz) : 0;
    const measured = report.position + (ahead - (context.outputLatency || context.baseLatency || 0)) * this.rateHz;
    if (!this.smooth) this.smooth = { position: measured, at: now };
    // The context's time advances in steps of a quantum or more; the wall clock is smooth in between.
    const guess = this.smooth.position + (report.moving && context.state === "running" ? (now - this.smooth.at) * this.rateHz : 0);
    const error = measured - guess;
    const position = Math.abs(error) > SNAP_S * this.rateHz ? measured : guess + 0.08 * error;
    this.smooth = { position, at: now };
    return Math.max(0, position);
  }

  get blocked() {
    return this.on && this.context !== null && this.context.state !== "running";
  }

  /** The page's time, in milliseconds, at which a moment of the context comes out of the loudspeaker. @param {number} time */
  #outputMs(time) {
    const context = /** @type {AudioContext} */ (this.context);
    const stamp = context.getOutputTimestamp?.();
    if (stamp?.contextTime && stamp.performanceTime) return stamp.performanceTime + 1000 * (time - stamp.contextTime);
    return performance.now() + 1000 * (time - context.currentTime + (context.outputLatency || context.baseLatency || 0));
  }

  /** @param {Report} report */
  #heard(report) {
    if (report.changes > (this.report?.changes ?? 0)) this.changeMs = this.#outputMs(report.changeTime);
    this.report = report;
    this.dispatchEvent(new CustomEvent("report", { detail: report }));
  }

  #contextChanged() {
    // A machine that slept, or a call on a phone, interrupts the output: resume it as soon as the browser allows.
    if (this.on && this.context && this.context.state !== "running" && this.context.state !== "closed") this.context.resume().catch(() => {});
    this.dispatchEvent(new Event("state"));
  }

  #applyVolume() {
    if (!this.gain || !this.context) return;
    // Loudness is perceived logarithmically; the square is close enough.
    this.gain.gain.setTargetAtTime(this.muted ? 0 : this.volume ** 2, this.context.currentTime, 0.015);
  }

  /** @param {WorkletMessage} message @param {Transferable[]} [transfer] */
  #post(message, transfer = []) {
    this.node?.port.postMessage(message, transfer);
  }
}
