// @ts-check
// The sheets: settings in human words, a prompt put together, saving, sharing.
import { recording, upload } from "./api.js";
import { MAPS, SCALES } from "./colours.js";
import { button, byId, copy, dialog, input, make, say, sayFault, select, taste } from "./elements.js";
/** @typedef {import("./player.js").Player} Player */

/** @param {number} value @param {[number, string][]} steps Up to which value which word holds. */
const word = (value, steps) => (steps.find(([limit]) => value <= limit) ?? steps[steps.length - 1])[1];
const STRENGTHS = /** @type {[number, string][]} */ ([[0.55, "stays close"], [0.78, "keeps the beat"], [0.88, "loosens up"], [0.96, "wanders off"], [1, "leaves it behind"]]);
const GUIDANCES = /** @type {[number, string][]} */ ([[3, "dreams"], [6, "listens"], [9, "takes them at their word"], [15, "insists"]]);

export class SettingsSheet {
  /** @param {Player} player @param {() => void} onLook */
  constructor(player, onLook) {
    this.player = player;
    this.uploaded = new Map(); // id -> name
    const { steps } = player.choices;
    [input("steps").min, input("steps").max] = [String(steps.min), String(steps.max)];
    byId("map").append(...Object.entries(MAPS).map(([value, map]) => make("option", { value }, map.name)));
    byId("scale").append(...Object.entries(SCALES).map(([value, name]) => make("option", { value }, name)));
    for (const id of ["map", "scale"]) {
      select(id).value = taste.read(id, id === "map" ? "auto" : "drawn");
      if (!select(id).value) select(id).selectedIndex = 0;
      select(id).addEventListener("change", () => { taste.write(id, select(id).value); onLook(); });
    }
    this.#range("strength", "strength", (value) => word(value, STRENGTHS));
    this.#range("guidance", "guidance_scale", (value) => word(value, GUIDANCES));
    this.#range("clips", "clips", (value) => `${value === 1 ? "1 clip" : `${value} clips`}, ${Math.round(value * player.choices.segment_s)} s`);
    this.#range("steps", "num_inference_steps", (value) => `${value} steps`);
    input("negative").addEventListener("change", () => this.#steer({ negative_prompt: input("negative").value.trim() }));
    input("seed").addEventListener("change", () => this.#steer({ seed: Math.max(0, Math.floor(Number(input("seed").value) || 0)) }));
    button("reseed").addEventListener("click", () => this.#steer({ seed: Math.floor(Math.random() * 100000) }));
    input("file").addEventListener("change", () => {
      const file = input("file").files?.[0];
      if (file) this.riff(file);
      input("file").value = "";
    });
    player.addEventListener("change", () => { if (dialog("settings-sheet").open) this.show(); });
  }

  open() {
    this.show();
    dialog("settings-sheet").showModal();
  }

  /** Make a sound file the groove. @param {File} file */
  async riff(file) {
    const { limits } = this.player.choices;
    if (!this.player.owner) return say("You listen along: the host chooses");
    if (file.size > limits.upload_bytes) return say(`${file.name} is too large: at most ${Math.floor(limits.upload_bytes / 1e6)} MB`);
    say(`Reading ${file.name} …`);
    try {
      const found = await upload(file, this.player.token);
      this.uploaded.set(found.id, found.name);
      await this.player.steer({ seed_upload: found.id, seed_image: null });
      say(`Riffing on ${found.name}`);
      if (dialog("settings-sheet").open) this.show();
    } catch (error) {
      sayFault(error);
    }
  }

  show() {
    const { settings, owner, stream } = this.player;
    const steering = /** @type {HTMLFieldSetElement} */ (byId("steering"));
    steering.disabled = !owner;
    byId("settings-note").textContent = owner
      ? stream ? "A change is heard as soon as what is made already has played." : "How it begins."
      : "You listen along: the host chooses how it plays.";
    this.#grooves();
    const values = { strength: settings.strength, guidance: settings.guidance_scale, clips: settings.clips, steps: settings.num_inference_steps, negative: settings.negative_prompt ?? "", seed: settings.seed };
    for (const [id, value] of Object.entries(values)) {
      if (document.activeElement !== input(id)) {
        input(id).value = String(value);
        input(id).dispatchEvent(new Event("shown"));
      }
    }
    input("strength").disabled = settings.seed_image === null && settings.seed_upload === null;
  }

  #grooves() {
    const { settings, choices } = this.player;
    const grooves = [
      { id: "", name: "None", about: "from noise alone" },
      ...choices.seed_images,
      ...[...this.uploaded].map(([id, name]) => ({ id: `upload:${id}`, name, about: "your file" })),
    ];
    const chosen = settings.seed_upload !== null ? `upload:${settings.seed_upload}` : settings.seed_image ?? "";
    if (!grooves.some((groove) => groove.id === chosen)) grooves.push({ id: chosen, name: "A file", about: "of this session" });
    const list = byId("groove-list");
    const signature = JSON.stringify(grooves);
    if (list.dataset.shown !== signature) {
      list.dataset.shown = signature;
      list.replaceChildren(...grooves.map((groove) => make("label", { class: "groove" },
        make("input", { type: "radio", name: "groove", value: groove.id, onchange: () => this.#groove(groove.id) }),
        make("span", {}, make("strong", {}, groove.name), make("small", {}, groove.about)),
      )));
    }
    for (const box of list.querySelectorAll("input")) box.checked = box.value === chosen;
  }

  /** @param {string} id */
  #groove(id) {
    const own = id.startsWith("upload:");
    this.#steer({ seed_image: own || id === "" ? null : id, seed_upload: own ? id.slice(7) : null });
  }

  /** @param {string} id @param {string} key @param {(value: number) => string} spoken */
  #range(id, key, spoken) {
    const range = input(id);
    const tell = () => {
      byId(`${id}-words`).textContent = spoken(Number(range.value));
      range.setAttribute("aria-valuetext", `${range.value}, ${spoken(Number(range.value))}`);
    };
    range.addEventListener("input", tell);
    range.addEventListener("shown", tell);
    range.addEventListener("change", () => this.#steer({ [key]: Number(range.value) }));
  }

  /** @param {Record<string, unknown>} changes */
  async #steer(changes) {
    try {
      await this.player.steer(changes);
    } catch (error) {
      sayFault(error);
    }
    this.show();
  }
}

/** @param {Player} player @param {(prompt: string) => void} ask */
export function makeBuilder(player, ask) {
  const { builder } = player.choices;
  const names = /** @type {(keyof typeof builder)[]} */ (["genre", "mood", "instrument", "tempo"]);
  /** @type {Record<string, string>} */
  const chosen = {};
  const built = () => {
    const { genre, mood, instrument, tempo } = chosen;
    return [[mood, genre].filter(Boolean).join(" "), instrument, tempo].filter(Boolean).join(", ");
  };
  const show = () => { byId("built").textContent = built() || "Choose one of each, or fewer."; button("build-send").disabled = !built(); };
  byId("build-lists").replaceChildren(...names.map((name) => make("fieldset", { class: "chips" }, make("legend", {}, name),
    ...builder[name].map((value) => make("label", { class: "chip" }, make("input", { type: "checkbox", value, onchange: (event) => {
      const box = /** @type {HTMLInputElement} */ (event.target);
      for (const other of box.closest("fieldset")?.querySelectorAll("input") ?? []) if (other !== box) other.checked = false;
      chosen[name] = box.checked ? value : "";
      show();
    } }), make("span", {}, value))))));
  button("build-send").addEventListener("click", () => {
    dialog("build-sheet").close();
    ask(built());
  });
  button("build").addEventListener("click", () => open());
  function open() {
    show();
    dialog("build-sheet").showModal();
  }
  return open;
}

/** Fetch a recording and hand it to the listener. @param {Player} player @param {string} kind @param {number} from @param {number} to Samples. */
export async function save(player, kind, from, to) {
  const seconds = (to - from) / player.rateHz;
  if (!player.id || seconds <= 0) return say("There is nothing to save yet");
  say("Getting it ready …");
  try {
    const answer = await fetch(recording(player.id, kind, seconds, to));
    if (!answer.ok) throw new Error((await answer.json().catch(() => ({}))).error ?? `The server answered ${answer.status}`);
    const address = URL.createObjectURL(await answer.blob());
    const words = (byId("now-prompt").textContent ?? "").replace(/[^\p{L}\p{N}]+/gu, "-").replace(/^-|-$/g, "").slice(0, 48);
    make("a", { href: address, download: `riffusion-${words || "sound"}.${kind}` }).click();
    setTimeout(() => URL.revokeObjectURL(address), 60000);
    say(`Saved: ${seconds.toFixed(1)} s`);
  } catch (error) {
    sayFault(error);
  }
}

/** @param {Player} player @param {number} seconds @param {string} kind */
export function saveLast(player, seconds, kind) {
  const to = Math.round(player.heard);
  return save(player, kind, Math.max(player.timeline.begin, to - Math.round(seconds * player.rateHz)), to);
}

/** @param {Player} player */
export function makeSharing(player) {
  button("copy-link").addEventListener("click", async () => { if (!(await copy(input("link").value, "The link to this moment is copied"))) input("link").select(); });
  button("copy-along").addEventListener("click", async () => { if (!(await copy(input("along").value, "The link to listen along is copied"))) input("along").select(); });
  const open = () => {
    input("link").value = player.link();
    input("along").value = player.id ? `${location.origin}${location.pathname}#listen=${encodeURIComponent(player.id)}` : "";
    dialog("share-sheet").showModal();
  };
  button("share").addEventListener("click", open);
  for (const control of byId("save-sheet").querySelectorAll("button[data-kind]")) {
    control.addEventListener("click", () => saveLast(player, Number(select("last").value), /** @type {HTMLElement} */ (control).dataset.kind ?? "wav"));
  }
  button("save").addEventListener("click", () => dialog("save-sheet").showModal());
}
