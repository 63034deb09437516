// @ts-check
// The player without its page: a session, its socket, what came of it, and the sound that is made of that.
import { makeSession, Refusal, steer, toLink } from "./api.js";
import { Sound } from "./sound.js";
import { Stream } from "./stream.js";
import { Timeline } from "./timeline.js";
/** @typedef {import("./types.d.ts").Choices} Choices */
/** @typedef {import("./types.d.ts").Settings} Settings */
/** @typedef {import("./types.d.ts").QueueItem} QueueItem */
/** @typedef {import("./types.d.ts").Segment} Segment */
/** @typedef {import("./types.d.ts").ServerMessage} ServerMessage */

const AHEAD = 3; // segments asked for beyond the one that sounds
const HANDED_S = 20; // sound handed to the audio thread, more than any stall of the page
const KEPT_AS = "riffusion-player.session";

/** Events: "change" (anything to show), "segment" (detail: a Segment), "cleared", "idle", "ended", "words" (detail: a sentence to say). */
export class Player extends EventTarget {
  /** @param {Choices} choices */
  constructor(choices) {
    super();
    this.choices = choices;
    this.sound = new Sound(choices.rate_hz, choices.channels);
    this.timeline = new Timeline(choices.rate_hz, choices.channels);
    /** @type {Settings} */
    this.settings = { ...choices.settings };
    /** @type {QueueItem[]} */
    this.queue = [];
    /** @type {Stream | null} */
    this.stream = null;
    this.id = "";
    this.token = "";
    this.segmentSamples = Math.round(choices.segment_s * choices.rate_hz);
    /** @type {"ready" | "starting" | "playing" | "paused" | "blocked"} */
    this.state = "ready";
    this.connection = "none"; // none, open, lost, full, gone
    this.place = 0;
    this.behind = { behind: false, steps: 0 };
    this.why = "";
    this.cursor = 0; // the next sample to hand over
    this.aim = 0; // where the last jump went
    this.skipS = 0; // of the first segment of a link
    this.fresh = true;
    this.greeted = false; // by the socket that is open
    /** @type {Record<string, unknown> | null} */
    this.lastShare = null;
    this.creditAt = 0;
    this.sound.addEventListener("report", () => this.#tick());
    this.sound.addEventListener("state", () => this.#blockedOrNot());
  }

  get rateHz() {
    return this.choices.rate_hz;
  }

  get owner() {
    return this.token !== "" || this.id === "";
  }

  /** The sample that is heard now. */
  get heard() {
    return this.sound.heard() ?? this.aim;
  }

  /** The next sample to sound, also where a jump is not carried out yet. */
  get position() {
    const { report, epoch } = this.sound;
    return report && report.epoch === epoch ? report.position : this.aim;
  }

  /** Seconds between what is heard and what would be, had the listener not gone back. */
  get behindLiveS() {
    return this.liveFrom === null ? 0 : Math.max(0, (this.liveFrom - this.position) / this.rateHz);
  }

  /** Where the ear was before it went back; null while it is live. @type {number | null} */
  liveFrom = null;

  /** Play, from a click or key. @param {Record<string, unknown>} [share] A moment to restore. @param {number} [offsetS] */
  async play(share, offsetS = 0) {
    await this.sound.open();
    const sounding = this.sound.play();
    if (!this.stream) {
      this.#set("starting");
      await this.#begin(share ?? { ...this.settings }, offsetS);
    }
    const free = await sounding;
    if (!this.sound.on) return; // paused meanwhile
    this.#set(!free ? "blocked" : this.sound.report?.played ? "playing" : "starting");
    this.#credit(true);
  }

  pause() {
    this.sound.pause();
    this.#set("paused");
    this.#credit(true);
  }

  /** Listen along to somebody's session. @param {string} id */
  async listen(id) {
    await this.sound.open();
    const sounding = this.sound.play();
    this.#set("starting");
    this.token = "";
    this.#connect(id);
    if (!(await sounding)) this.#set("blocked");
  }

  /** Take up the session that this tab had before it was loaded again. */
  recall() {
    try {
      const kept = JSON.parse(sessionStorage.getItem(KEPT_AS) ?? "null");
      if (kept) [this.id, this.token] = [kept.id, kept.token];
    } catch {
      // Storage that is refused forgets.
    }
  }

  /** Change settings, or the queue: prompt, remove, next. @param {Record<string, unknown>} changes @returns {Promise<number | null>} The segment from which it is heard. */
  async steer(changes) {
    const { prompt, next: _next, remove: _remove, ...settings } = changes;
    const before = this.settings;
    // What was chosen is shown at once, and taken back where the server refuses it.
    this.settings = { ...before, ...settings };
    if (!this.stream) {
      if (typeof prompt === "string") this.settings.prompt = prompt;
      this.#changed();
      return null;
    }
    let answer;
    try {
      answer = await steer(this.id, this.token, changes);
    } catch (error) {
      this.settings = before;
      this.#changed();
      throw error;
    }
    this.settings = answer.settings;
    this.queue = answer.queue;
    this.#changed();
    return answer.takes_effect_at;
  }

  /** Go to a sample that is still there. @param {number} sample */
  seek(sample) {
    const first = this.timeline.begin;
    const last = this.timeline.end;
    if (!this.timeline.segments.length) return;
    if (this.liveFrom === null || this.position > this.liveFrom) this.liveFrom = this.position;
    const aim = Math.round(Math.min(Math.max(sample, first), Math.max(first, last - 0.1 * this.rateHz)));
    if (aim >= this.liveFrom) this.liveFrom = null;
    this.sound.seek();
    [this.cursor, this.aim] = [aim, aim];
    this.fresh = true;
    this.#feed();
    this.#credit(true);
    this.#changed();
  }

  goLive() {
    if (this.liveFrom !== null) this.seek(this.liveFrom);
    this.liveFrom = null;
    this.#changed();
  }

  /** A link to what is heard now. */
  link() {
    const segment = this.timeline.at(this.heard) ?? this.timeline.segments[0];
    return segment ? toLink(segment.share, (this.heard - segment.start_sample) / this.rateHz) : `${location.origin}${location.pathname}`;
  }

  stay() {
    this.stream?.send({ type: "stay" });
  }

  /** The page is seen again: what slept is woken. */
  wake() {
    this.stream?.hurry();
    if (this.sound.on && this.sound.blocked) this.sound.play().then(() => this.#blockedOrNot());
  }

  /** Forget the session that ended, so that play begins another where it was. */
  restart() {
    this.stream?.close();
    this.stream = null;
    this.connection = "none";
    this.keep("", "");
    return this.play(this.lastShare ?? undefined);
  }

  /** @param {string} id @param {string} token */
  keep(id, token) {
    [this.id, this.token] = [id, token];
    try {
      if (token) sessionStorage.setItem(KEPT_AS, JSON.stringify({ id, token }));
      else sessionStorage.removeItem(KEPT_AS);
    } catch {
      // Storage that is refused forgets.
    }
  }

  /** @param {Record<string, unknown>} settings @param {number} offsetS */
  async #begin(settings, offsetS) {
    if (this.id && this.token) return this.#connect(this.id);
    let ticket = null;
    for (;;) {
      try {
        const made = await makeSession(ticket === null ? settings : { ...settings, ticket });
        this.keep(made.id, made.token);
        this.settings = made.settings;
        this.skipS = offsetS;
        return this.#connect(made.id);
      } catch (error) {
        if (!(error instanceof Refusal) || error.status !== 503) {
          this.pause();
          this.#set("ready");
          throw error;
        }
        ticket = error.body.ticket ?? null;
        this.connection = "full";
        this.place = Number(error.body.position) || 0;
        this.#changed();
        await new Promise((resolve) => setTimeout(resolve, 1000 * Math.min(10, Number(error.body.retry_after_s) || 3)));
        if (!this.sound.on) return; // given up meanwhile
      }
    }
  }

  /** @param {string} id */
  #connect(id) {
    this.stream?.close();
    this.#clear();
    this.id = id;
    const stream = new Stream(id);
    stream.addEventListener("message", (event) => this.#receive(/** @type {CustomEvent<ServerMessage>} */ (event).detail));
    stream.addEventListener("segment", (event) => this.#take(/** @type {CustomEvent<Segment>} */ (event).detail));
    stream.addEventListener("lost", () => {
      this.greeted = false;
      this.#connected("lost");
    });
    stream.addEventListener("crowded", () => this.#ended("Too many listeners from this address", false));
    this.greeted = false;
    this.stream = stream;
  }

  #clear() {
    this.timeline.clear();
    this.sound.seek();
    [this.cursor, this.aim] = [0, 0];
    this.fresh = true;
    this.liveFrom = null;
    this.queue = [];
    this.dispatchEvent(new Event("cleared"));
  }

  /** The session is no more. @param {string} why @param {boolean} again Whether one of our own begins anew, from the last moment that was heard. */
  #ended(why, again) {
    this.stream?.close();
    this.stream = null;
    this.keep("", "");
    this.why = why;
    this.dispatchEvent(new Event("ended"));
    this.#connected("gone");
    if (again && this.sound.on) this.play(this.lastShare ?? undefined).catch((error) => this.say(error.message));
    else this.pause();
  }

  /** @param {ServerMessage} message */
  #receive(message) {
    if (message.type === "hello") {
      this.segmentSamples = message.segment_samples;
      this.settings = message.settings;
      this.queue = message.queue;
      this.greeted = true;
      this.#connected("open");
      this.#credit(true);
    } else if (message.type === "queue") this.queue = message.queue;
    else if (message.type === "behind") this.behind = message;
    else if (message.type === "idle") this.dispatchEvent(new Event("idle"));
    else if (message.type === "gone") this.#ended(message.why || "The session has ended", this.token !== "" && !this.greeted);
    this.#changed();
  }

  /** @param {Segment} segment */
  #take(segment) {
    const expected = this.timeline.end;
    if (!this.timeline.add(segment)) return;
    segment.discontinuity = this.timeline.segments.length > 1 ? segment.start_sample !== expected : segment.index > 0;
    if (this.timeline.segments.length === 1) {
      this.cursor = segment.start_sample + Math.min(Math.round(this.skipS * this.rateHz), segment.n_samples - 1);
      this.skipS = 0;
      this.aim = this.cursor;
    }
    this.dispatchEvent(new CustomEvent("segment", { detail: segment }));
    this.#feed();
    this.#credit(true);
    this.#changed();
  }

