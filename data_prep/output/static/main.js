// The list of tracks with their slices, the tools, and the keys.
const PAGE_TRACKS = 60;
const charts = makeCharts();
let limit = PAGE_TRACKS;

function warningItems(track) {
  const items = track.warnings.map((warning) => make("li", {}, `⚠ ${warning.kind}${warning.text && warning.text !== warning.kind ? `: ${warning.text}` : ""}`));
  if (track.copies) {
    const others = site.copies[track.copies - 1].filter((index) => index !== track.index).map((index) => site.tracks[index].source);
    items.push(make("li", {}, `⚠ sounds like ${others.slice(0, 3).join(", ")}${others.length > 3 ? ` and ${others.length - 3} more` : ""}`));
  }
  return items;
}

function sliceTile(slice, track) {
  const label = `${track.source} at ${clock(slice.start_s)}`;
  const head = make("span", { class: "playhead", hidden: true });
  const image = make("img", { src: `page/${slice.image}`, alt: `Spectrogram of ${label}`, loading: "lazy", decoding: "async" });
  const picture = make("div", { class: "spectrogram", onclick: (event) => {
    const box = picture.getBoundingClientRect(), at = ((event.clientX - box.left) / box.width) * site.clip_s;
    if (at < slice.duration_s) start(slice, at);
  } }, image, head);
  const button = make("button", { type: "button", class: "play", "aria-label": `Play ${label}`, onclick: () => togglePlay(slice) }, icon("play"));
  const element = make("figure", { class: "slice" }, picture, make("figcaption", { class: "foot" }, button,
    `${clock(slice.start_s)}–${clock(slice.start_s + slice.duration_s)}`,
    slice.captions ? make("span", { class: "own", title: slice.captions.join("\n") }, withoutTrigger(slice.captions.at(-1))) : null));
  element.slice = slice;
  tiles.set(slice, { element, head, button, label, on: false, mine: false });
  return element;
}

function trackBlock(track) {
  const [first = "(no caption)", ...others] = captionsOf(track);
  const facts = factsOf(track).filter(([name]) => !["gain", "slices", "split"].includes(name)).map(([name, value]) => make("li", {}, name === "loudness" || name === "length" ? value : `${name} ${value}`));
  return make("article", { class: "one", "aria-label": track.source },
    make("div", {},
      make("h3", {}, first),
      ...others.map((caption) => make("p", { class: "also" }, caption)),
      make("p", { class: "file" }, `${track.source} · ${track.split} · ${plural(track.slices, "slice")}`),
      make("ul", { class: "facts" }, ...facts),
      make("ul", { class: "warnings" }, ...warningItems(track)),
      make("button", { type: "button", class: "edit", "aria-haspopup": "dialog", "aria-label": `Edit the captions of ${track.source}`, onclick: () => openEditor(track) }, "Edit captions"),
      isEdited(track) ? make("span", { class: "edited" }, "  edited") : null),
    track.shown.length ? make("div", { class: "tiles" }, ...track.shown.map((slice) => sliceTile(slice, track)))
      : make("p", { class: "quiet" }, "None of its slices is on this page."));
}

/** The tracks under headings: by a chart's values, or as groups of copies. */
function grouped(tracks) {
  if (!view.group) return [["", tracks]];
  if (view.group === "copies") {
    const groups = site.copies.map((group, index) => [`Sounds alike, ${index + 1}`, tracks.filter((track) => track.copies === index + 1)]);
    return [...groups, ["All others", tracks.filter((track) => !track.copies)]].filter(([, list]) => list.length);
  }
  const chart = charts.find((one) => one.name === view.group);
  const groups = chart.bars.map((bar) => [bar.long, tracks.filter((track) => chart.keysOf(track).includes(bar.key))]);
  return [...groups, ["All others", tracks.filter((track) => !chart.keysOf(track).length)]].filter(([, list]) => list.length);
}

function render() {
  const shown = site.tracks.filter(matches);
  showCharts(charts, shown);
  tiles.clear();
  const blocks = [];
  let left = limit, rows = 0;
  for (const [heading, list] of grouped(shown)) {
    rows += list.length;
    if (left <= 0) continue;
    if (heading) blocks.push(make("h2", { class: "group" }, `${heading} `, make("small", { class: "quiet" }, plural(list.length, "track"))));
    blocks.push(...list.slice(0, left).map(trackBlock));
    left -= list.length;
  }
  byId("tracks").replaceChildren(...(blocks.length ? blocks : [make("p", { class: "empty" }, "No track matches. Clear a filter.")]));
  byId("more").hidden = rows <= limit;
  byId("more").textContent = `Show ${Math.min(PAGE_TRACKS, rows - limit)} more tracks`;
  const active = view.search !== "" || [...chosen.values()].some((keys) => keys.size);
  byId("clear").hidden = !active;
  const slices = shown.reduce((sum, track) => sum + track.shown.length, 0);
  byId("count").textContent = `${active ? `${shown.length} of ` : ""}${plural(site.tracks.length, "track")}, ${plural(slices, "slice")} to see and hear`;
  showPlaying();
}

