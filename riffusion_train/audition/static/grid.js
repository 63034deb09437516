// The clips on the page: a grid of prompts by versions, or a list ordered by a measure.
const view = { search: "", seed: "", order: "grid", descending: true, images: true, hidden: new Set(), limits: new Map(), copies: "" };
const tiles = new Map(); // id of a clip -> its parts on the page
const tileOf = (cell) => tiles.get(cell.id);
const noteOf = (cell) => versions.get(cell.version).note;

function visible(cell) {
  if (!cell.settings.prompt.toLowerCase().includes(view.search.trim().toLowerCase())) return false;
  if (view.seed !== "" && String(cell.settings.seed) !== view.seed) return false;
  if (blind.on) return true;
  if (view.hidden.has(cell.version)) return false;
  if (view.copies && Boolean(cell.is_copy) !== (view.copies === "only")) return false;
  for (const [name, [from, to]] of view.limits) {
    const value = measure(cell, name);
    if ((from !== null && (value === null || value < from)) || (to !== null && (value === null || value > to))) return false;
  }
  return true;
}

/** What a clip shows in the grid: its scores, or its loudness where the page has none. */
const scored = ["caption_match", "realness"].filter((name) => metrics.has(name));
const usualMetrics = scored.length ? scored : ["loudness_lufs"];

/** The clips of a row that can be switched between, in the order of their keys. */
function siblings(cell) {
  const row = rows.get(cell.row).filter((other) => other === cell || visible(other));
  return blind.on ? row.sort((one, other) => blind.indices.get(one.id) - blind.indices.get(other.id)) : row;
}

function render() {
  const focused = document.activeElement && document.activeElement.closest(".clip");
  const focus = focused && { id: focused.dataset.id, kind: document.activeElement.className };
  tiles.clear();
  const shown = site.cells.filter(visible);
  document.body.classList.toggle("no-images", !view.images);
  document.body.classList.toggle("is-small", versions.size > 5);
  byId("clips").replaceChildren(...(view.order === "grid" || blind.on ? gridOf(shown) : listOf(shown)));
  if (!shown.length) byId("clips").append(make("p", { class: "empty" }, site.cells.length ? "No clip matches. Clear a filter." : "There are no clips yet."));
  byId("summary").textContent = summary(shown.length);
  showTally();
  showState();
  if (player.cell) { showChips(); draw(); }
  const restored = focus && tiles.get(focus.id) && [...tiles.get(focus.id).element.querySelectorAll("[tabindex], button")].find((one) => one.className === focus.kind);
  if (restored && !blind.on) restored.focus({ preventScroll: true });
}

function summary(shown) {
  const prompts = new Set(site.cells.map((cell) => cell.settings.prompt)).size;
  const seeds = new Set(site.cells.map((cell) => cell.settings.seed)).size;
  const count = (number, word) => `${number} ${word}${number === 1 ? "" : "s"}`;
  const all = `${count(prompts, "prompt")} × ${count(versions.size, "version")} × ${count(seeds, "seed")}`;
  return `${all}: ${shown === site.cells.length ? "" : `${shown} of `}${count(site.cells.length, "clip")}`;
}

function gridOf(shown) {
  const shownRows = new Set(shown.map((cell) => cell.row)), sections = new Map();
  for (const [key, row] of rows) {
    if (!shownRows.has(key)) continue;
    const { prompt, negative_prompt: negative = "", seed } = row[0].settings;
    const heading = JSON.stringify([prompt, negative]);
    if (!sections.has(heading)) sections.set(heading, sectionOf(prompt, negative));
    const shownClips = siblings(row.find(visible)).filter(visible);
    const missing = blind.on ? [] : site.versions.filter((version) => !view.hidden.has(version.id) && !row.some((cell) => cell.version === version.id));
    sections.get(heading).append(
      make("div", { class: "row", role: "group", "aria-label": `Seed ${seed}` },
        make("h3", {}, `Seed ${seed}`),
        make("div", { class: "tiles" }, ...shownClips.map((cell, index) => tile(cell, index)),
          ...missing.map((version) => make("p", { class: "missing" }, `${version.name}: not made yet`)))));
  }
  return [...sections.values()];
}

function sectionOf(prompt, negative) {
  return make("section", { class: "prompt" }, make("h2", {}, prompt || "(no prompt)"),
    negative ? make("p", { class: "quiet" }, `negative prompt: ${negative}`) : null);
}

