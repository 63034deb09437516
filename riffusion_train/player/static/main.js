// @ts-check
// The page: what is pressed, and what is shown of it.
import { readChoices, readLink } from "./api.js";
import { MAPS } from "./colours.js";
import { button, byId, clock, copy, dialog, input, make, say, sayFault, select, sign, taste } from "./elements.js";
import { makeKeys } from "./keys.js";
import { Picture } from "./picture.js";
import { Player } from "./player.js";
import { Prompts } from "./prompts.js";
import { makeBuilder, makeSharing, save, saveLast, SettingsSheet } from "./sheets.js";
/** @typedef {import("./colours.js").ScaleName} ScaleName */
/** @typedef {import("./types.d.ts").Segment} Segment */
/** @typedef {import("./types.d.ts").Choices} Choices */

const BACK_S = 5;
const STILL_S = 0.0005;
const LONGEST_RECORDING_S = 295; // the server keeps five minutes
const stillness = matchMedia("(prefers-reduced-motion: reduce)");
const darkness = matchMedia("(prefers-color-scheme: dark)");

/** @param {Choices} choices */
function main(choices) {
  const player = new Player(choices);
  const picture = new Picture(/** @type {HTMLCanvasElement} */ (byId("picture")), choices, stillness);
  let link = readLink(location.hash);
  let recordFrom = -1;
  let recordedIn = "";
  if (link.broken) say("This link is cut short: it restores nothing");
  if (!link.share && !link.listen) player.recall();
  if (typeof link.share?.prompt === "string") player.settings.prompt = link.share.prompt;
  byId("model").textContent = choices.model;

  async function play() {
    try {
      if (player.stream || !link.listen) await (player.connection === "gone" ? player.restart() : player.play(link.share ?? undefined, link.offsetS));
      else await player.listen(link.listen);
      if (location.hash) history.replaceState(null, "", location.pathname);
    } catch (error) {
      player.pause();
      sayFault(error);
    }
    show();
  }
  const toggle = () => {
    if (player.sound.on && player.state !== "blocked") player.pause();
    else play();
  };

  /** @param {string} prompt */
  async function ask(prompt) {
    try {
      if (!player.stream) {
        link = { ...link, share: null, offsetS: 0, listen: null };
        player.settings.prompt = prompt;
        await play();
      } else {
        await player.steer({ prompt });
        say(`Next: ${prompt}`);
        if (!player.sound.on) await play();
      }
    } catch (error) {
      input("words").value = prompt;
      sayFault(error);
    }
  }

  const prompts = new Prompts(player, ask);
  const settings = new SettingsSheet(player, look);
  const build = makeBuilder(player, ask);
  makeSharing(player);

  /** @param {number} volume @param {boolean} muted */
  function setLevel(volume, muted) {
    player.sound.setLevel(volume, muted);
    taste.write("volume", player.sound.volume);
    input("volume").value = String(player.sound.volume);
    sign(button("mute"), muted || player.sound.volume === 0 ? "mute" : "sound", muted ? "Sound on" : "Mute");
  }
  const mute = () => setLevel(player.sound.volume, !player.sound.muted);

  function record() {
    if (recordFrom >= 0) {
      const from = recordFrom;
      recordFrom = -1;
      if (recordedIn === player.id) save(player, "wav", from, Math.round(player.heard));
      else say("The recording ended with its session");
    } else if (!player.sound.report?.played) say("There is nothing to record yet");
    else {
      [recordFrom, recordedIn] = [Math.round(player.heard), player.id];
      say("Recording what you hear");
    }
    show();
  }

  function full() {
    const on = document.body.classList.toggle("is-full");
    if (on) document.documentElement.requestFullscreen?.().catch(() => {});
    else if (document.fullscreenElement) document.exitFullscreen().catch(() => {});
    show();
    requestAnimationFrame(() => picture.resize());
  }

  function look() {
    const chosen = select("map").value;
    const map = chosen === "auto" ? (darkness.matches ? "ember" : "dawn") : chosen;
    picture.setLook(map, /** @type {ScaleName} */ (select("scale").value));
    byId("stage").dataset.ground = picture.dark ? "dark" : "light";
    byId("stage").style.setProperty("--ground", MAPS[picture.map].stops[0]);
    byId("ticks").replaceChildren(...picture.ticks.map((tick) => {
      const line = make("li", {}, tick.text);
      line.style.bottom = `${100 * tick.height}%`;
      return line;
    }));
  }

  /** @param {"map" | "scale"} id */
  function turn(id) {
    const list = select(id);
    list.selectedIndex = (list.selectedIndex + 1) % list.options.length;
    list.dispatchEvent(new Event("change"));
    say(`${id === "map" ? "Colours" : "Frequencies"}: ${list.options[list.selectedIndex].text}`);
  }

  /** @param {number} seconds */
  const go = (seconds) => player.seek(player.heard + seconds * player.rateHz);

  function sentence() {
    const { connection, state, sound } = player;
    if (connection === "full") return `The player is full. ${player.place > 0 ? `You are number ${player.place} in line; it` : "It"} begins by itself.`;
    if (connection === "gone" && player.state !== "starting") return `${player.why || "The session has ended"}. Press play to begin again.`;
    if (state === "blocked") return "The browser holds the sound back: press play.";
    if (connection === "lost") return "The connection is lost. Trying again …";
    if (sound.report?.starving && sound.on) return "The next clip is late. Holding on to the last one …";
    if (player.behind.behind && sound.on) return `The machine is behind: ${player.behind.steps} steps a clip until it has caught up.`;
    return "";
  }

  function show() {
    const { state, sound } = player;
    const on = sound.on && state !== "blocked";
    sign(button("toggle"), on ? "pause" : "play", on ? "Pause" : "Play");
    button("start").hidden = on || (state === "paused" && player.timeline.segments.length > 0 && player.connection !== "gone");
    byId("start-words").textContent = link.listen && !player.stream ? "Press play to listen along" : "Press play";
    document.body.dataset.state = state;
    const heardS = player.heard / player.rateHz;
    byId("time").textContent = clock(heardS);
    const back = player.behindLiveS;
    button("live").disabled = back === 0;
    byId("live").dataset.live = String(on && back === 0 && state === "playing");
    const lag = back > 0 ? `${Math.max(1, Math.round(back))} s back: return` : { ready: "not playing", starting: "starting", playing: "live", paused: "paused", blocked: "press play" }[state];
    if (byId("live-words").textContent !== lag) byId("live-words").textContent = lag;
    const words = sentence();
    if (byId("banner").textContent !== words) byId("banner").textContent = words;
    byId("caption").textContent = byId("now-prompt").textContent;
    sign(button("record"), recordFrom >= 0 ? "stop" : "record", recordFrom >= 0 ? "Stop recording and save" : "Record");
    button("record").setAttribute("aria-pressed", String(recordFrom >= 0));
    const recorded = recordFrom >= 0 ? clock(heardS - recordFrom / player.rateHz) : "Record";
    const label = button("record").querySelector("span");
    if (label && label.textContent !== recorded) label.textContent = recorded;
    if (recordFrom >= 0 && heardS - recordFrom / player.rateHz > LONGEST_RECORDING_S) record();
    button("full").setAttribute("aria-pressed", String(document.body.classList.contains("is-full")));
    showPosition(heardS);
    if (!byId("figures").hidden) figures();
  }

  /** @param {number} heardS */
  function showPosition(heardS) {
    const values = { min: player.timeline.begin / player.rateHz, max: player.timeline.end / player.rateHz, now: heardS };
    for (const [name, value] of Object.entries(values)) byId("picture").setAttribute(`aria-value${name}`, value.toFixed(0));
    byId("picture").setAttribute("aria-valuetext", player.behindLiveS > 0 ? `${clock(heardS)}, ${Math.round(player.behindLiveS)} seconds back` : `${clock(heardS)}, live`);
  }

  function figures() {
    const report = player.sound.report;
    const rows = {
      "played": `${((report?.played ?? 0) / player.rateHz).toFixed(2)} s`,
      "ready ahead": `${((report?.buffered ?? 0) / player.rateHz).toFixed(2)} s`,
      "underruns": String(report?.underruns ?? 0),
      "held": `${((report?.held ?? 0) / player.rateHz).toFixed(2)} s`,
      "joins": String(report?.joins ?? 0),
      "largest step at a join": (report?.joinStep ?? 0).toFixed(4),
      "largest step inside": (report?.insideStep ?? 0).toFixed(4),
      "steps of this clip": String(player.timeline.at(player.heard)?.num_inference_steps ?? "–"),
      "seed": String(player.timeline.at(player.heard)?.seed ?? "–"),
    };
    byId("figures").querySelector("dl")?.replaceChildren(...Object.entries(rows).map(([name, value]) => make("div", {}, make("dt", {}, name), make("dd", {}, value))));
  }

  // Exact figures, for tests and for whoever wonders; read from the page, since nothing of it is global.
  player.sound.addEventListener("report", () => {
    const { report, context } = player.sound;
    if (report) byId("figures").dataset.report = JSON.stringify({ ...report, wall: performance.now(), state: context?.state, rate: player.rateHz, heard: player.sound.heard() });
  });

  makeKeys([
    { keys: [" "], shown: "space", does: "play, pause", run: toggle },
    { keys: ["Enter", "/"], shown: "Enter /", does: "ask for something", run: () => input("words").focus() },
    { keys: ["Escape"], shown: "Esc", does: "leave the field, the picture", typing: true, run: () => { if (document.body.classList.contains("is-full")) full(); else if (document.activeElement instanceof HTMLElement) document.activeElement.blur(); } },
    { keys: ["d"], shown: "d", does: "a prompt by chance", run: () => { if (player.owner) prompts.dice(); } },
    { keys: ["b"], shown: "b", does: "put a prompt together", run: () => { if (player.owner) build(); } },
    { keys: ["n"], shown: "n", does: "on to the next prompt", run: () => prompts.skip() },
    { keys: ["ArrowLeft"], shown: "←", does: `${BACK_S} seconds back`, run: () => go(-BACK_S) },
    { keys: ["ArrowRight"], shown: "→", does: `${BACK_S} seconds on`, run: () => go(BACK_S) },
    { keys: ["l", "End"], shown: "l", does: "back to live", run: () => player.goLive() },
    { keys: ["ArrowUp"], shown: "↑", does: "louder", run: () => setLevel(player.sound.volume + 0.05, false) },
    { keys: ["ArrowDown"], shown: "↓", does: "softer", run: () => setLevel(player.sound.volume - 0.05, player.sound.muted) },
    { keys: ["m"], shown: "m", does: "mute", run: mute },
    { keys: ["r"], shown: "r", does: "record, and save it", run: record },
    { keys: ["w"], shown: "w", does: "save the last 30 seconds", run: () => { saveLast(player, 30, "wav"); } },
    { keys: ["c"], shown: "c", does: "copy a link to this moment", run: () => { copy(player.link(), "The link to this moment is copied"); } },
    { keys: ["s"], shown: "s", does: "settings", run: () => settings.open() },
    { keys: ["f"], shown: "f", does: "the picture alone", run: full },
    { keys: ["k"], shown: "k", does: "other colours", run: () => turn("map") },
    { keys: ["g"], shown: "g", does: "other frequency scale", run: () => turn("scale") },
    { keys: ["i"], shown: "i", does: "figures", run: () => { byId("figures").hidden = !byId("figures").hidden; show(); } },
    { keys: ["?"], shown: "?", does: "this help", run: () => dialog("help").showModal() },
  ]);
  for (const id of ["toggle", "start"]) button(id).addEventListener("click", toggle);
  button("live").addEventListener("click", () => player.goLive());
  button("mute").addEventListener("click", mute);
  input("volume").addEventListener("input", () => setLevel(Number(input("volume").value), false));
  button("record").addEventListener("click", record);
  button("full").addEventListener("click", full);
  button("settings").addEventListener("click", () => settings.open());
  button("help-button").addEventListener("click", () => dialog("help").showModal());
  byId("picture").addEventListener("click", (event) => {
    const box = byId("picture").getBoundingClientRect();
    const sample = picture.sampleAt((event.clientX - box.left) / box.width, player.heard);
    if (sample < player.timeline.begin || sample >= player.timeline.end) return;
    player.seek(sample);
    if (!player.sound.on) play();
  });
  player.addEventListener("change", () => { prompts.show(); show(); });
  player.addEventListener("segment", (event) => { picture.add(/** @type {CustomEvent<Segment>} */ (event).detail).catch(sayFault); });
  player.addEventListener("cleared", () => picture.clear());
  player.addEventListener("words", (event) => say(/** @type {CustomEvent<string>} */ (event).detail));
  player.addEventListener("idle", () => { if (!dialog("still").open) dialog("still").showModal(); });
  dialog("still").addEventListener("close", () => player.stay());
  player.addEventListener("ended", () => dialog("still").close());
  document.addEventListener("visibilitychange", () => { if (!document.hidden) player.wake(); });
  window.addEventListener("online", () => player.wake());
  document.addEventListener("resume", () => player.wake());
  document.addEventListener("fullscreenchange", () => { if (!document.fullscreenElement && document.body.classList.contains("is-full")) full(); });
  darkness.addEventListener("change", look);
  new ResizeObserver(() => picture.resize()).observe(byId("picture"));
  drops((file) => { settings.riff(file); });

  setLevel(taste.read("volume", 0.8), false);
  look();
  prompts.show();
  show();
  setInterval(() => { prompts.show(); show(); }, 250);
  let drawn = NaN;
  const frame = () => {
    const heard = player.heard;
    // A picture that stands still costs nothing.
    if (picture.changed || !(Math.abs(heard - drawn) < player.rateHz * STILL_S)) {
      drawn = heard;
      byId("stage").style.setProperty("--line", `${(100 * picture.draw(heard)).toFixed(3)}%`);
    }
    requestAnimationFrame(frame);
  };
  requestAnimationFrame(frame);
  document.body.dataset.ready = "true";
}

/** @param {(file: File) => void} take */
function drops(take) {
  const holds = (/** @type {DragEvent} */ event) => event.dataTransfer?.types.includes("Files") ?? false;
  document.addEventListener("dragover", (event) => { if (holds(event)) { event.preventDefault(); byId("drop").hidden = false; } });
  document.addEventListener("dragleave", (event) => { if (!event.relatedTarget) byId("drop").hidden = true; });
  document.addEventListener("drop", (event) => {
    if (!holds(event)) return;
    event.preventDefault();
    byId("drop").hidden = true;
    const file = event.dataTransfer?.files[0];
    if (file) take(file);
  });
}

readChoices().then(main).catch((error) => {
  byId("banner").textContent = error.message;
  button("start").hidden = true;
});
