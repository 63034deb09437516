// @ts-check
// The model's own picture, moving with the sound: what is heard now lies under the line.
import { darkness, isDark, MAPS, table, ticks, warp } from "./colours.js";
/** @typedef {import("./types.d.ts").Segment} Segment */
/** @typedef {import("./types.d.ts").Choices} Choices */
/** @typedef {import("./colours.js").ScaleName} ScaleName */
/** @typedef {{ start: number, end: number, columns: number, rows: number, levels: Uint8Array, colours: Uint8ClampedArray | null, canvas: HTMLCanvasElement | null, version: number, from: string, to: string }} Tile */

const PX_PER_S = 56;
const LEAST_S = 7; // at phone width
const MARGIN = 192; // columns drawn ahead into the strip
const KEPT_TILES = 60; // five minutes of clips of five seconds
const STICKS_PX = 14;
const ROWS = 256; // where the frequency scale is not the picture's own

/** @param {number} width @param {number} height */
function canvasOf(width, height) {
  const canvas = document.createElement("canvas");
  [canvas.width, canvas.height] = [width, height];
  return canvas;
}

/** @param {HTMLCanvasElement} canvas */
const pen = (canvas) => /** @type {CanvasRenderingContext2D} */ (canvas.getContext("2d"));

export class Picture {
  /** @param {HTMLCanvasElement} canvas @param {Choices} choices @param {MediaQueryList} stillness */
  constructor(canvas, choices, stillness) {
    this.canvas = canvas;
    this.choices = choices;
    this.stillness = stillness;
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
    this.changed = true; // whether the next frame is another one though no time has passed
    this.epoch = 0;
    this.size = { width: 1, height: 1 };
    this.rows = choices.row_hz.length;
    this.places = warp("drawn", choices.row_hz, this.rows);
  }

  /** @param {string} map @param {ScaleName} scale */
  setLook(map, scale) {
    [this.map, this.scale] = [map in MAPS && map !== "auto" ? map : "ember", scale];
    this.colours = table(this.map);
    this.rows = scale === "drawn" ? this.choices.row_hz.length : Math.max(ROWS, this.choices.row_hz.length);
    this.places = warp(scale, this.choices.row_hz, this.rows);
    this.version += 1;
    this.#forget();
  }

  get dark() {
    return isDark(this.map);
  }

  get ticks() {
    return ticks(this.scale, this.choices.row_hz);
  }

  clear() {
    this.tiles = [];
    this.#forget();
    this.epoch += 1;
  }

