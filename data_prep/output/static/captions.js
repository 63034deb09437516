// Captions: edits, kept in this browser until they are saved as a table that `riffusion prepare table=captions.csv` reads.
const edits = storage.read() || {}; // file -> captions
let edited = null; // the track in the dialog
const original = (track) => track.captions.map(withoutTrigger);
const captionsOf = (track) => (Object.hasOwn(edits, track.source) ? edits[track.source] : original(track));
const isEdited = (track) => Object.hasOwn(edits, track.source);
const isWhole = site.all_tracks === site.tracks.length; // a table of some tracks would leave out the others

/** The next run puts the trigger before every caption again. */
function withoutTrigger(caption) {
  const start = `${site.trigger}, `;
  return site.trigger && caption.startsWith(start) ? caption.slice(start.length) : caption;
}

function openEditor(track) {
  edited = track;
  byId("sheet-title").textContent = track.source;
  byId("captions").value = captionsOf(track).join("\n");
  byId("undo").disabled = !isEdited(track);
  byId("trigger").hidden = !site.trigger;
  byId("trigger").textContent = `“${site.trigger}, ” is put before each caption.`;
  byId("sheet-warnings").replaceChildren(...warningItems(track));
  byId("sheet-facts").replaceChildren(...factsOf(track).map(([name, value]) => make("div", {}, make("dt", {}, name), make("dd", {}, value))));
  byId("sheet").showModal();
}

function factsOf(track) {
  const facts = [["split", track.split], ["length", clock(track.duration_s)], ["slices", `${track.slices}, ${track.shown.length} on this page`]];
  if (track.lufs !== null) facts.push(["loudness", `${track.lufs.toFixed(1).replace("-", "−")} LUFS`]);
  if (track.gain_db) facts.push(["gain", `${track.gain_db.toFixed(1).replace("-", "−")} dB`]);
  for (const [name, value] of Object.entries(track.columns)) if (value !== null) facts.push([name, shownValue(value)]);
  return facts;
}

function keepEdit(lines) {
  const before = original(edited), same = lines.length === before.length && lines.every((line, index) => line === before[index]);
  if (same || !lines.length) delete edits[edited.source]; else edits[edited.source] = lines;
  const kept = storage.write(edits);
  say(!lines.length ? "A track needs a caption: it has those of the dataset again" : kept ? "Kept in this browser: save captions.csv when you are done" : "This browser stores nothing for this page: save captions.csv before you leave");
  byId("sheet").close();
  showSave();
  render();
}

const lineTexts = (text) => [...new Set(text.split("\n").map((line) => line.trim().replace(/\s+/g, " ")).filter(Boolean))];

function showSave() {
  const count = site.tracks.filter(isEdited).length, button = byId("save");
  button.textContent = count ? `Save captions.csv (${plural(count, "track")} edited)` : "Save captions.csv";
  button.classList.toggle("main", count > 0);
}

/** The table: a row for each caption of each track, with the table's own columns and the split. */
function captionsTable() {
  const names = [...new Set(site.tracks.flatMap((track) => Object.keys(track.cells)))];
  const lines = [[site.headers.file, site.headers.caption, site.headers.split, ...names]];
  for (const track of [...site.tracks].sort((one, other) => (one.source < other.source ? -1 : 1))) {
    const rest = names.map((name) => track.cells[name] ?? "");
    for (const caption of captionsOf(track)) lines.push([track.source, caption, track.split, ...rest]);
  }
  return lines.map((line) => line.map(field).join(",")).join("\r\n") + "\r\n";
}

const field = (text) => (/[",;\t\r\n]|^\s|\s$/.test(text) ? `"${text.replaceAll('"', '""')}"` : text);

function saveCaptions() {
  if (!isWhole) { say(`This page lists ${site.tracks.length} of ${site.all_tracks} tracks: edit the table of captions=review instead`); return; }
  const url = URL.createObjectURL(new Blob(["\ufeff" + captionsTable()], { type: "text/csv" }));
  make("a", { href: url, download: "captions.csv" }).click();
  setTimeout(() => URL.revokeObjectURL(url), 10000);
  say("Now run the same prepare command again, with table=captions.csv");
}
