// @ts-check
// The player without its page: a session, its WebSocket, the segments that came, and the audio output.
import { makeSession, ServerError, steer, toLink } from "./api.js";
import { Sound } from "./sound.js";
import { Stream } from "./stream.js";
import { Timeline } from "./timeline.js";
/** @typedef {import("./page.d.ts").Choices} Choices */
/** @typedef {import("./types.d.ts").Settings} Settings */
/** @typedef {import("./types.d.ts").QueueItem} QueueItem */
/** @typedef {import("./page.d.ts").Segment} Segment */
/** @typedef {import("./page.d.ts").ServerMessage} ServerMessage */

const AHEAD = 3; // segments asked for beyond the one that plays
const PUSHED_S = 20; // audio pushed to the audio thread, longer than the page is ever busy
const STORAGE_KEY = "riffusion-player.session";

/** Events: "change" (anything to show), "segment" (detail: a Segment), "truncated" (detail: the Segment that replaces what follows its first sample), "cleared", "idle", "ended", "notice" (detail: a text to show). */
export class Player extends EventTarget {
  /** @param {Choices} choices */
  constructor(choices) {
    super();
    this.choices = choices;
    this.sound = new Sound(choices.rate_hz, choices.channels);
    this.timeline = new Timeline(choices.rate_hz, choices.channels);
    /** @type {Settings} */
    this.settings = { ...choices.settings };
    this.confirmed = this.settings;
    /** Choices that the server has not answered yet. @type {Set<Record<string, unknown>>} */
    this.asked = new Set();
    /** When the last of them was answered. @type {Promise<void>} */
    this.answered = Promise.resolve();
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
    this.linePosition = 0;
    this.behind = { behind: false, steps: 0 };
    this.why = "";
    this.cursor = 0; // the next sample to push
    this.target = 0; // where the last jump went
    this.startOffsetS = 0; // into the first segment of a link
    this.jumped = true; // the next piece does not follow the one before
    this.greeted = false; // whether the open socket has sent its hello
    this.delayS = choices.delay_s; // from asking to hearing, as measured last
    /** Changes that are not heard yet: when they were asked for, and the number of the change they are heard with. @type {{ ms: number, change: number }[]} */
    this.waiting = [];
    this.heardChanges = 0;
    /** Numbers of the changes that the audio thread was given and has not played yet. @type {number[]} */
    this.spliced = [];
    /** @type {Record<string, unknown> | null} */
    this.lastShare = null;
    this.creditSentMs = 0;
    this.sound.addEventListener("report", () => this.#tick());
    this.sound.addEventListener("state", () => this.#updateBlocked());
  }

  get rateHz() {
    return this.choices.rate_hz;
  }

  get owner() {
    return this.token !== "" || this.id === "";
  }

  /** The sample that is heard now. */
  get heard() {
    return this.sound.heard() ?? this.target;
  }

  /** The next sample to play, also while a jump is not carried out yet. */
  get position() {
    const { report, epoch } = this.sound;
    return report && report.epoch === epoch ? report.position : this.target;
  }

  /** The next sample that the audio thread takes, by the clock since it said so last. */
  get soon() {
    const { report, epoch, context } = this.sound;
    if (!report || !context || report.epoch !== epoch || !report.moving) return this.position;
    return report.position + Math.min(Math.max(context.currentTime - report.time, 0) * this.rateHz, report.buffered);
  }

  /** Seconds between what is heard and what would be heard if the listener had not gone back. */
  get behindLiveS() {
    return this.liveFrom === null ? 0 : Math.max(0, (this.liveFrom - this.position) / this.rateHz);
  }

  /** The sample that was heard before the listener went back; null while live. @type {number | null} */
  liveFrom = null;

  /** Play; must be called from a click or key. @param {Record<string, unknown>} [share] A moment to restore. @param {number} [offsetS] */
  async play(share, offsetS = 0) {
    await this.sound.open();
    const allowed = this.sound.play();
    if (!this.stream) {
      this.#setState("starting");
      await this.#begin(share ?? { ...this.settings }, offsetS);
    }
    const sounds = await allowed;
    if (!this.sound.on) return; // paused meanwhile
    this.#setState(!sounds ? "blocked" : this.sound.report?.played ? "playing" : "starting");
    this.#credit(true);
  }

  pause() {
    this.sound.pause();
    this.#setState("paused");
    this.#credit(true);
  }

  /** Listen along to someone else's session. @param {string} id */
  async listen(id) {
    await this.sound.open();
    const allowed = this.sound.play();
    this.#setState("starting");
    this.token = "";
    this.#connect(id);
    if (!(await allowed)) this.#setState("blocked");
  }

  /** Restore the session that this tab had before it was reloaded. */
  restoreSession() {
    try {
      const saved = JSON.parse(sessionStorage.getItem(STORAGE_KEY) ?? "null");
      if (saved) [this.id, this.token] = [saved.id, saved.token];
    } catch {
      // Without storage a reload begins a new session.
    }
  }

  /** Change settings, or the prompts: now, prompt, remove, next. @param {Record<string, unknown>} changes @returns {Promise<number | null>} The first segment with the change. */
  async steer(changes) {
    const { prompt, now, next: _next, remove: _remove, ...settings } = changes;
    if (!this.stream) {
      this.settings = { ...this.settings, ...settings };
      const first = now ?? prompt;
      if (typeof first === "string") this.settings.prompt = first;
      this.#changed();
      return null;
    }
    // A choice is shown at once, and undone if the server refuses it. Requests go one after another, so that the last choice wins.
    this.asked.add(settings);
    this.#confirm(this.confirmed);
    this.#changed();
    const askedMs = performance.now();
    const request = this.answered.then(() => steer(this.id, this.token, { ...changes, played_sample: Math.max(0, Math.round(this.soon)) }));
    this.answered = request.then(() => undefined, () => undefined);
    let answer;
    try {
      answer = await request;
    } catch (error) {
      this.asked.delete(settings);
      this.#confirm(this.confirmed);
      this.#changed();
      throw error;
    }
    this.asked.delete(settings);
    this.#confirm(answer.settings);
    this.queue = answer.queue;
    if (answer.change) this.waiting.push({ ms: askedMs, change: answer.change });
    this.#changed();
    return answer.takes_effect_at;
  }

  /** Take the server's settings; choices that it has not answered yet stand above them. @param {Settings} settings */
  #confirm(settings) {
    this.confirmed = settings;
    this.settings = Object.assign({ ...settings }, ...this.asked);
  }

  /** Go to a sample that is still kept. @param {number} sample */
  seek(sample) {
    const first = this.timeline.begin;
    const last = this.timeline.end;
    if (!this.timeline.segments.length) return;
    if (this.liveFrom === null || this.position > this.liveFrom) this.liveFrom = this.position;
    const target = Math.round(Math.min(Math.max(sample, first), Math.max(first, last - 0.1 * this.rateHz)));
    if (target >= this.liveFrom) this.liveFrom = null;
    this.sound.seek();
    [this.cursor, this.target] = [target, target];
    this.jumped = true;
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

  /** The page is visible again: reconnect and resume. */
  wake() {
    this.stream?.reconnectNow();
    if (this.sound.on && this.sound.blocked) this.sound.play().then(() => this.#updateBlocked());
  }

  /** Forget the session that ended and begin another one with the last moment that was heard. */
  restart() {
    this.stream?.close();
    this.stream = null;
    this.connection = "none";
    this.remember("", "");
    return this.play(this.lastShare ?? undefined);
  }

  /** @param {string} id @param {string} token */
  remember(id, token) {
    [this.id, this.token] = [id, token];
    try {
      if (token) sessionStorage.setItem(STORAGE_KEY, JSON.stringify({ id, token }));
      else sessionStorage.removeItem(STORAGE_KEY);
    } catch {
      // Without storage a reload begins a new session.
    }
  }

  /** @param {Record<string, unknown>} settings @param {number} offsetS */
  async #begin(settings, offsetS) {
    if (this.id && this.token) return this.#connect(this.id);
    let ticket = null;
    for (;;) {
      try {
        const created = await makeSession(ticket === null ? settings : { ...settings, ticket });
        this.remember(created.id, created.token);
        this.#confirm(created.settings);
        this.startOffsetS = offsetS;
        return this.#connect(created.id);
      } catch (error) {
        if (!(error instanceof ServerError) || error.status !== 503) {
          this.pause();
          this.#setState("ready");
          throw error;
        }
        ticket = error.body.ticket ?? null;
        this.connection = "full";
        this.linePosition = Number(error.body.position) || 0;
        this.#changed();
        await new Promise((resolve) => setTimeout(resolve, 1000 * Math.min(10, Number(error.body.retry_after_s) || 3)));
        if (!this.sound.on) return; // paused meanwhile
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
      this.#setConnection("lost");
    });
    stream.addEventListener("crowded", () => this.#ended("Too many listeners from this address", false));
    this.greeted = false;
    this.stream = stream;
  }

  #clear() {
    this.timeline.clear();
    this.sound.seek();
    [this.cursor, this.target] = [0, 0];
    this.jumped = true;
    this.liveFrom = null;
    this.queue = [];
    [this.waiting, this.spliced] = [[], []];
    this.dispatchEvent(new Event("cleared"));
  }

  /** The session has ended. @param {string} why @param {boolean} again Whether another one begins with the last moment that was heard. */
  #ended(why, again) {
    this.stream?.close();
    this.stream = null;
    this.remember("", "");
    this.why = why;
    this.dispatchEvent(new Event("ended"));
    this.#setConnection("gone");
    if (again && this.sound.on) this.play(this.lastShare ?? undefined).catch((error) => this.#notice(error.message));
    else this.pause();
  }

  /** @param {ServerMessage} message */
  #receive(message) {
    if (message.type === "hello") {
      this.segmentSamples = message.segment_samples;
      this.waiting = [];
      this.#confirm(message.settings);
      this.queue = message.queue;
      this.greeted = true;
      this.#setConnection("open");
      this.#credit(true);
    } else if (message.type === "queue") this.queue = message.queue;
    else if (message.type === "behind") this.behind = message;
    else if (message.type === "idle") this.dispatchEvent(new Event("idle"));
    else if (message.type === "gone") this.#ended(message.why || "The session has ended", this.token !== "" && !this.greeted);
    this.#changed();
  }

  /** @param {Segment} segment */
  #take(segment) {
    const newest = this.timeline.segments.at(-1);
    const replaces = newest !== undefined && segment.change > newest.change && segment.start_sample < this.timeline.end;
    if (replaces) {
      this.timeline.truncate(segment.start_sample);
      this.dispatchEvent(new CustomEvent("truncated", { detail: segment }));
    }
    const expected = this.timeline.end;
    if (!this.timeline.add(segment)) return;
    segment.discontinuity = this.timeline.segments.length > 1 ? segment.start_sample !== expected : segment.index > 0;
    if (this.timeline.segments.length === 1) {
      this.cursor = segment.start_sample + Math.min(Math.round(this.startOffsetS * this.rateHz), segment.n_samples - 1);
      this.startOffsetS = 0;
      this.target = this.cursor;
    }
    this.dispatchEvent(new CustomEvent("segment", { detail: segment }));
    if (replaces && this.cursor > segment.start_sample) {
      this.sound.splice(segment.start_sample, segment.pcm);
      this.cursor = segment.start_sample + segment.n_samples;
      this.spliced.push(segment.change);
    }
    this.#feed();
    this.#credit(true);
    this.#changed();
  }

