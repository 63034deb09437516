// @ts-check
// The dialogs: settings, whose fields follow from the server's schema; a prompt put together; saving; sharing.
import { recording, upload } from "./api.js";
import { MAPS, SCALES } from "./colours.js";
import { button, byId, copy, dialog, input, make, notify, notifyError, preferences, select } from "./elements.js";
/** @typedef {import("./player.js").Player} Player */
/** @typedef {import("./types.d.ts").Settings} Settings */
/** @typedef {import("./page.d.ts").SettingField} SettingField */

/** The text of the first step that a value does not exceed. @param {number} value @param {[number, string][]} steps */
const textFor = (value, steps) => (steps.find(([limit]) => value <= limit) ?? steps[steps.length - 1])[1];

/** What a value of a slider means. @type {Record<string, (value: number, segmentS: number) => string>} */
const MEANINGS = {
  strength: (value) => textFor(value, [[0.55, "stays close"], [0.78, "keeps the beat"], [0.88, "loosens up"], [0.96, "wanders off"], [1, "leaves it behind"]]),
  guidance_scale: (value) => textFor(value, [[3, "loosely"], [6, "moderately"], [9, "closely"], [15, "strictly"]]),
  guidance_from: (value) => (value ? `from noise ${value} on` : "all steps"),
  guidance_rescale: (value) => (value ? `${Math.round(value * 100)} %` : "not"),
  clips: (value, segmentS) => `${value === 1 ? "1 clip" : `${value} clips`}, ${Math.round(value * segmentS)} s`,
  num_inference_steps: (value) => (value === 1 ? "1 step" : `${value} steps`),
};

export class SettingsSheet {
  /** @param {Player} player @param {() => void} onLook Called when colours or scale change. */
  constructor(player, onLook) {
    this.player = player;
    this.uploaded = new Map(); // id -> name
    /** @type {(keyof Settings)[]} */
    this.fields = [];
    this.#buildFields();
    byId("map").append(...Object.entries(MAPS).map(([value, map]) => make("option", { value }, map.name)));
    byId("scale").append(...Object.entries(SCALES).map(([value, name]) => make("option", { value }, name)));
    for (const id of ["map", "scale"]) {
      select(id).value = preferences.read(id, id === "map" ? "auto" : "drawn");
      if (!select(id).value) select(id).selectedIndex = 0;
      select(id).addEventListener("change", () => { preferences.write(id, select(id).value); onLook(); });
    }
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

  /** Upload a sound file as the groove. @param {File} file */
  async riff(file) {
    const { limits } = this.player.choices;
    if (!this.player.owner) return notify("You are listening along: the host chooses");
    if (file.size > limits.upload_bytes) return notify(`${file.name} is too large: at most ${Math.floor(limits.upload_bytes / 1e6)} MB`);
    notify(`Reading ${file.name} …`);
    try {
      const uploaded = await upload(file, this.player.token);
      this.uploaded.set(uploaded.id, uploaded.name);
      await this.player.steer({ seed_upload: uploaded.id, seed_image: null });
      notify(`Riffing on ${uploaded.name}`);
      if (dialog("settings-sheet").open) this.show();
    } catch (error) {
      notifyError(error);
    }
  }

  show() {
    const { settings, owner, stream } = this.player;
    const steering = /** @type {HTMLFieldSetElement} */ (byId("steering"));
    steering.disabled = !owner;
    byId("settings-note").textContent = owner
      ? stream ? "A change is heard as soon as it is made." : "These apply from the first clip."
      : "You are listening along: the host chooses the settings.";
    this.#showGrooves();
    for (const name of this.fields) {
      if (document.activeElement === input(name)) continue;
      input(name).value = String(settings[name] ?? "");
      input(name).dispatchEvent(new Event("shown"));
    }
  }

  /** Build a field for each setting of the schema that has a control, in the schema's order. */
  #buildFields() {
    const entries = /** @type {[keyof Settings, SettingField][]} */ (Object.entries(this.player.choices.schema));
    const controls = entries.filter(([, field]) => field.order !== undefined);
    controls.sort(([, one], [, other]) => (one.order ?? 0) - (other.order ?? 0));
    for (const [name, field] of controls) {
      if (field.control === "groove") {
        byId("groove-title").textContent = field.title;
        continue;
      }
      const control = field.control === "slider" ? this.#slider(name, field) : field.control === "seed" ? this.#seed(name, field) : this.#text(name, field);
      byId("fields").append(make("label", { class: "row", for: name }, make("span", {}, field.title), ...control));
      this.fields.push(name);
    }
  }

  /** @param {string} name @param {SettingField} field */
  #slider(name, field) {
    const { minimum, maximum, step } = field.slider ?? { minimum: 0, maximum: 1, step: 0.01 };
    const range = make("input", { type: "range", id: name, min: minimum, max: maximum, step });
    const output = make("output", { id: `${name}-value`, "aria-hidden": "true" });
    const show = () => {
      const value = Number(range.value);
      const meaning = MEANINGS[name]?.(value, this.player.choices.segment_s) ?? range.value;
      output.textContent = meaning;
      range.setAttribute("aria-valuetext", `${range.value}, ${meaning}`);
    };
    for (const event of ["input", "shown"]) range.addEventListener(event, show);
    range.addEventListener("change", () => this.#steer({ [name]: Number(range.value) }));
    return [output, range];
  }

