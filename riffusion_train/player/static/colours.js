// @ts-check
// How intensity becomes colour, and frequency becomes height.
/** @typedef {import("./page.d.ts").Channels} Channels */

/** From silence to the loudest, as equidistant colours. "drawn" is the image as the model made it. @type {Record<string, { name: string, stops: string[] }>} */
export const MAPS = {
  auto: { name: "same as the page", stops: [] },
  ember: { name: "Ember", stops: ["#131110", "#1d1517", "#3a1620", "#6b1f22", "#a8391f", "#dd6a2b", "#f6ac5c", "#fdeacb"] },
  dawn: { name: "Dawn", stops: ["#fbfaf7", "#f8efe2", "#f4d7b4", "#eba671", "#d4693a", "#9a3418", "#551a12", "#1f0f0d"] },
  magma: { name: "Magma", stops: ["#000004", "#1d1147", "#51127c", "#822681", "#b73779", "#e75263", "#fc8961", "#fec488", "#fcfdbf"] },
  viridis: { name: "Viridis", stops: ["#440154", "#472d7b", "#3b528b", "#2c728e", "#21918c", "#28ae80", "#5ec962", "#addc30", "#fde725"] },
  ice: { name: "Ice", stops: ["#080c14", "#0d2136", "#12405c", "#1d6a86", "#3d9aa6", "#86c9c0", "#d2ece0", "#ffffff"] },
  drawn: { name: "Original, black on white", stops: ["#ffffff", "#000000"] },
};

export const SCALES = { drawn: "mel, as in the model", octaves: "octaves", even: "linear (Hz)" };
/** @typedef {keyof typeof SCALES} ScaleName */

/** @param {string} colour @returns {number[]} */
const parts = (colour) => [1, 3, 5].map((start) => Number.parseInt(colour.slice(start, start + 2), 16));

/** 256 colours, each as three bytes. @param {string} name */
export function table(name) {
  const stops = MAPS[name].stops.map(parts);
  const colours = new Uint8Array(256 * 3);
  for (let level = 0; level < 256; level += 1) {
    const position = (level / 255) * (stops.length - 1);
    const low = Math.min(Math.floor(position), stops.length - 2);
    for (let part = 0; part < 3; part += 1) colours[level * 3 + part] = stops[low][part] + (position - low) * (stops[low + 1][part] - stops[low][part]);
  }
  return colours;
}

/** Whether a map shows silence as dark: text on the image is then light. @param {string} name */
export const isDark = (name) => parts(MAPS[name].stops[0]).reduce((sum, part) => sum + part) < 384;

/** The intensity of each pixel, 0 for silence, which is white. @param {ImageData} image @param {Channels} channels */
export function intensity(image, channels) {
  const { data } = image;
  const levels = new Uint8Array(image.width * image.height);
  for (let pixel = 0; pixel < levels.length; pixel += 1) {
    const [red, green, blue] = [data[4 * pixel], data[4 * pixel + 1], data[4 * pixel + 2]];
    // Left and right are two of the three colour planes; in a mono image all three are the same.
    const white = channels === "stereo" ? (green + blue) / 2 : channels === "stereo_phase" ? (red + green) / 2 : (red + green + blue) / 3;
    levels[pixel] = 255 - white;
  }
  return levels;
}

/** For each row on screen, from the top, the fractional row of the model's image, from the bottom.
 * @param {ScaleName} scale @param {number[]} rowHz From the bottom. @param {number} rows */
export function sourceRows(scale, rowHz, rows) {
  const top = rowHz.length - 1;
  const source = new Float32Array(rows);
  const [low, high] = [Math.max(rowHz[0], 40), rowHz[top]];
  for (let row = 0; row < rows; row += 1) {
    const height = 1 - row / (rows - 1);
    if (scale === "drawn") source[row] = height * top;
    else source[row] = rowOf(scale === "even" ? rowHz[0] + height * (high - rowHz[0]) : low * (high / low) ** height, rowHz);
  }
  return source;
}

/** @param {number} hz @param {number[]} rowHz */
function rowOf(hz, rowHz) {
  const top = rowHz.length - 1;
  let row = 0;
  while (row < top - 1 && rowHz[row + 1] < hz) row += 1;
  const step = rowHz[row + 1] - rowHz[row];
  return Math.min(top, Math.max(0, step > 0 ? row + (hz - rowHz[row]) / step : row));
}

/** The labels of the frequency axis, with their height as a fraction from the bottom. @param {ScaleName} scale @param {number[]} rowHz */
export function ticks(scale, rowHz) {
  const top = rowHz.length - 1;
  const [low, high] = [Math.max(rowHz[0], 40), rowHz[top]];
  return [50, 100, 200, 500, 1000, 2000, 5000, 10000, 20000].map((hz) => ({
    text: hz >= 1000 ? `${hz / 1000} kHz` : `${hz} Hz`,
    height: scale === "drawn" ? rowOf(hz, rowHz) / top : scale === "even" ? (hz - rowHz[0]) / (high - rowHz[0]) : Math.log(hz / low) / Math.log(high / low),
    inside: hz > rowHz[0] && hz < high,
  })).filter((tick) => tick.inside && tick.height > 0.03 && tick.height < 0.97);
}