  /** Push what the audio thread should have. */
  #feed() {
    while (this.cursor - this.position < PUSHED_S * this.rateHz) {
      const segment = this.timeline.from(this.cursor);
      if (!segment) return;
      const jumps = segment.start_sample > this.cursor;
      if (jumps) this.cursor = segment.start_sample;
      const offset = this.cursor - segment.start_sample;
      this.sound.push(this.cursor, segment.pcm.subarray(offset * this.choices.channels), jumps || this.jumped);
      this.jumped = false;
      this.cursor = segment.start_sample + segment.n_samples;
    }
  }

  #tick() {
    const report = this.sound.report;
    if (!report) return;
    if (this.liveFrom !== null && report.epoch === this.sound.epoch && report.position >= this.liveFrom) this.liveFrom = null;
    if (report.changes > this.heardChanges) this.#changeHeard(report.changes);
    if (report.played && this.state === "starting") this.#setState("playing");
    if (report.epoch === this.sound.epoch) this.lastShare = this.timeline.at(report.position)?.share ?? this.lastShare;
    this.#feed();
    this.#credit(false);
  }

  /** A change came out of the loudspeaker: note how long it took. @param {number} changes */
  #changeHeard(changes) {
    const numbers = this.spliced.splice(0, changes - this.heardChanges);
    this.heardChanges = changes;
    const number = numbers.at(-1);
    if (number === undefined) return;
    const heard = this.waiting.filter((one) => one.change <= number);
    this.waiting = this.waiting.filter((one) => one.change > number).slice(-50);
    if (!heard.length) return;
    this.delayS = Math.max(0, this.sound.changeMs - heard[heard.length - 1].ms) / 1000;
    this.#changed();
  }

  /** Tell the server how many segments to send. @param {boolean} now */
  #credit(now) {
    if (!now && performance.now() - this.creditSentMs < 500) return;
    this.creditSentMs = performance.now();
    const position = this.position;
    const ahead = this.sound.on ? Math.max(0, AHEAD - this.timeline.ahead(position)) : 0;
    this.stream?.send({ type: "credit", ahead, played_sample: Math.max(0, Math.round(this.soon)), paused: !this.sound.on });
  }

  #updateBlocked() {
    if (this.sound.blocked && this.state === "playing") this.#setState("blocked");
    else if (this.state === "blocked" && !this.sound.blocked) this.#setState("playing");
  }

  /** @param {string} connection */
  #setConnection(connection) {
    this.connection = connection;
    this.#changed();
  }

  /** @param {Player["state"]} state */
  #setState(state) {
    this.state = state;
    this.#changed();
  }

  /** @param {string} text */
  #notice(text) {
    this.dispatchEvent(new CustomEvent("notice", { detail: text }));
  }

  #changed() {
    this.dispatchEvent(new Event("change"));
  }
}
