// @ts-check
// The audio thread: plays pieces one after another, to the sample, and never stops abruptly.
/** @typedef {import("./page.d.ts").WorkletMessage} WorkletMessage */
/** @typedef {{ epoch: number, start: number, channels: Float32Array[], fade: boolean, changed?: number }} Piece `changed`: the first sample that a change has changed. */

const RAMP_S = 0.01; // when playing and pausing
const JUMP_FADE_S = 0.05; // out of and into a piece that does not follow the one before
const TAIL_S = 0.06; // fade from the last samples to their echo, and back
const GRAIN_S = 0.4;
const MEMORY_S = 3;
const HOLD_S = 1; // the echo stays this long, then it fades
const FADE_S = 2;
const REPORTS_PER_S = 40;
const LATE_FADE_S = 0.03; // into a change that comes too late for its first sample
const SAME = 1e-4; // samples that differ less are the same
const CHANGE_S = 0.1; // steps so soon after the first sample of a change count as those of changes

class Echo {
  /** Sustains what was played last, by overlapping grains of it, while nothing new comes. */
  constructor() {
    this.length = Math.round(MEMORY_S * sampleRate);
    /** @type {Float32Array[]} */
    this.memory = [0, 1].map(() => new Float32Array(this.length));
    this.written = 0;
    this.grain = 2 * Math.round((GRAIN_S * sampleRate) / 2);
    this.end = 0;
    this.age = 0; // frames sustained since the audio ran out
    this.count = 1;
    /** @type {[number, number]} */
    this.from = [-1, -1];
  }

  restart() {
    this.end = this.written;
    this.age = 0;
    this.count = 1;
    this.from = [this.#start(0), this.#start(1)];
  }

  /** @param {number} left @param {number} right */
  remember(left, right) {
    const index = this.written % this.length;
    this.memory[0][index] = left;
    this.memory[1][index] = right;
    this.written += 1;
  }

  /** Where a grain begins: each a little earlier than the last, back and forth. @param {number} count */
  #start(count) {
    const span = Math.min(this.written, this.length) - this.grain - Math.round(TAIL_S * sampleRate) - 1;
    if (span <= 0) return -1;
    const back = count * 0.23 * this.grain;
    const folded = span - Math.abs((back % (2 * span)) - span);
    return this.end - this.grain - Math.round(folded);
  }

  /** @param {number[]} into Adds one frame. @param {number} weight */
  add(into, weight) {
    const half = this.grain / 2;
    const phase = this.age % half;
    if (this.age > 0 && phase === 0) {
      this.count += 1;
      this.from = [this.from[1], this.#start(this.count)];
    }
    const fraction = Math.sin((Math.PI / 2) * (phase / half)) ** 2;
    const seconds = this.age / sampleRate;
    const level = weight * (seconds < HOLD_S ? 1 : Math.exp((HOLD_S - seconds) / FADE_S));
    this.age += 1;
    if (this.from[0] < 0 || this.from[1] < 0 || level < 1e-4) return;
    const [old, young] = [(this.from[0] + half + phase) % this.length, (this.from[1] + phase) % this.length];
    for (let channel = 0; channel < 2; channel += 1) {
      const memory = this.memory[channel];
      into[channel] += level * (memory[old] * (1 - fraction) + memory[young] * fraction);
    }
  }
}

class Player extends AudioWorkletProcessor {
  constructor() {
    super();
    /** @type {Piece[]} */
    this.queue = [];
    this.offset = 0;
    this.total = 0; // samples in the queue, those of the head that were played included
    this.epoch = 0;
    this.running = false;
    this.level = 0;
    this.starvation = 1;
    this.starved = true;
    this.sinceJump = Infinity; // samples since a piece began that does not follow the one before
    this.echo = new Echo();
    this.frame = [0, 0];
    this.last = [0, 0];
    this.untilReport = 0;
    this.steady = 0;
    this.index = 0; // of the frame in its quantum
    this.report = {
      position: 0, played: 0, time: 0, buffered: 0, moving: false, starving: false, underruns: 0, held: 0, boundaries: 0, boundaryStep: 0, insideStep: 0, epoch: 0,
      changes: 0, changeTime: 0, changeStep: 0, late: 0,
    };
    this.port.onmessage = (event) => this.#receive(event.data);
  }

