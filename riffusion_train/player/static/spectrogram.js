// @ts-check
// The model's own image, moving with the sound: what is heard now is under the line.
import { intensity, isDark, MAPS, sourceRows, table, ticks } from "./colours.js";
/** @typedef {import("./page.d.ts").Segment} Segment */
/** @typedef {import("./page.d.ts").Choices} Choices */
/** @typedef {import("./colours.js").ScaleName} ScaleName */
/** @typedef {{ start: number, end: number, columns: number, shown: number, rows: number, levels: Uint8Array, colours: Uint8ClampedArray | null, canvas: HTMLCanvasElement | null, version: number, from: string, to: string }} Tile */

const PX_PER_S = 56;
const MIN_SPAN_S = 7; // at phone width
const MARGIN = 192; // columns drawn ahead into the strip
const KEPT_TILES = 60; // five minutes of clips of five seconds
const KEPT_CUTS = 20;
const LABEL_LEFT_PX = 14;
const ROWS = 256; // where the frequency scale is not the image's own

/** @param {number} width @param {number} height */
function canvasOf(width, height) {
  const canvas = document.createElement("canvas");
  [canvas.width, canvas.height] = [width, height];
  return canvas;
}

/** @param {HTMLCanvasElement} canvas */
const contextOf = (canvas) => /** @type {CanvasRenderingContext2D} */ (canvas.getContext("2d"));

export class Spectrogram {
  /** @param {HTMLCanvasElement} canvas @param {Choices} choices @param {MediaQueryList} reducedMotion */
  constructor(canvas, choices, reducedMotion) {
    this.canvas = canvas;
    this.choices = choices;
    this.reducedMotion = reducedMotion;
    this.columnsPerS = choices.rate_hz / choices.hop_length;
    /** @type {Tile[]} */
    this.tiles = [];
    this.map = "ember";
    /** @type {ScaleName} */
    this.scale = "drawn";
    this.version = 0;
    this.colours = table("ember");
    this.strip = canvasOf(1, 1);
    this.stripFrom = NaN;
    this.changed = true; // whether the next frame differs although no time has passed
    this.epoch = 0;
    /** @type {{ sample: number, change: number }[]} */
    this.cuts = [];
    this.size = { width: 1, height: 1 };
    this.rows = choices.row_hz.length;
    this.sourceRows = sourceRows("drawn", choices.row_hz, this.rows);
  }

  /** @param {string} map @param {ScaleName} scale */
  setLook(map, scale) {
    [this.map, this.scale] = [map in MAPS && map !== "auto" ? map : "ember", scale];
    this.colours = table(this.map);
    this.rows = scale === "drawn" ? this.choices.row_hz.length : Math.max(ROWS, this.choices.row_hz.length);
    this.sourceRows = sourceRows(scale, this.choices.row_hz, this.rows);
    this.version += 1;
    this.#redraw();
  }

  get dark() {
    return isDark(this.map);
  }

  get ticks() {
    return ticks(this.scale, this.choices.row_hz);
  }

  clear() {
    [this.tiles, this.cuts] = [[], []];
    this.#redraw();
    this.epoch += 1;
  }