  /** @param {string} name @param {SettingField} field */
  #text(name, field) {
    const text = make("input", { type: "text", id: name, spellcheck: "false", maxlength: field.maxLength ?? null });
    text.addEventListener("change", () => this.#steer({ [name]: text.value.trim() }));
    return [text];
  }

  /** @param {string} name @param {SettingField} field */
  #seed(name, field) {
    const [least, most] = [field.minimum ?? 0, field.maximum ?? 0];
    const number = make("input", { type: "number", id: name, min: least, max: most, step: 1 });
    number.addEventListener("change", () => this.#steer({ [name]: Math.min(most, Math.max(least, Math.floor(Number(number.value) || 0))) }));
    const another = make("button", { type: "button", id: "reseed", onclick: () => this.#steer({ [name]: Math.floor(Math.random() * 100000) }) }, "Another");
    return [make("span", { class: "pair" }, number, another)];
  }

  #showGrooves() {
    const { settings, choices } = this.player;
    const grooves = [
      { id: "", name: "None", about: "from noise alone" },
      ...choices.seed_images,
      ...[...this.uploaded].map(([id, name]) => ({ id: `upload:${id}`, name, about: "your file" })),
    ];
    const chosen = settings.seed_upload !== null ? `upload:${settings.seed_upload}` : settings.seed_image ?? "";
    if (!grooves.some((groove) => groove.id === chosen)) grooves.push({ id: chosen, name: "A file", about: "from this session" });
    const list = byId("groove-list");
    const signature = JSON.stringify(grooves);
    if (list.dataset.shown !== signature) {
      list.dataset.shown = signature;
      list.replaceChildren(...grooves.map((groove) => make("label", { class: "groove" },
        make("input", { type: "radio", name: "groove", value: groove.id, onchange: () => this.#chooseGroove(groove.id) }),
        make("span", {}, make("strong", {}, groove.name), make("small", {}, groove.about)),
      )));
    }
    for (const box of list.querySelectorAll("input")) box.checked = box.value === chosen;
  }

  /** @param {string} id */
  #chooseGroove(id) {
    const own = id.startsWith("upload:");
    this.#steer({ seed_image: own || id === "" ? null : id, seed_upload: own ? id.slice(7) : null });
  }

  /** @param {Record<string, unknown>} changes */
  async #steer(changes) {
    try {
      await this.player.steer(changes);
    } catch (error) {
      notifyError(error);
    }
    this.show();
  }
}

/** The dialog that puts a prompt together. @param {Player} player @param {(prompt: string) => void} ask @returns {() => void} Opens it. */
export function makeBuilder(player, ask) {
  const { builder } = player.choices;
  const names = /** @type {(keyof typeof builder)[]} */ (["genre", "mood", "instrument", "tempo"]);
  /** @type {Record<string, string>} */
  const chosen = {};
  const built = () => {
    const { genre, mood, instrument, tempo } = chosen;
    return [[mood, genre].filter(Boolean).join(" "), instrument, tempo].filter(Boolean).join(", ");
  };
  const show = () => { byId("built").textContent = built() || "Choose at most one of each."; button("build-send").disabled = !built(); };
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

/** Download a recording. @param {Player} player @param {string} kind @param {number} from @param {number} to Samples. */
export async function save(player, kind, from, to) {
  const seconds = (to - from) / player.rateHz;
  if (!player.id || seconds <= 0) return notify("There is nothing to save yet");
  notify("Preparing the file …");
  try {
    const answer = await fetch(recording(player.id, kind, seconds, to));
    if (!answer.ok) throw new Error((await answer.json().catch(() => ({}))).error ?? `The server answered ${answer.status}`);
    const address = URL.createObjectURL(await answer.blob());
    const name = (byId("now-prompt").textContent ?? "").replace(/[^\p{L}\p{N}]+/gu, "-").replace(/^-|-$/g, "").slice(0, 48);
    make("a", { href: address, download: `riffusion-${name || "audio"}.${kind}` }).click();
    setTimeout(() => URL.revokeObjectURL(address), 60000);
    notify(`Saved: ${seconds.toFixed(1)} s`);
  } catch (error) {
    notifyError(error);
  }
}

/** Download the last seconds that were heard. @param {Player} player @param {number} seconds @param {string} kind */
export function saveLast(player, seconds, kind) {
  const to = Math.round(player.heard);
  return save(player, kind, Math.max(player.timeline.begin, to - Math.round(seconds * player.rateHz)), to);
}

/** The dialogs that share and save. @param {Player} player */
export function makeSharing(player) {
  button("copy-link").addEventListener("click", async () => { if (!(await copy(input("link").value, "Link to this moment copied"))) input("link").select(); });
  button("copy-along").addEventListener("click", async () => { if (!(await copy(input("along").value, "Link to listen along copied"))) input("along").select(); });
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
