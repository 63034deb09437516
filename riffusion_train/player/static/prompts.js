// @ts-check
// The road: what was played, what plays, and what comes next and when.
import { byId, button, icon, input, make, sayFault, say } from "./elements.js";
/** @typedef {import("./player.js").Player} Player */
/** @typedef {import("./types.d.ts").QueueItem} QueueItem */
/** @typedef {import("./types.d.ts").Segment} Segment */

const PAST_SHOWN = 24;

export class Prompts {
  /** @param {Player} player @param {(prompt: string) => void} ask Plays a prompt next. */
  constructor(player, ask) {
    this.player = player;
    this.ask = ask;
    this.shown = "";
    const words = input("words");
    words.maxLength = player.choices.limits.prompt_chars;
    byId("ask").addEventListener("submit", (event) => {
      event.preventDefault();
      const prompt = words.value.trim();
      if (!prompt) {
        words.focus();
        return;
      }
      words.value = "";
      ask(prompt);
    });
    button("dice").addEventListener("click", () => this.dice());
    player.addEventListener("change", () => this.show());
  }

  /** Put a good prompt into the field, another one each time. */
  dice() {
    const words = input("words");
    const others = this.player.choices.dice.filter((prompt) => prompt !== words.value && prompt !== byId("now-prompt").textContent);
    words.value = others[Math.floor(Math.random() * others.length)] ?? words.value;
    words.focus();
  }

  /** @param {number} heard @returns {Segment | null} */
  #segment(heard) {
    return this.player.timeline.at(heard) ?? this.player.timeline.segments.at(-1) ?? null;
  }

  /** Sort the queue by the ear, not by what is made already. @param {Segment | null} segment */
  #sorted(segment) {
    const { queue } = this.player;
    let current = queue.findIndex((item) => item.state === "playing");
    if (segment) queue.forEach((item, place) => { if (item.from_segment !== null && item.from_segment <= segment.index) current = place; });
    return { past: queue.slice(0, Math.max(current, 0)).slice(-PAST_SHOWN), coming: queue.slice(current + 1) };
  }

  show() {
    const { player } = this;
    const heard = player.heard;
    const segment = player.state === "ready" ? null : this.#segment(heard);
    const { past, coming } = this.#sorted(segment);
    this.#now(segment, heard);
    const signature = JSON.stringify([past.map((item) => item.id), coming.map((item) => [item.id, this.#made(item)]), player.owner]);
    if (signature !== this.shown) {
      this.shown = signature;
      this.#lists(past, coming);
    }
    byId("coming").querySelectorAll("li").forEach((line, place) => {
      const when = line.querySelector(".when");
      if (when) when.textContent = this.#when(coming[place], heard);
    });
    for (const id of ["words", "dice", "build", "send"]) button(id).disabled = !player.owner;
    input("words").placeholder = player.owner ? (innerWidth < 480 ? "What comes next?" : "What do you want to hear next?") : "You listen along; the host chooses";
  }

  /** @param {Segment | null} segment @param {number} heard */
  #now(segment, heard) {
    const { player } = this;
    const moving = segment !== null && segment.prompt_from !== segment.prompt_to;
    const prompt = segment ? segment.prompt_to : player.settings.prompt;
    const states = { ready: "To begin with", starting: "Getting the first clip ready", playing: moving ? "Coming in" : "Playing", paused: moving ? "Coming in, paused" : "Paused", blocked: "Waiting for you" };
    for (const [id, text] of [["now-prompt", prompt], ["now-state", states[player.state]]]) {
      if (byId(id).textContent !== text) byId(id).textContent = text;
    }
    byId("now").classList.toggle("is-moving", player.state === "playing");
    byId("way").hidden = !moving;
    document.title = player.state === "playing" ? `${prompt} · Riffusion` : "Riffusion";
    if (!moving || !segment) return;
    const inside = Math.min(1, Math.max(0, (heard - segment.start_sample) / segment.n_samples));
    const share = Math.min(1, segment.alpha + inside / Math.max(1, player.settings.clips));
    /** @type {HTMLElement | null} */ (byId("way-bar").firstElementChild)?.style.setProperty("width", `${(100 * share).toFixed(1)}%`);
    byId("way-words").textContent = `from ${segment.prompt_from}`;
  }

  /** @param {QueueItem[]} past @param {QueueItem[]} coming */
  #lists(past, coming) {
    const { player } = this;
    const again = (/** @type {QueueItem} */ item) => make("button", {
      type: "button", title: "Play it again", disabled: !player.owner, onclick: () => this.ask(item.prompt),
    }, item.prompt);
    byId("past").replaceChildren(...past.map((item) => make("li", {}, again(item))));
    byId("past").scrollTop = byId("past").scrollHeight;
    byId("coming").replaceChildren(...coming.map((item, place) => make("li", {},
      make("span", { class: "prompt" }, item.prompt),
      make("span", { class: "when" }),
      place > 0 && !this.#made(item) && !this.#made(coming[place - 1]) ? this.#tool("next", `Play next: ${item.prompt}`, { next: item.id }) : null,
      this.#made(item) ? null : this.#tool("close", `Take out: ${item.prompt}`, { remove: item.id }),
    )));
  }

  /** @param {string} sign @param {string} name @param {Record<string, string>} change */
  #tool(sign, name, change) {
    if (!this.player.owner) return null;
    const pressed = async () => {
      try {
        await this.player.steer(change);
        say(sign === "close" ? "Taken out" : "It comes next");
        input("words").focus();
      } catch (error) {
        sayFault(error);
      }
    };
    return make("button", { type: "button", "aria-label": name, title: name, class: "small", onclick: pressed }, icon(sign));
  }

  /** @param {QueueItem | undefined} item @param {number} heard */
  #when(item, heard) {
    if (!item) return "";
    if (item.from_segment === null) return "after that";
    const { timeline, segmentSamples, rateHz } = this.player;
    const seconds = Math.round((timeline.startOf(item.from_segment, segmentSamples) - heard) / rateHz);
    return seconds <= 0 ? "now" : seconds < 90 ? `in ${seconds} s` : `in ${Math.round(seconds / 60)} min`;
  }

  /** On to where the next prompt begins, if that is made already. */
  skip() {
    const { player } = this;
    const next = this.#sorted(this.#segment(player.heard)).coming[0];
    if (!next) say("Nothing waits: ask for something");
    else if (this.#made(next)) player.seek(player.timeline.startOf(next.from_segment ?? 0, player.segmentSamples));
    else say(`Comes ${this.#when(next, player.heard)}: ${next.prompt}`);
  }

  /** Whether its beginning is made, so that it can be neither moved nor taken out. @param {QueueItem} item */
  #made(item) {
    return item.from_segment !== null && item.from_segment <= (this.player.timeline.segments.at(-1)?.index ?? -1);
  }
}
