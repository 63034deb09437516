// @ts-check
// The page: what its controls do, and what it shows of the player.
import { readChoices, readLink } from "./api.js";
import { MAPS } from "./colours.js";
import { button, byId, clock, copy, dialog, input, make, notify, notifyError, preferences, select, setIcon } from "./elements.js";
import { makeKeys } from "./keys.js";
import { Mixer } from "./mixer.js";
import { Player } from "./player.js";
import { Prompts } from "./prompts.js";
import { makeBuilder, makeSharing, save, saveLast, SettingsSheet } from "./sheets.js";
import { Spectrogram } from "./spectrogram.js";
/** @typedef {import("./colours.js").ScaleName} ScaleName */
/** @typedef {import("./page.d.ts").Segment} Segment */
/** @typedef {import("./page.d.ts").Choices} Choices */

const JUMP_S = 5;
const SHOW_MS = 250;
const STILL_S = 0.0005;
const MAX_RECORDING_S = 295; // the server keeps five minutes
const reducedMotion = matchMedia("(prefers-reduced-motion: reduce)");
const darkScheme = matchMedia("(prefers-color-scheme: dark)");

/** @param {string} id @param {string} text */
function setText(id, text) {
  if (byId(id).textContent !== text) byId(id).textContent = text;
}

class Page {
  /** @param {Choices} choices */
  constructor(choices) {
    this.player = new Player(choices);
    this.spectrogram = new Spectrogram(/** @type {HTMLCanvasElement} */ (byId("spectrogram")), choices, reducedMotion);
    this.link = readLink(location.hash);
    this.recordFrom = -1; // the sample; -1 while not recording
    this.recordedSession = "";
    if (this.link.broken) notify("This link is incomplete: it restores nothing");
    if (!this.link.share && !this.link.listen) this.player.restoreSession();
    if (typeof this.link.share?.prompt === "string") this.player.steer({ prompt: this.link.share.prompt });
    byId("model").textContent = choices.model;
    const ask = (/** @type {string} */ prompt, later = false) => this.ask(prompt, later);
    this.prompts = new Prompts(this.player, ask);
    this.mixer = new Mixer(this.player);
    this.showMixer(preferences.read("mixer", false));
    this.settings = new SettingsSheet(this.player, () => this.updateLook());
    this.openBuilder = makeBuilder(this.player, (prompt) => this.ask(prompt, true));
    makeSharing(this.player);
    this.#listenToPlayer();
    this.#listenToControls();
    this.#listenToBrowser();
    this.#makeKeys();
    this.setVolume(preferences.read("volume", 0.8), false);
    this.updateLook();
    this.#showAll();
    setInterval(() => this.#showAll(), SHOW_MS);
    this.drawn = NaN;
    requestAnimationFrame(() => this.#frame());
    document.body.dataset.ready = "true";
  }

  // What the listener does.

  async play() {
    const { player, link } = this;
    try {
      if (player.stream || !link.listen) await (player.connection === "gone" ? player.restart() : player.play(link.share ?? undefined, link.offsetS));
      else await player.listen(link.listen);
      if (location.hash) history.replaceState(null, "", location.pathname);
    } catch (error) {
      player.pause();
      notifyError(error);
    }
    this.show();
  }

  toggle() {
    if (this.player.sound.on && this.player.state !== "blocked") this.player.pause();
    else this.play();
  }

  /** Play a prompt. @param {string} prompt @param {boolean} later Whether it waits for what plays. */
  async ask(prompt, later) {
    const { player } = this;
    try {
      if (!player.stream) {
        this.link = { ...this.link, share: null, offsetS: 0, listen: null };
        await player.steer({ prompt });
        await this.play();
      } else {
        await player.steer(later ? { prompt } : { now: prompt });
        notify(`${later ? "Next" : "Now"}: ${prompt}`);
        if (!player.sound.on) await this.play();
      }
    } catch (error) {
      input("prompt").value = prompt;
      notifyError(error);
    }
  }

  /** @param {number} volume @param {boolean} muted */
  setVolume(volume, muted) {
    const { sound } = this.player;
    sound.setVolume(volume, muted);
    preferences.write("volume", sound.volume);
    input("volume").value = String(sound.volume);
    setIcon(button("mute"), muted || sound.volume === 0 ? "mute" : "sound", muted ? "Sound on" : "Mute");
  }

  toggleMute() {
    this.setVolume(this.player.sound.volume, !this.player.sound.muted);
  }

  toggleRecording() {
    const { player } = this;
    if (this.recordFrom >= 0) {
      const from = this.recordFrom;
      this.recordFrom = -1;
      if (this.recordedSession === player.id) save(player, "wav", from, Math.round(player.heard));
      else notify("The recording ended with its session");
    } else if (!player.sound.report?.played) notify("There is nothing to record yet");
    else {
      [this.recordFrom, this.recordedSession] = [Math.round(player.heard), player.id];
      notify("Recording what you hear");
    }
    this.show();
  }

  toggleFullScreen() {
    const on = document.body.classList.toggle("is-full");
    if (on) document.documentElement.requestFullscreen?.().catch(() => {});
    else if (document.fullscreenElement) document.exitFullscreen().catch(() => {});
    this.show();
    requestAnimationFrame(() => this.spectrogram.resize());
  }

  /** @param {number} seconds Forward; negative is back. */
  jump(seconds) {
    this.player.seek(this.player.heard + seconds * this.player.rateHz);
  }

  /** Choose the next colours or frequency scale. @param {"map" | "scale"} id */
  nextOption(id) {
    const list = select(id);
    list.selectedIndex = (list.selectedIndex + 1) % list.options.length;
    list.dispatchEvent(new Event("change"));
    notify(`${id === "map" ? "Colours" : "Frequencies"}: ${list.options[list.selectedIndex].text}`);
  }

  /** Leave full screen, or else the focused field. */
  escape() {
    if (document.body.classList.contains("is-full")) this.toggleFullScreen();
    else if (document.activeElement instanceof HTMLElement) document.activeElement.blur();
  }

  /** @param {boolean} on Whether the mixer is shown instead of the prompts. */
  showMixer(on) {
    byId("mixer").hidden = !on;
    byId("queue").hidden = on;
    button("show-mixer").setAttribute("aria-pressed", String(on));
    button("show-prompts").setAttribute("aria-pressed", String(!on));
    preferences.write("mixer", on);
  }

  /** Show the mixer and go to a prompt's fader. @param {number} index */
  focusFader(index) {
    this.showMixer(true);
    input(`fader-${index}`).focus();
  }

  updateLook() {
    const { spectrogram } = this;
    const chosen = select("map").value;
    const map = chosen === "auto" ? (darkScheme.matches ? "ember" : "dawn") : chosen;
    spectrogram.setLook(map, /** @type {ScaleName} */ (select("scale").value));
    byId("stage").dataset.ground = spectrogram.dark ? "dark" : "light";
    byId("stage").style.setProperty("--ground", MAPS[spectrogram.map].stops[0]);
    byId("ticks").replaceChildren(...spectrogram.ticks.map((tick) => {
      const line = make("li", {}, tick.text);
      line.style.bottom = `${100 * tick.height}%`;
      return line;
    }));
  }

  // What the page shows.

  #showAll() {
    this.prompts.show();
    this.show();
  }

  show() {
    const { player, link } = this;
    const { state, sound } = player;
    const on = sound.on && state !== "blocked";
    setIcon(button("toggle"), on ? "pause" : "play", on ? "Pause" : "Play");
    button("start").hidden = on || (state === "paused" && player.timeline.segments.length > 0 && player.connection !== "gone");
    byId("start-text").textContent = link.listen && !player.stream ? "Press play to listen along" : "Press play";
    document.body.dataset.state = state;
    setText("banner", this.#banner());
    byId("caption").textContent = byId("now-prompt").textContent;
    button("full").setAttribute("aria-pressed", String(document.body.classList.contains("is-full")));
    this.#showRecording();
    this.#showPosition(on);
    if (!byId("figures").hidden) this.#showFigures();
  }

  /** What is wrong, and what the listener can do. */
  #banner() {
    const { connection, state, sound, behind, linePosition, why } = this.player;
    if (connection === "full") return `The player is full. ${linePosition > 0 ? `You are number ${linePosition} in line; it` : "It"} starts automatically.`;
    if (connection === "gone" && state !== "starting") return `${why || "The session has ended"}. Press play to begin again.`;
    if (state === "blocked") return "The browser blocks the sound: press play.";
    if (connection === "lost") return "The connection is lost. Trying again …";
    if (sound.report?.starving && sound.on) return "The next clip is late. Sustaining the last one …";
    if (behind.behind && sound.on) return `The machine is behind: ${behind.steps} steps per clip until it has caught up.`;
    return "";
  }

  #showRecording() {
    const { player } = this;
    const recording = this.recordFrom >= 0;
    const seconds = (player.heard - this.recordFrom) / player.rateHz;
    setIcon(button("record"), recording ? "stop" : "record", recording ? "Stop recording and save" : "Record");
    button("record").setAttribute("aria-pressed", String(recording));
    const label = button("record").querySelector("span");
    const text = recording ? clock(seconds) : "Record";
    if (label && label.textContent !== text) label.textContent = text;
    if (recording && seconds > MAX_RECORDING_S) this.toggleRecording();
  }