function showHeader() {
  const { tracks, slices, hours } = site.totals;
  byId("summary").textContent = `${plural(tracks, "track")}, ${plural(slices, "slice")} of ${site.clip_s.toFixed(1)} s, ${amount(hours)} of audio, as ${site.codec} images`;
  const notes = [];
  if (site.all_tracks > site.tracks.length) notes.push(`This page lists ${site.tracks.length} of ${site.all_tracks} tracks.`);
  if (site.captions_cut_off) notes.push(`${plural(site.captions_cut_off, "caption")} too long for the text encoder: the model will not see the end.`);
  if (site.silent_slices) notes.push(`${plural(site.silent_slices, "silent window")} left out.`);
  if (!site.tracks.some((track) => ["bpm", "tempo", "key"].some((name) => track.columns[name] !== undefined))) notes.push("Tempo and key are not known: measure=bpm,key adds them.");
  byId("notes").replaceChildren(...notes.map((note) => make("li", {}, note)));
}

function showRejects() {
  byId("rejects").hidden = !site.rejects.length;
  byId("rejects-title").textContent = `Left out: ${plural(site.rejects.length, "file")}`;
  const reasons = Map.groupBy ? Map.groupBy(site.rejects, (one) => one.reason) : site.rejects.reduce((map, one) => map.set(one.reason, [...(map.get(one.reason) || []), one]), new Map());
  byId("reasons").append(...[...reasons].map(([reason, list]) => make("details", { open: list.length < 6 }, make("summary", {}, `${reason} (${list.length})`),
    make("ul", {}, ...list.slice(0, 200).map((one) => make("li", {}, one.detail ? `${one.source}: ${one.detail}` : one.source)),
      list.length > 200 ? make("li", {}, `… and ${list.length - 200} more, in manifest.jsonl`) : null))));
}

function change(act) { act(); limit = PAGE_TRACKS; render(); }

function onKey(event) {
  if (event.ctrlKey || event.metaKey || event.altKey || document.querySelector("dialog[open]")) return;
  if (event.target.closest("input:not([type=checkbox]), select, textarea")) return;
  if (event.key === " " && event.target.closest("button, summary, input, a")) return;
  const act = {
    " ": () => (player.slice ? togglePlay(player.slice) : step(0)), ArrowLeft: () => step(-1), ArrowRight: () => step(1),
    o: () => site.has_audio && setOriginal(!player.original), e: () => player.slice && openEditor(site.tracks[player.slice.track]),
    s: saveCaptions, "/": () => byId("words").focus(), "?": () => byId("help").showModal(),
  }[event.key];
  if (!act) return;
  event.preventDefault();
  act();
}

function listen() {
  byId("tools").addEventListener("submit", (event) => event.preventDefault());
  byId("words").addEventListener("input", (event) => change(() => { view.search = event.target.value; }));
  byId("group").addEventListener("change", (event) => change(() => { view.group = event.target.value; }));
  byId("clear").addEventListener("click", () => change(() => { view.search = ""; byId("words").value = ""; chosen.clear(); byId("words").focus(); }));
  byId("more").addEventListener("click", () => { limit += PAGE_TRACKS; render(); });
  byId("save").addEventListener("click", saveCaptions);
  byId("ask").addEventListener("click", () => byId("help").showModal());
  byId("original").addEventListener("change", (event) => setOriginal(event.target.checked));
  byId("editor").addEventListener("submit", (event) => { event.preventDefault(); keepEdit(lineTexts(byId("captions").value)); });
  byId("undo").addEventListener("click", () => keepEdit(original(edited)));
  byId("close").addEventListener("click", () => byId("sheet").close());
  document.addEventListener("keydown", onKey);
}

showHeader();
showRejects();
buildCharts(charts);
byId("original-field").hidden = !site.has_audio;
if (site.copies.length) byId("group").append(make("option", { value: "copies" }, "tracks that sound alike"));
byId("group").append(...charts.filter((chart) => chart.name !== "words").map((chart) => make("option", { value: chart.name }, chart.label.toLowerCase())));
listen();
showSave();
render();
