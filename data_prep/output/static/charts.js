// Charts of the tracks' attributes. Each bar is a button that filters; bars of one chart add up, charts narrow each other.
const MOST_BARS = 12;
const MOST_COLUMNS = 11;
const STOP_WORDS = new Set("a an and as at by for from in into is it its of on or the this to with without that are be no featuring built around close piece".split(" "));
const LABELS = { bpm: "Tempo", tempo: "Tempo", loudness: "Loudness in words" };
const UNITS = { bpm: "bpm", tempo: "bpm" };
const labelOf = (name) => LABELS[name] || name.charAt(0).toUpperCase() + name.slice(1).replaceAll("_", " ");
const chosen = new Map(); // chart -> the keys of its pressed bars
const view = { search: "", group: "" };

/** A step of 1, 2 or 5 times a power of ten with which the values fill at most `most` columns. */
function niceStep(span, most) {
  const rough = Math.max(span, 1e-9) / most, power = 10 ** Math.floor(Math.log10(rough));
  return power * [1, 2, 5, 10].find((factor) => power * factor >= rough - 1e-12);
}

function numberChart(name, label, unit, valueOf) {
  const values = site.tracks.map(valueOf).filter((value) => Number.isFinite(value));
  if (!values.length) return null;
  const low = Math.min(...values), high = Math.max(...values);
  let step = high > low ? niceStep(high - low, MOST_COLUMNS - 1) : 1;
  const first = Math.floor(low / step + 1e-9), last = Math.floor(high / step + 1e-9);
  const bars = [];
  const digits = Math.max(0, -Math.floor(Math.log10(step) + 1e-9));
  for (let bin = first; bin <= last; bin += 1) {
    const from = (bin * step).toFixed(digits), to = ((bin + 1) * step).toFixed(digits);
    bars.push({ key: String(bin), label: from.replace("-", "−"), long: `${from} to ${to} ${unit}`.trim() });
  }
  return { name, label, unit, kind: "columns", bars, keysOf: (track) => {
    const value = valueOf(track);
    return Number.isFinite(value) ? [String(Math.floor(value / step + 1e-9))] : [];
  } };
}

function listChart(name, label, keysOf, { most = MOST_BARS, order = null, least = 1 } = {}) {
  const counts = new Map();
  for (const track of site.tracks) for (const key of new Set(keysOf(track))) counts.set(key, (counts.get(key) || 0) + 1);
  let keys = [...counts.keys()].filter((key) => counts.get(key) >= least);
  if (!keys.length) return null;
  keys.sort((one, other) => (order ? order.indexOf(one) - order.indexOf(other) : counts.get(other) - counts.get(one) || one.localeCompare(other)));
  const more = keys.length - most;
  keys = keys.slice(0, most);
  const known = new Set(keys);
  return { name, label, more: more > 0 ? more : 0, kind: "bars", bars: keys.map((key) => ({ key, label: key, long: key })),
    keysOf: (track) => [...new Set(keysOf(track))].filter((key) => known.has(key)) };
}

/** The values of a text column: a text with commas or semicolons is a list of tags. */
const tagsOf = (value) => (Array.isArray(value) ? value.map(String) : typeof value === "string" ? value.split(/[,;|]/) : value === null || value === undefined ? [] : [shownValue(value)]).map((tag) => tag.trim()).filter(Boolean);

function columnChart(name) {
  const values = site.tracks.map((track) => track.columns[name]).filter((value) => value !== null && value !== undefined);
  if (!values.length) return null;
  if (values.every((value) => typeof value === "number")) return numberChart(`column ${name}`, labelOf(name), UNITS[name] || "", (track) => track.columns[name] ?? NaN);
  const tags = values.flatMap(tagsOf), distinct = new Set(tags).size;
  if (distinct > MOST_BARS && distinct > 0.7 * tags.length) return null; // titles and the like: nothing to count
  return listChart(`column ${name}`, labelOf(name), (track) => tagsOf(track.columns[name]));
}