  /** @param {boolean} on Whether it plays. */
  #showPosition(on) {
    const { player } = this;
    const heardS = player.heard / player.rateHz;
    const backS = player.behindLiveS;
    byId("time").textContent = clock(heardS);
    button("live").disabled = backS === 0;
    byId("live").dataset.live = String(on && backS === 0 && player.state === "playing");
    const states = { ready: "not playing", starting: "starting", playing: "live", paused: "paused", blocked: "press play" };
    setText("live-text", backS > 0 ? `${Math.max(1, Math.round(backS))} s back: return` : states[player.state]);
    const slider = byId("spectrogram");
    const values = { min: player.timeline.begin / player.rateHz, max: player.timeline.end / player.rateHz, now: heardS };
    for (const [name, value] of Object.entries(values)) slider.setAttribute(`aria-value${name}`, value.toFixed(0));
    slider.setAttribute("aria-valuetext", backS > 0 ? `${clock(heardS)}, ${Math.round(backS)} seconds back` : `${clock(heardS)}, live`);
  }

  #showFigures() {
    const { player } = this;
    const report = player.sound.report;
    const segment = player.timeline.at(player.heard);
    const seconds = (/** @type {number | undefined} */ samples) => `${((samples ?? 0) / player.rateHz).toFixed(2)} s`;
    const rows = {
      "played": seconds(report?.played),
      "buffered": seconds(report?.buffered),
      "underruns": String(report?.underruns ?? 0),
      "sustained": seconds(report?.held),
      "segment boundaries": String(report?.boundaries ?? 0),
      "largest step at a boundary": (report?.boundaryStep ?? 0).toFixed(4),
      "changes heard": String(report?.changes ?? 0),
      "of these too late": String(report?.late ?? 0),
      "largest step at a change": (report?.changeStep ?? 0).toFixed(4),
      "largest step inside": (report?.insideStep ?? 0).toFixed(4),
      "denoising steps of this clip": String(segment?.num_inference_steps ?? "–"),
      "seed": String(segment?.seed ?? "–"),
    };
    byId("figures").querySelector("dl")?.replaceChildren(...Object.entries(rows).map(([name, value]) => make("div", {}, make("dt", {}, name), make("dd", {}, value))));
  }

  #frame() {
    const { player, spectrogram } = this;
    const heard = player.heard;
    // An image that stands still costs nothing.
    if (spectrogram.changed || !(Math.abs(heard - this.drawn) < player.rateHz * STILL_S)) {
      this.drawn = heard;
      byId("stage").style.setProperty("--line", `${(100 * spectrogram.draw(heard)).toFixed(3)}%`);
    }
    requestAnimationFrame(() => this.#frame());
  }

  // What happens.

  #listenToPlayer() {
    const { player, spectrogram } = this;
    player.addEventListener("change", () => this.#showAll());
    player.addEventListener("segment", (event) => { spectrogram.add(/** @type {CustomEvent<Segment>} */ (event).detail).catch(notifyError); });
    player.addEventListener("truncated", (event) => {
      const { start_sample, change } = /** @type {CustomEvent<Segment>} */ (event).detail;
      spectrogram.truncate(start_sample, change);
    });
    player.addEventListener("cleared", () => spectrogram.clear());
    player.addEventListener("notice", (event) => notify(/** @type {CustomEvent<string>} */ (event).detail));
    player.addEventListener("idle", () => { if (!dialog("idle").open) dialog("idle").showModal(); });
    player.addEventListener("ended", () => dialog("idle").close());
    // Exact figures, for tests and for the curious; read from the page, since nothing of it is global.
    player.sound.addEventListener("report", () => {
      const { report, context } = player.sound;
      if (report) byId("figures").dataset.report = JSON.stringify({ ...report, wall: performance.now(), state: context?.state, rate: player.rateHz, heard: player.sound.heard(), changeMs: player.sound.changeMs, delayS: player.delayS });
    });
  }

  #listenToControls() {
    const { player, spectrogram } = this;
    button("show-mixer").addEventListener("click", () => this.showMixer(true));
    button("show-prompts").addEventListener("click", () => this.showMixer(false));
    for (const id of ["toggle", "start"]) button(id).addEventListener("click", () => this.toggle());
    button("live").addEventListener("click", () => player.goLive());
    button("mute").addEventListener("click", () => this.toggleMute());
    input("volume").addEventListener("input", () => this.setVolume(Number(input("volume").value), false));
    button("record").addEventListener("click", () => this.toggleRecording());
    button("full").addEventListener("click", () => this.toggleFullScreen());
    button("settings").addEventListener("click", () => this.settings.open());
    button("help-button").addEventListener("click", () => dialog("help").showModal());
    dialog("idle").addEventListener("close", () => player.stay());
    byId("spectrogram").addEventListener("click", (event) => {
      const box = byId("spectrogram").getBoundingClientRect();
      const sample = spectrogram.sampleAt((event.clientX - box.left) / box.width, player.heard);
      if (sample < player.timeline.begin || sample >= player.timeline.end) return;
      player.seek(sample);
      if (!player.sound.on) this.play();
    });
  }

  #listenToBrowser() {
    const { player } = this;
    document.addEventListener("visibilitychange", () => { if (!document.hidden) player.wake(); });
    window.addEventListener("online", () => player.wake());
    document.addEventListener("resume", () => player.wake());
    document.addEventListener("fullscreenchange", () => { if (!document.fullscreenElement && document.body.classList.contains("is-full")) this.toggleFullScreen(); });
    darkScheme.addEventListener("change", () => this.updateLook());
    new ResizeObserver(() => this.spectrogram.resize()).observe(byId("spectrogram"));
    acceptDroppedFiles((file) => { this.settings.riff(file); });
  }

  #makeKeys() {
    const { player } = this;
    const { sound } = player;
    makeKeys([
      { keys: [" "], shown: "space", does: "play, pause", run: () => this.toggle() },
      { keys: ["Enter", "/"], shown: "Enter /", does: "enter a prompt", run: () => input("prompt").focus() },
      { keys: ["Escape"], shown: "Esc", does: "leave the field, full screen", typing: true, run: () => this.escape() },
      { keys: ["d"], shown: "d", does: "suggest a prompt", run: () => { if (player.owner) this.prompts.dice(); } },
      { keys: ["b"], shown: "b", does: "put a prompt together", run: () => { if (player.owner) this.openBuilder(); } },
      { keys: [], shown: "shift+Enter", does: "in the field: play it next, after what plays", run: () => {} },
      { keys: ["n"], shown: "n", does: "jump to the next prompt", run: () => this.prompts.skip() },
      { keys: ["ArrowLeft"], shown: "←", does: `${JUMP_S} seconds back`, run: () => this.jump(-JUMP_S) },
      { keys: ["ArrowRight"], shown: "→", does: `${JUMP_S} seconds forward`, run: () => this.jump(JUMP_S) },
      { keys: ["l", "End"], shown: "l", does: "back to live", run: () => player.goLive() },
      { keys: ["x"], shown: "x", does: "mixer, prompts", run: () => this.showMixer(Boolean(byId("mixer").hidden)) },
      { keys: ["1", "2", "3", "4"], shown: "1 2 3 4", does: "a prompt's fader", run: (key) => this.focusFader(Number(key) - 1) },
      { keys: ["["], shown: "[", does: "less strength", run: () => this.mixer.turn("strength", -1) },
      { keys: ["]"], shown: "]", does: "more strength", run: () => this.mixer.turn("strength", 1) },
      { keys: ["-"], shown: "-", does: "less guidance", run: () => this.mixer.turn("guidance_scale", -1) },
      { keys: ["="], shown: "=", does: "more guidance", run: () => this.mixer.turn("guidance_scale", 1) },
      { keys: ["ArrowUp"], shown: "↑", does: "louder", run: () => this.setVolume(sound.volume + 0.05, false) },
      { keys: ["ArrowDown"], shown: "↓", does: "softer", run: () => this.setVolume(sound.volume - 0.05, sound.muted) },
      { keys: ["m"], shown: "m", does: "mute", run: () => this.toggleMute() },
      { keys: ["r"], shown: "r", does: "record, then save", run: () => this.toggleRecording() },
      { keys: ["w"], shown: "w", does: "save the last 30 seconds", run: () => { saveLast(player, 30, "wav"); } },
      { keys: ["c"], shown: "c", does: "copy a link to this moment", run: () => { copy(player.link(), "Link to this moment copied"); } },
      { keys: ["s"], shown: "s", does: "settings", run: () => this.settings.open() },
      { keys: ["f"], shown: "f", does: "full-screen image", run: () => this.toggleFullScreen() },
      { keys: ["k"], shown: "k", does: "next colours", run: () => this.nextOption("map") },
      { keys: ["g"], shown: "g", does: "next frequency scale", run: () => this.nextOption("scale") },
      { keys: ["i"], shown: "i", does: "figures", run: () => { byId("figures").hidden = !byId("figures").hidden; this.show(); } },
      { keys: ["?"], shown: "?", does: "this help", run: () => dialog("help").showModal() },
    ]);
  }
}

/** @param {(file: File) => void} take */
function acceptDroppedFiles(take) {
  const hasFiles = (/** @type {DragEvent} */ event) => event.dataTransfer?.types.includes("Files") ?? false;
  document.addEventListener("dragover", (event) => { if (hasFiles(event)) { event.preventDefault(); byId("drop").hidden = false; } });
  document.addEventListener("dragleave", (event) => { if (!event.relatedTarget) byId("drop").hidden = true; });
  document.addEventListener("drop", (event) => {
    if (!hasFiles(event)) return;
    event.preventDefault();
    byId("drop").hidden = true;
    const file = event.dataTransfer?.files[0];
    if (file) take(file);
  });
}

readChoices().then((choices) => new Page(choices)).catch((error) => {
  byId("banner").textContent = error.message;
  button("start").hidden = true;
});