function listOf(shown) {
  const value = (cell) => measure(cell, view.order), sign = view.descending ? -1 : 1;
  const ordered = [...shown].sort((one, other) => {
    const [a, b] = [value(one), value(other)];
    if (a === null || b === null) return (a === null) - (b === null); // clips without a value come last
    return sign * (a - b);
  });
  return ordered.length ? [make("div", { class: "tiles list" }, ...ordered.map((cell) => tile(cell, null)))] : [];
}

function tile(cell, index) {
  const name = nameOf(cell), label = `${name}, seed ${cell.settings.seed}: ${cell.settings.prompt || "no prompt"}`;
  const playhead = make("span", { class: "playhead", hidden: true });
  const image = make("img", { src: address(cell.image), alt: "", loading: "lazy", decoding: "async", draggable: "false" });
  image.addEventListener("error", () => { spectrogram.classList.add("is-missing"); });
  const spectrogram = make("div", {
    class: "spectrogram", role: "slider", tabindex: "0", "aria-label": `Position in ${label}`, "aria-valuemin": "0",
    "aria-valuemax": cell.duration_s.toFixed(2), "aria-valuenow": "0", "aria-valuetext": `0.0 of ${cell.duration_s.toFixed(1)} seconds`,
    onclick: (event) => {
      const box = spectrogram.getBoundingClientRect();
      player.select(cell, { at: (cell.duration_s * (event.clientX - box.left)) / box.width, play: true });
    },
    onkeydown: (event) => spectrogramKey(event, cell),
  }, image, playhead);
  const button = make("button", { type: "button", class: "play", onclick: () => {
    if (player.cell === cell) player.toggle();
    else player.select(cell, { play: true, at: player.cell && player.cell.row === cell.row ? player.time : 0 });
  } });
  const shownMetrics = view.order === "grid" || view.order === "rating" ? usualMetrics : [view.order];
  const measures = make("p", { class: "measure" });
  const info = make("button", { type: "button", class: "info", "aria-label": `Details of ${label}`, "aria-haspopup": "dialog", onclick: () => openSheet(cell) }, icon("info"));
  const element = make("article", { class: "clip", "data-id": cell.id, "aria-label": label },
    make("div", { class: "head" },
      index !== null && index < 9 ? make("kbd", { "aria-hidden": "true" }, String(index + 1)) : null,
      make("strong", { title: name }, name), blind.on ? null : info),
    blind.on || !noteOf(cell) ? null : make("p", { class: "of" }, noteOf(cell)),
    view.order === "grid" || blind.on ? null : make("p", { class: "of" }, `${cell.settings.prompt || "(no prompt)"} · seed ${cell.settings.seed}`),
    spectrogram, make("div", { class: "foot" }, button, measures),
    blind.on || !cell.is_copy ? null : make("p", { class: "flag" }, make("strong", {}, "Possible copy: "), cell.nearest.replaceAll(" %", "\u00a0%")));
  const parts = { cell, element, spectrogram, playhead, button, measures, label, metrics: shownMetrics, shown: null };
  tiles.set(cell.id, parts);
  showMeasures(parts);
  return element;
}

function showMeasures(parts) {
  const rating = ratings.of(parts.cell);
  parts.measures.replaceChildren(
    ...(blind.on ? [] : parts.metrics.map((name) => make("span", {},
      scored.includes(name) ? `${metrics.get(name).label} ` : "", formatted(name, measure(parts.cell, name))))),
    ...(rating ? [make("span", {}, `★ ${rating}`)] : []));
}

function spectrogramKey(event, cell) {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const mine = player.cell === cell;
  const act = {
    Enter: () => (mine ? player.toggle() : player.select(cell, { at: 0, play: true })),
    " ": () => (mine ? player.toggle() : player.select(cell, { at: 0, play: true })),
    ArrowRight: () => mine && player.seek(player.time + STEP_S),
    ArrowLeft: () => mine && player.seek(player.time - STEP_S),
    Home: () => mine && player.seek(0),
    End: () => mine && player.seek(player.length),
  }[event.key];
  if (!act) return;
  event.preventDefault();
  event.stopPropagation();
  if (!mine && event.key.length > 1 && event.key !== "Enter") player.select(cell, { at: 0, play: false });
  act();
}