const wordsOf = (track) => captionsOf(track).join(" ").toLowerCase().match(/[\p{L}][\p{L}\p{N}'’#-]*/gu)?.filter((word) => word.length > 1 && !STOP_WORDS.has(word)) || [];

const toCheck = (track) => [...track.warnings.map((warning) => warning.kind), ...(track.copies ? ["sounds like another"] : [])];

function makeCharts() {
  const names = [...new Set(site.tracks.flatMap((track) => Object.keys(track.columns)))];
  return [
    listChart("split", "Splits", (track) => [track.split], { order: ["train", "validation", "test"] }),
    listChart("check", "To check", toCheck),
    numberChart("loudness", "Loudness", "LUFS", (track) => track.lufs ?? NaN),
    numberChart("length", "Length", "s", (track) => track.duration_s ?? NaN),
    ...names.map(columnChart),
    listChart("words", "Words in captions", wordsOf, { most: 14, least: site.tracks.length > 3 ? 2 : 1 }),
  ].filter(Boolean);
}

function matchesSearch(track) {
  const wanted = view.search.toLowerCase().split(/\s+/).filter(Boolean);
  if (!wanted.length) return true;
  const text = [...captionsOf(track), track.source, track.split, ...Object.values(track.columns), ...track.warnings.map((warning) => warning.kind)].join("\n").toLowerCase();
  return wanted.every((word) => text.includes(word));
}

const matches = (track) => matchesSearch(track) && charts.every((chart) => {
  const keys = chosen.get(chart.name);
  return !keys || !keys.size || chart.keysOf(track).some((key) => keys.has(key));
});

function buildCharts(charts) {
  byId("charts").append(...charts.map((chart) => {
    const box = make("div", { class: chart.kind });
    chart.buttons = chart.bars.map((bar) => {
      const all = make("span", { class: "all" }), shown = make("span", { class: "shown" }), number = make("span", { class: "number", "aria-hidden": "true" });
      const spoken = make("span", { class: "visually-hidden" });
      const button = make("button", { type: "button", "aria-pressed": "false", title: bar.long, onclick: () => toggleBar(chart, bar.key) },
        make("span", { class: "name", "aria-hidden": "true" }, bar.label), make("span", { class: "track", "aria-hidden": "true" }, all, shown), number, spoken);
      return { bar, button, all, shown, number, spoken };
    });
    thinLabels(chart);
    box.append(...chart.buttons.map((one) => one.button));
    const note = [chart.unit, chart.more ? `the ${chart.bars.length} most frequent of ${chart.bars.length + chart.more}` : ""].filter(Boolean).join(", ");
    return make("fieldset", { class: "chart", "data-chart": chart.name }, make("legend", {}, chart.label, note ? make("small", {}, ` ${note}`) : null), box);
  }));
}

/** Leave out labels of columns that would touch each other. */
function thinLabels(chart) {
  if (chart.kind !== "columns") return;
  const widest = Math.max(...chart.bars.map((bar) => bar.label.length)), every = Math.ceil((chart.bars.length * (widest + 1)) / 34);
  chart.buttons.forEach((one, index) => { if (index % every) one.button.querySelector(".name").textContent = ""; });
}

function showCharts(charts, shownTracks) {
  for (const chart of charts) {
    const count = (tracks) => {
      const counts = new Map();
      for (const track of tracks) for (const key of chart.keysOf(track)) counts.set(key, (counts.get(key) || 0) + 1);
      return counts;
    };
    const all = count(site.tracks), now = count(shownTracks), most = Math.max(1, ...all.values());
    for (const one of chart.buttons) {
      const total = all.get(one.bar.key) || 0, here = now.get(one.bar.key) || 0, side = chart.kind === "columns" ? "height" : "width";
      one.all.style[side] = `${(100 * total) / most}%`;
      one.shown.style[side] = `${(100 * here) / most}%`;
      one.number.textContent = total || chart.kind === "bars" ? String(here === total ? total : chart.kind === "bars" ? `${here}/${total}` : here) : "";
      one.spoken.textContent = `${chart.label} ${one.bar.long}: ${here === total ? plural(total, "track") : `${here} of ${plural(total, "track")}`}`;
      one.button.setAttribute("aria-pressed", String(Boolean(chosen.get(chart.name)?.has(one.bar.key))));
    }
  }
}

function toggleBar(chart, key) {
  const keys = chosen.get(chart.name) || new Set();
  if (keys.has(key)) keys.delete(key); else keys.add(key);
  chosen.set(chart.name, keys);
  render();
}
