// @ts-check
// The prompts: what was played, what plays, and what comes next and when.
import { byId, button, icon, input, make, notify, notifyError, preferences } from "./elements.js";
/** @typedef {import("./player.js").Player} Player */
/** @typedef {import("./types.d.ts").QueueItem} QueueItem */
/** @typedef {import("./page.d.ts").Segment} Segment */

const PAST_SHOWN = 24;
const TYPING_MS = 300; // after which what was typed is heard
const LEAST_TYPED = 3;

export class Prompts {
  /** @param {Player} player @param {(prompt: string, later?: boolean) => void} ask Plays a prompt now, or next. */
  constructor(player, ask) {
    this.player = player;
    this.ask = ask;
    this.shown = "";
    this.typing = 0;
    const field = input("prompt");
    field.maxLength = player.choices.limits.prompt_chars;
    byId("ask").addEventListener("submit", (event) => {
      event.preventDefault();
      this.#send(false);
    });
    button("later").addEventListener("click", () => this.#send(true));
    field.addEventListener("keydown", (event) => {
      if (event.key !== "Enter" || !event.shiftKey || event.isComposing) return;
      event.preventDefault();
      this.#send(true);
    });
    const typed = input("as-typed");
    typed.checked = preferences.read("as-typed", false);
    typed.addEventListener("change", () => preferences.write("as-typed", typed.checked));
    field.addEventListener("input", () => {
      clearTimeout(this.typing);
      if (typed.checked && player.stream && player.owner) this.typing = window.setTimeout(() => this.#typed(), TYPING_MS);
    });
    button("dice").addEventListener("click", () => this.dice());
    player.addEventListener("change", () => this.show());
  }

  /** @param {boolean} later Whether it waits for what plays. */
  #send(later) {
    clearTimeout(this.typing);
    const field = input("prompt");
    const prompt = field.value.trim();
    if (!prompt) {
      field.focus();
      return;
    }
    field.value = "";
    if (later || prompt !== this.player.settings.prompt || !this.player.stream) this.ask(prompt, later);
  }

  /** What was typed so far is heard; it stays in the field. */
  #typed() {
    const prompt = input("prompt").value.trim();
    if (prompt.length < LEAST_TYPED || prompt === this.player.settings.prompt) return;
    this.player.steer({ now: prompt }).catch(notifyError);
  }

  /** Put a suggestion into the field, another one each time. */
  dice() {
    const field = input("prompt");
    const others = this.player.choices.dice.filter((prompt) => prompt !== field.value && prompt !== byId("now-prompt").textContent);
    field.value = others[Math.floor(Math.random() * others.length)] ?? field.value;
    field.focus();
  }

