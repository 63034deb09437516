// @ts-check
// The segments that the page has: the last minutes, bounded, to play, draw and play again.
/** @typedef {import("./page.d.ts").Segment} Segment */

const KEPT_S = 300;
const KEPT_BYTES = 64e6;

export class Timeline {
  /** @param {number} rateHz @param {number} channels */
  constructor(rateHz, channels) {
    this.rateHz = rateHz;
    this.channels = channels;
    /** @type {Segment[]} */
    this.segments = [];
    this.bytes = 0;
  }

  /** The sample that the next segment should begin with. */
  get end() {
    const last = this.segments.at(-1);
    return last ? last.start_sample + last.n_samples : 0;
  }

  get begin() {
    return this.segments[0]?.start_sample ?? 0;
  }

  /** @param {Segment} segment @returns {boolean} Whether it is new. */
  add(segment) {
    if (this.segments.length && segment.start_sample < this.end) return false;
    this.segments.push(segment);
    this.bytes += segment.pcm.byteLength;
    while (this.segments.length > 4 && (this.end - this.segments[1].start_sample > KEPT_S * this.rateHz || this.bytes > KEPT_BYTES)) {
      const dropped = this.segments.shift();
      if (dropped) this.bytes -= dropped.pcm.byteLength;
    }
    return true;
  }

  /** Drop everything from a sample on. @param {number} sample */
  truncate(sample) {
    this.segments = this.segments.filter((one) => one.start_sample < sample);
    const last = this.segments.at(-1);
    if (last && last.start_sample + last.n_samples > sample) {
      const count = sample - last.start_sample;
      this.segments[this.segments.length - 1] = { ...last, n_samples: count, pcm: last.pcm.slice(0, count * this.channels) };
    }
    this.bytes = this.segments.reduce((sum, one) => sum + one.pcm.byteLength, 0);
  }

  clear() {
    this.segments = [];
    this.bytes = 0;
  }

  /** The segment that contains a sample. @param {number} sample @returns {Segment | null} */
  at(sample) {
    return this.segments.find((one) => sample >= one.start_sample && sample < one.start_sample + one.n_samples) ?? null;
  }

  /** The segment that contains a sample, or the first after it. @param {number} sample @returns {Segment | null} */
  from(sample) {
    return this.segments.find((one) => sample < one.start_sample + one.n_samples) ?? null;
  }

  /** Number of segments that begin after a sample. @param {number} sample */
  ahead(sample) {
    return this.segments.filter((one) => one.start_sample > sample).length;
  }

  /** Where a segment that may not be made yet begins. @param {number} index @param {number} segmentSamples */
  startOf(index, segmentSamples) {
    const known = this.segments.find((one) => one.index === index);
    if (known) return known.start_sample;
    const last = this.segments.at(-1);
    return last ? last.start_sample + last.n_samples + (index - last.index - 1) * segmentSamples : index * segmentSamples;
  }
}