  #forget() {
    this.stripFrom = NaN;
    this.changed = true;
  }

  /** @param {Segment} segment */
  async add(segment) {
    const epoch = this.epoch;
    const bitmap = await createImageBitmap(segment.png);
    if (epoch !== this.epoch) return;
    const drawn = canvasOf(bitmap.width, bitmap.height);
    pen(drawn).drawImage(bitmap, 0, 0);
    const image = pen(drawn).getImageData(0, 0, bitmap.width, bitmap.height);
    bitmap.close();
    this.tiles.push({
      start: segment.start_sample, end: segment.start_sample + segment.n_samples, columns: image.width, rows: image.height,
      levels: darkness(image, this.choices.planes), colours: this.choices.planes === "mono" ? null : image.data, canvas: null, version: -1,
      from: segment.prompt_from, to: segment.prompt_to,
    });
    this.tiles.sort((one, other) => one.start - other.start);
    if (this.tiles.length > KEPT_TILES) this.tiles.shift();
    this.#forget();
  }

  /** Whether there is a picture of a sample. @param {number} sample */
  has(sample) {
    return this.tiles.some((tile) => sample >= tile.start && sample < tile.end);
  }

  /** @param {Tile} tile @returns {HTMLCanvasElement} */
  #paint(tile) {
    const { columns, levels, colours, rows: height } = tile;
    const painted = new ImageData(columns, this.rows);
    const asDrawn = this.map === "drawn";
    for (let row = 0; row < this.rows; row += 1) {
      const place = this.places[row];
      const low = Math.min(Math.floor(place), height - 2);
      const share = place - low;
      const [upper, lower] = [(height - 2 - low) * columns, (height - 1 - low) * columns];
      for (let column = 0; column < columns; column += 1) {
        const to = 4 * (row * columns + column);
        if (asDrawn && colours) {
          for (let part = 0; part < 3; part += 1) {
            painted.data[to + part] = (1 - share) * colours[4 * (lower + column) + part] + share * colours[4 * (upper + column) + part];
          }
        } else {
          const level = 3 * Math.round((1 - share) * levels[lower + column] + share * levels[upper + column]);
          for (let part = 0; part < 3; part += 1) painted.data[to + part] = this.colours[level + part];
        }
        painted.data[to + 3] = 255;
      }
    }
    const canvas = canvasOf(columns, this.rows);
    pen(canvas).putImageData(painted, 0, 0);
    tile.version = this.version;
    return canvas;
  }

  /** Fit the canvas to its place on the page. */
  resize() {
    const ratio = Math.min(window.devicePixelRatio || 1, 2);
    const box = this.canvas.getBoundingClientRect();
    this.size = { width: Math.max(1, box.width), height: Math.max(1, box.height) };
    [this.canvas.width, this.canvas.height] = [Math.round(this.size.width * ratio), Math.round(this.size.height * ratio)];
    this.#forget();
  }

  get spanS() {
    return Math.max(LEAST_S, this.size.width / PX_PER_S);
  }

  /** Share of the width at which the line stands. */
  get line() {
    return this.size.width < 600 ? 0.58 : 0.66;
  }

  /** The moments at the left edge and of the line for what is heard. @param {number} heardS */
  #view(heardS) {
    if (!this.stillness.matches) return { leftS: heardS - this.line * this.spanS, line: this.line };
    // With reduced motion the picture stands, the line moves, and the page is turned.
    const page = Math.floor(heardS / (0.8 * this.spanS));
    const leftS = page * 0.8 * this.spanS - 0.1 * this.spanS;
    return { leftS, line: (heardS - leftS) / this.spanS };
  }

  /** The sample under a place of the canvas. @param {number} share Of its width. @param {number} heard */
  sampleAt(share, heard) {
    const { leftS } = this.#view(heard / this.choices.rate_hz);
    return (leftS + share * this.spanS) * this.choices.rate_hz;
  }

  /** Draw. @param {number} heard In samples. @returns {number} Where the line is, as a share of the width. */
  draw(heard) {
    this.changed = false;
    const { leftS, line } = this.#view(heard / this.choices.rate_hz);
    const context = pen(this.canvas);
    const { width, height } = this.canvas;
    const leftColumn = leftS * this.columnsPerS;
    const columns = this.spanS * this.columnsPerS;
    if (!(leftColumn - 1 >= this.stripFrom && leftColumn + columns + 1 <= this.stripFrom + this.strip.width)) this.#lay(leftColumn, columns);
    context.imageSmoothingQuality = "low"; // bilinear
    context.drawImage(this.strip, leftColumn - this.stripFrom, 0, columns, this.strip.height, 0, 0, width, height);
    // What comes is there already, but paler.
    context.fillStyle = this.dark ? "rgb(19 17 16 / .5)" : "rgb(251 250 247 / .5)";
    context.fillRect(line * width, 0, width, height);
    this.#marks(context, leftS);
    return line;
  }

  /** Lay the tiles beside one another, at their own size. @param {number} leftColumn @param {number} columns */
  #lay(leftColumn, columns) {
    this.stripFrom = Math.floor(leftColumn) - 8;
    this.strip = canvasOf(Math.ceil(columns) + MARGIN, this.rows);
    const context = pen(this.strip);
    context.fillStyle = MAPS[this.map].stops[0];
    context.fillRect(0, 0, this.strip.width, this.strip.height);
    for (const tile of this.tiles) {
      const from = Math.round(tile.start / this.choices.hop_length) - this.stripFrom;
      if (from > this.strip.width || from + tile.columns < 0) {
        tile.canvas = null; // painted again when it is looked at
        continue;
      }
      if (!tile.canvas || tile.version !== this.version) tile.canvas = this.#paint(tile);
      context.drawImage(tile.canvas, from, 0);
    }
  }

  /** Where a new prompt begins to take over, and the seconds. @param {CanvasRenderingContext2D} context @param {number} leftS */
  #marks(context, leftS) {
    const ratio = this.canvas.width / this.size.width;
    const { height } = this.size;
    context.save();
    context.scale(ratio, ratio);
    context.font = "13px system-ui, sans-serif";
    context.textBaseline = "middle";
    const begins = this.tiles.filter((tile, place) => {
      const before = this.tiles[place - 1];
      return tile.from !== tile.to && !(before && before.to === tile.to && before.from !== before.to);
    });
    const places = begins.map((tile) => Math.round(((tile.start / this.choices.rate_hz - leftS) / this.spanS) * this.size.width));
    begins.forEach((tile, number) => {
      const x = places[number];
      const next = places[number + 1] ?? Infinity;
      if (x > this.size.width || next < 0) return;
      const left = Math.max(x + 6, STICKS_PX); // the name of what plays stays until the next one pushes it out
      context.fillStyle = this.dark ? "rgb(255 255 255 / .55)" : "rgb(0 0 0 / .5)";
      context.fillRect(x, 0, 1, height);
      const room = Math.min(320, next - left - 24);
      let text = tile.to;
      while (text.length > 1 && context.measureText(`${text}…`).width > room) text = text.slice(0, -1);
      if (room < 40) return;
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