  /** @param {WorkletMessage} message */
  #receive(message) {
    if (message.type === "run") this.running = message.on;
    else if (message.type === "seek") this.epoch = message.epoch;
    else if (message.type === "splice") this.#splice(message);
    else if (message.epoch >= this.epoch && message.channels[0].length > 0) {
      this.queue.push(message);
      this.total += message.channels[0].length;
    }
    if (message.type === "run") this.untilReport = 0;
  }

  /** Play a piece instead of everything from its first sample on. @param {Piece} piece */
  #splice(piece) {
    if (piece.epoch < this.epoch || piece.channels[0].length === 0) return;
    const head = this.queue.find((one) => one.epoch === piece.epoch);
    const position = head ? head.start + (head === this.queue[0] ? this.offset : 0) : this.report.epoch === piece.epoch ? this.report.position : piece.start;
    const late = Math.max(0, position - piece.start);
    if (late >= piece.channels[0].length) {
      // All of it should have been heard already: what was to come instead is not heard either.
      this.#cut(piece.epoch, position);
      this.report.late += 1;
      this.report.changes += 1;
      this.report.changeTime = currentTime;
      return;
    }
    const from = Math.max(position, piece.start);
    const channels = piece.channels.map((samples) => samples.slice(late));
    const old = this.#cut(piece.epoch, from);
    const known = old.length ? old[0].length : 0;
    if (late > 0) {
      // It should have been heard already: what plays is crossfaded into it.
      this.report.late += 1;
      const fade = Math.min(Math.round(LATE_FADE_S * sampleRate), known, channels[0].length);
      channels.forEach((samples, channel) => {
        for (let index = 0; index < fade; index += 1) {
          const share = Math.sin((Math.PI / 2) * (index / fade)) ** 2;
          samples[index] = old[Math.min(channel, old.length - 1)][index] * (1 - share) + samples[index] * share;
        }
      });
    }
    let changed = 0;
    while (changed < known && changed < channels[0].length && Math.abs(channels[0][changed] - old[0][changed]) < SAME) changed += 1;
    changed = Math.min(changed, channels[0].length - 1);
    this.queue.push({ epoch: piece.epoch, start: from, channels, fade: known === 0, changed });
    this.total += channels[0].length;
  }

  /** Drop what is to be played from a sample on, and return it as far as it is in one piece. @param {number} epoch @param {number} sample @returns {Float32Array[]} */
  #cut(epoch, sample) {
    /** @type {Float32Array[]} */
    let old = [];
    const kept = [];
    for (const [index, piece] of this.queue.entries()) {
      const length = piece.channels[0].length;
      const left = sample - piece.start; // samples of it that stay
      if (piece.epoch !== epoch || left >= length) {
        kept.push(piece);
        continue;
      }
      if (!old.length) old = piece.channels.map((samples) => samples.slice(Math.max(left, 0)));
      this.total -= length;
      if (left <= 0 || (index === 0 && left <= this.offset)) {
        if (index === 0) this.offset = 0;
        continue;
      }
      kept.push({ ...piece, channels: piece.channels.map((samples) => samples.slice(0, left)) });
      this.total += left;
    }
    this.queue = kept;
    return old;
  }

  /** Drop what was to be played before a jump. */
  #drop() {
    while (this.queue.length && this.queue[0].epoch < this.epoch) this.#next();
    this.sinceJump = 0;
  }

  #next() {
    this.total -= this.queue[0].channels[0].length;
    this.queue.shift();
    this.offset = 0;
  }

  /** The gain of the next sample, given jumps before and after it. @param {Piece} head @param {number} left */
  #limit(head, left) {
    const fade = JUMP_FADE_S * sampleRate;
    const inHead = head.channels[0].length - this.offset;
    let limit = this.sinceJump < fade ? this.sinceJump / fade : 1;
    if (inHead < fade && inHead < left && this.queue[1].fade) limit = Math.min(limit, inHead / fade);
    return limit;
  }

  /** Put the next frame into `this.frame`. @returns {boolean} Whether a sample was played. */
  #take() {
    const frame = this.frame;
    frame[0] = 0;
    frame[1] = 0;
    if (this.level === 0 && this.queue.length && this.queue[0].epoch < this.epoch) this.#drop();
    const head = this.queue[0];
    const playing = this.running && (!head || head.epoch === this.epoch);
    this.level = Math.min(1, Math.max(0, this.level + (playing ? 1 : -1) / (RAMP_S * sampleRate)));
    if (this.level === 0) return false;
    const left = this.total - this.offset;
    const tail = TAIL_S * sampleRate;
    if (left < tail) {
      if (!this.starved && this.starvation === 0) this.echo.restart();
      this.starvation = Math.max(this.starvation, 1 - left / tail);
    } else this.starvation = Math.max(0, this.starvation - 1 / tail);
    if (this.starvation > 0) this.echo.add(frame, this.level * this.starvation);
    if (!head) {
      if (!this.starved) this.report.underruns += 1;
      this.starved = true;
      this.report.held += this.report.played > 0 ? 1 : 0;
      return false;
    }
    this.starved = false;
    if (this.offset === 0 && head.fade) this.sinceJump = 0;
    const limit = this.#limit(head, left);
    const [first, second] = [head.channels[0], head.channels[head.channels.length - 1]];
    const gain = this.level * limit * (1 - this.starvation);
    this.echo.remember(first[this.offset] * limit, second[this.offset] * limit);
    frame[0] += gain * first[this.offset];
    frame[1] += gain * second[this.offset];
    this.#measure(gain === 1, this.offset === 0, head);
    this.offset += 1;
    this.sinceJump += 1;
    this.report.played += 1;
    this.report.position = head.start + this.offset;
    if (this.offset === first.length) this.#next();
    return true;
  }

  /** Keep the largest steps from a sample to the next, at boundaries, at changes and inside pieces, where nothing fades. @param {boolean} plain @param {boolean} atBoundary @param {Piece} head */
  #measure(plain, atBoundary, head) {
    const report = this.report;
    this.steady = plain ? this.steady + 1 : 0;
    if (this.steady > 1) {
      const step = Math.max(Math.abs(this.frame[0] - this.last[0]), Math.abs(this.frame[1] - this.last[1]));
      if (head.changed !== undefined && this.offset < CHANGE_S * sampleRate) report.changeStep = Math.max(report.changeStep, step);
      else if (atBoundary) {
        report.boundaries += 1;
        report.boundaryStep = Math.max(report.boundaryStep, step);
      } else report.insideStep = Math.max(report.insideStep, step);
    }
    if (this.offset === head.changed) {
      report.changes += 1;
      report.changeTime = currentTime + this.index / sampleRate;
    }
    this.last[0] = this.frame[0];
    this.last[1] = this.frame[1];
  }

  /** @param {Float32Array[][]} _inputs @param {Float32Array[][]} outputs */
  process(_inputs, outputs) {
    const out = outputs[0];
    const frames = out[0].length;
    for (let index = 0; index < frames; index += 1) {
      this.index = index;
      if (!this.#take()) this.steady = 0;
      if (out.length > 1) {
        out[0][index] = this.frame[0];
        out[1][index] = this.frame[1];
      } else out[0][index] = (this.frame[0] + this.frame[1]) / 2;
    }
    this.untilReport -= frames;
    if (this.untilReport <= 0) {
      this.untilReport = sampleRate / REPORTS_PER_S;
      const report = this.report;
      report.time = currentTime + frames / sampleRate;
      report.buffered = this.total - this.offset;
      report.moving = this.level > 0 && this.queue.length > 0;
      report.starving = this.running && this.starvation > 0 && report.played > 0;
      report.epoch = this.queue.length ? this.queue[0].epoch : this.epoch;
      this.port.postMessage(report);
    }
    return true;
  }
}

registerProcessor("riffusion-player", Player);