  /** @param {number} heard @returns {Segment | null} */
  #segment(heard) {
    return this.player.timeline.at(heard) ?? this.player.timeline.segments.at(-1) ?? null;
  }

  /** Split the queue by what is heard, not by what is made already. @param {Segment | null} segment */
  #split(segment) {
    const { queue } = this.player;
    let current = queue.findIndex((item) => item.state === "playing");
    if (segment) queue.forEach((item, index) => { if (item.from_segment !== null && item.from_segment <= segment.index) current = index; });
    return { past: queue.slice(0, Math.max(current, 0)).slice(-PAST_SHOWN), coming: queue.slice(current + 1) };
  }

  show() {
    const { player } = this;
    const heard = player.heard;
    const segment = player.state === "ready" ? null : this.#segment(heard);
    const { past, coming } = this.#split(segment);
    this.#now(segment, heard);
    const signature = JSON.stringify([past.map((item) => item.id), coming.map((item) => [item.id, this.#made(item)]), player.owner]);
    if (signature !== this.shown) {
      this.shown = signature;
      this.#lists(past, coming);
    }
    byId("coming").querySelectorAll("li").forEach((line, index) => {
      const when = line.querySelector(".when");
      if (when) when.textContent = this.#when(coming[index], heard);
    });
    for (const id of ["prompt", "dice", "build", "later", "send", "as-typed"]) button(id).disabled = !player.owner;
    input("prompt").placeholder = player.owner ? (innerWidth < 480 ? "What to play?" : "What do you want to hear?") : "You are listening along; the host chooses";
  }

  /** @param {Segment | null} segment @param {number} heard */
  #now(segment, heard) {
    const { player } = this;
    const moving = segment !== null && segment.prompt_from !== segment.prompt_to;
    const prompt = segment ? segment.prompt_to : player.settings.prompt;
    const states = { ready: "Ready to play", starting: "Making the first clip", playing: moving ? "Changing to" : "Playing", paused: moving ? "Changing to, paused" : "Paused", blocked: "Press play" };
    for (const [id, text] of [["now-prompt", prompt], ["now-state", states[player.state]]]) {
      if (byId(id).textContent !== text) byId(id).textContent = text;
    }
    byId("now").classList.toggle("is-moving", player.state === "playing");
    byId("transition").hidden = !moving;
    document.title = player.state === "playing" ? `${prompt} · Riffusion` : "Riffusion";
    if (!moving || !segment) return;
    const inside = Math.min(1, Math.max(0, (heard - segment.start_sample) / segment.n_samples));
    const fraction = Math.min(1, segment.alpha + inside / Math.max(1, player.settings.clips));
    /** @type {HTMLElement | null} */ (byId("transition-bar").firstElementChild)?.style.setProperty("width", `${(100 * fraction).toFixed(1)}%`);
    byId("transition-text").textContent = `from ${segment.prompt_from}`;
  }

  /** @param {QueueItem[]} past @param {QueueItem[]} coming */
  #lists(past, coming) {
    const { player } = this;
    const again = (/** @type {QueueItem} */ item) => make("button", {
      type: "button", title: "Play it again", disabled: !player.owner, onclick: () => this.ask(item.prompt),
    }, item.prompt);
    byId("past").replaceChildren(...past.map((item) => make("li", {}, again(item))));
    byId("past").scrollTop = byId("past").scrollHeight;
    byId("coming").replaceChildren(...coming.map((item, index) => make("li", {},
      make("span", { class: "prompt" }, item.prompt),
      make("span", { class: "when" }),
      index > 0 && !this.#made(item) && !this.#made(coming[index - 1]) ? this.#tool("next", `Play next: ${item.prompt}`, { next: item.id }) : null,
      this.#made(item) ? null : this.#tool("close", `Remove: ${item.prompt}`, { remove: item.id }),
    )));
  }

  /** @param {string} iconName @param {string} name @param {Record<string, string>} change */
  #tool(iconName, name, change) {
    if (!this.player.owner) return null;
    const pressed = async () => {
      try {
        await this.player.steer(change);
        notify(iconName === "close" ? "Removed" : "Plays next");
        input("prompt").focus();
      } catch (error) {
        notifyError(error);
      }
    };
    return make("button", { type: "button", "aria-label": name, title: name, class: "small", onclick: pressed }, icon(iconName));
  }

  /** @param {QueueItem | undefined} item @param {number} heard */
  #when(item, heard) {
    if (!item) return "";
    if (item.from_segment === null) return "after that";
    const { timeline, segmentSamples, rateHz } = this.player;
    const seconds = Math.round((timeline.startOf(item.from_segment, segmentSamples) - heard) / rateHz);
    return seconds <= 0 ? "now" : seconds < 90 ? `in ${seconds} s` : `in ${Math.round(seconds / 60)} min`;
  }

  /** Jump to where the next prompt begins, if that is made already. */
  skip() {
    const { player } = this;
    const next = this.#split(this.#segment(player.heard)).coming[0];
    if (!next) notify("No prompt is waiting: enter one");
    else if (this.#made(next)) player.seek(player.timeline.startOf(next.from_segment ?? 0, player.segmentSamples));
    else notify(`Plays ${this.#when(next, player.heard)}: ${next.prompt}`);
  }

  /** Whether its beginning is made already, so that it can be neither moved nor removed. @param {QueueItem} item */
  #made(item) {
    return item.from_segment !== null && item.from_segment <= (this.player.timeline.segments.at(-1)?.index ?? -1);
  }
}