  /** Hand over what the audio thread should have. */
  #feed() {
    while (this.cursor - this.position < HANDED_S * this.rateHz) {
      const segment = this.timeline.from(this.cursor);
      if (!segment) return;
      const jumps = segment.start_sample > this.cursor;
      if (jumps) this.cursor = segment.start_sample;
      const offset = this.cursor - segment.start_sample;
      this.sound.push(this.cursor, segment.pcm.subarray(offset * this.choices.channels), jumps || this.fresh);
      this.fresh = false;
      this.cursor = segment.start_sample + segment.n_samples;
    }
  }

  #tick() {
    const report = this.sound.report;
    if (!report) return;
    if (this.liveFrom !== null && report.epoch === this.sound.epoch && report.position >= this.liveFrom) this.liveFrom = null;
    if (report.played && this.state === "starting") this.#set("playing");
    if (report.epoch === this.sound.epoch) this.lastShare = this.timeline.at(report.position)?.share ?? this.lastShare;
    this.#feed();
    this.#credit(false);
  }

  /** Say how many segments more are wanted. @param {boolean} now */
  #credit(now) {
    if (!now && performance.now() - this.creditAt < 500) return;
    this.creditAt = performance.now();
    const position = this.position;
    const wanted = this.sound.on ? Math.max(0, AHEAD - this.timeline.ahead(position)) : 0;
    this.stream?.send({ type: "credit", ahead: wanted, played_sample: Math.max(0, Math.round(position)) });
  }

  #blockedOrNot() {
    if (this.sound.blocked && this.state === "playing") this.#set("blocked");
    else if (this.state === "blocked" && !this.sound.blocked) this.#set("playing");
  }

  /** @param {string} connection */
  #connected(connection) {
    this.connection = connection;
    this.#changed();
  }

  /** @param {Player["state"]} state */
  #set(state) {
    this.state = state;
    this.#changed();
  }

  /** @param {string} words */
  say(words) {
    this.dispatchEvent(new CustomEvent("words", { detail: words }));
  }

  #changed() {
    this.dispatchEvent(new Event("change"));
  }
}