  #redraw() {
    this.stripFrom = NaN;
    this.changed = true;
  }

  /** @param {Segment} segment */
  async add(segment) {
    const epoch = this.epoch;
    const bitmap = await createImageBitmap(segment.png);
    if (epoch !== this.epoch) return;
    const decoded = canvasOf(bitmap.width, bitmap.height);
    contextOf(decoded).drawImage(bitmap, 0, 0);
    const image = contextOf(decoded).getImageData(0, 0, bitmap.width, bitmap.height);
    bitmap.close();
    const start = segment.start_sample;
    const end = this.cuts.filter((cut) => segment.change < cut.change).reduce((least, cut) => Math.min(least, cut.sample), start + segment.n_samples);
    if (end <= start) return;
    this.tiles.push({
      start, end, columns: image.width, shown: Math.round((end - start) / this.choices.hop_length), rows: image.height,
      levels: intensity(image, this.choices.planes), colours: this.choices.planes === "mono" ? null : image.data, canvas: null, version: -1,
      from: segment.prompt_from, to: segment.prompt_to,
    });
    this.tiles.sort((one, other) => one.start - other.start);
    if (this.tiles.length > KEPT_TILES) this.tiles.shift();
    this.#redraw();
  }

  /** Drop the images from a sample on, and those before the change that are still being read. @param {number} sample @param {number} change Its number. */
  truncate(sample, change) {
    this.tiles = this.tiles.filter((tile) => tile.start < sample);
    for (const tile of this.tiles) {
      if (tile.end <= sample) continue;
      tile.end = sample;
      tile.shown = Math.round((sample - tile.start) / this.choices.hop_length);
    }
    this.cuts = [...this.cuts.slice(-KEPT_CUTS), { sample, change }];
    this.#redraw();
  }

  /** Whether there is an image of a sample. @param {number} sample */
  has(sample) {
    return this.tiles.some((tile) => sample >= tile.start && sample < tile.end);
  }

  /** @param {Tile} tile @returns {HTMLCanvasElement} */
  #paint(tile) {
    const { columns, levels, colours, rows: height } = tile;
    const painted = new ImageData(columns, this.rows);
    const original = this.map === "drawn";
    for (let row = 0; row < this.rows; row += 1) {
      const source = this.sourceRows[row];
      const low = Math.min(Math.floor(source), height - 2);
      const fraction = source - low;
      const [upper, lower] = [(height - 2 - low) * columns, (height - 1 - low) * columns];
      for (let column = 0; column < columns; column += 1) {
        const to = 4 * (row * columns + column);
        if (original && colours) {
          for (let part = 0; part < 3; part += 1) {
            painted.data[to + part] = (1 - fraction) * colours[4 * (lower + column) + part] + fraction * colours[4 * (upper + column) + part];
          }
        } else {
          const level = 3 * Math.round((1 - fraction) * levels[lower + column] + fraction * levels[upper + column]);
          for (let part = 0; part < 3; part += 1) painted.data[to + part] = this.colours[level + part];
        }
        painted.data[to + 3] = 255;
      }
    }
    const canvas = canvasOf(columns, this.rows);
    contextOf(canvas).putImageData(painted, 0, 0);
    tile.version = this.version;
    return canvas;
  }

  /** Fit the canvas to its size on the page. */
  resize() {
    const ratio = Math.min(window.devicePixelRatio || 1, 2);
    const box = this.canvas.getBoundingClientRect();
    this.size = { width: Math.max(1, box.width), height: Math.max(1, box.height) };
    [this.canvas.width, this.canvas.height] = [Math.round(this.size.width * ratio), Math.round(this.size.height * ratio)];
    this.#redraw();
  }

  get spanS() {
    return Math.max(MIN_SPAN_S, this.size.width / PX_PER_S);
  }

  /** Where the line is, as a fraction of the width. */
  get line() {
    return this.size.width < 600 ? 0.58 : 0.66;
  }

  /** The time at the left edge, and where the line is, for the time that is heard. @param {number} heardS */
  #view(heardS) {
    if (!this.reducedMotion.matches) return { leftS: heardS - this.line * this.spanS, line: this.line };
    // With reduced motion the image stands still, the line moves, and the image changes page by page.
    const page = Math.floor(heardS / (0.8 * this.spanS));
    const leftS = page * 0.8 * this.spanS - 0.1 * this.spanS;
    return { leftS, line: (heardS - leftS) / this.spanS };
  }

  /** The sample at a point of the canvas. @param {number} fraction Of its width. @param {number} heard */
  sampleAt(fraction, heard) {
    const { leftS } = this.#view(heard / this.choices.rate_hz);
    return (leftS + fraction * this.spanS) * this.choices.rate_hz;
  }

  /** Draw. @param {number} heard In samples. @returns {number} Where the line is, as a fraction of the width. */
  draw(heard) {
    this.changed = false;
    const { leftS, line } = this.#view(heard / this.choices.rate_hz);
    const context = contextOf(this.canvas);
    const { width, height } = this.canvas;
    const leftColumn = leftS * this.columnsPerS;
    const columns = this.spanS * this.columnsPerS;
    if (!(leftColumn - 1 >= this.stripFrom && leftColumn + columns + 1 <= this.stripFrom + this.strip.width)) this.#layOut(leftColumn, columns);
    context.imageSmoothingQuality = "low"; // bilinear
    context.drawImage(this.strip, leftColumn - this.stripFrom, 0, columns, this.strip.height, 0, 0, width, height);
    // What is not heard yet is shown paler.
    context.fillStyle = this.dark ? "rgb(19 17 16 / .5)" : "rgb(251 250 247 / .5)";
    context.fillRect(line * width, 0, width, height);
    this.#marks(context, leftS);
    return line;
  }

  /** Draw the tiles side by side, at their own size. @param {number} leftColumn @param {number} columns */
  #layOut(leftColumn, columns) {
    this.stripFrom = Math.floor(leftColumn) - 8;
    this.strip = canvasOf(Math.ceil(columns) + MARGIN, this.rows);
    const context = contextOf(this.strip);
    context.fillStyle = MAPS[this.map].stops[0];
    context.fillRect(0, 0, this.strip.width, this.strip.height);
    for (const tile of this.tiles) {
      const from = Math.round(tile.start / this.choices.hop_length) - this.stripFrom;
      if (from > this.strip.width || from + tile.shown < 0) {
        tile.canvas = null; // painted again when it is visible
        continue;
      }
      if (!tile.canvas || tile.version !== this.version) tile.canvas = this.#paint(tile);
      context.drawImage(tile.canvas, 0, 0, tile.shown, this.rows, from, 0, tile.shown, this.rows);
    }
  }

  /** Mark where the transition to a new prompt begins. @param {CanvasRenderingContext2D} context @param {number} leftS */
  #marks(context, leftS) {
    const ratio = this.canvas.width / this.size.width;
    const { height } = this.size;
    context.save();
    context.scale(ratio, ratio);
    context.font = "13px system-ui, sans-serif";
    context.textBaseline = "middle";
    const begins = this.tiles.filter((tile, index) => {
      const before = this.tiles[index - 1];
      return tile.from !== tile.to && !(before && before.to === tile.to && before.from !== before.to);
    });
    const positions = begins.map((tile) => Math.round(((tile.start / this.choices.rate_hz - leftS) / this.spanS) * this.size.width));
    begins.forEach((tile, index) => {
      const x = positions[index];
      const next = positions[index + 1] ?? Infinity;
      if (x > this.size.width || next < 0) return;
      const left = Math.max(x + 6, LABEL_LEFT_PX); // the current prompt stays visible until the next one replaces it
      context.fillStyle = this.dark ? "rgb(255 255 255 / .55)" : "rgb(0 0 0 / .5)";
      context.fillRect(x, 0, 1, height);
      const labelWidth = Math.min(320, next - left - 24);
      let text = tile.to;
      while (text.length > 1 && context.measureText(`${text}…`).width > labelWidth) text = text.slice(0, -1);
      if (labelWidth < 40) return;
      if (text !== tile.to) text = `${text.trimEnd()}…`;
      context.fillStyle = this.dark ? "rgb(19 17 16 / .82)" : "rgb(251 250 247 / .9)";
      context.beginPath();
      context.roundRect(left, 10, context.measureText(text).width + 16, 24, 12);
      context.fill();
      context.fillStyle = this.dark ? "#f4eee4" : "#1d1c1a";
      context.fillText(text, left + 8, 22.5);
    });
    context.restore();
  }
}
