// Ratings, kept in the browser by the name of the clip; blind labels; and the CSV file of both.
const blind = {
  on: false,
  key: "",
  /** Shuffle anew, or take the shuffle of a link. */
  start(key) {
    this.on = true;
    this.key = key || [...crypto.getRandomValues(new Uint8Array(6))].map((byte) => byte.toString(16).padStart(2, "0")).join("");
    this.places = new Map();
    for (const row of rows.values()) {
      [...row].sort((one, other) => this.rank(one) - this.rank(other)).forEach((cell, place) => this.places.set(cell.id, place));
    }
  },
  stop() { this.on = false; this.key = ""; },
  /** FNV-1a of the key and the clip, mixed once more: an order that nobody can tell from the names. */
  rank(cell) {
    let hash = 0x811c9dc5;
    for (const letter of this.key + cell.id) hash = Math.imul(hash ^ letter.charCodeAt(0), 0x01000193);
    hash = Math.imul(hash ^ (hash >>> 15), 0x2c1b3c6d);
    return (hash ^ (hash >>> 13)) >>> 0;
  },
  label(cell) {
    const place = this.places.get(cell.id);
    return place < 26 ? String.fromCharCode(65 + place) : `${String.fromCharCode(64 + Math.floor(place / 26))}${String.fromCharCode(65 + (place % 26))}`;
  },
};

const nameOf = (cell) => (blind.on ? blind.label(cell) : versions.get(cell.version).name);

const ratings = {
  all: storage.read("ratings") || {},
  of(cell) {
    const found = this.all[cell.id];
    return found && found.rating >= 1 && found.rating <= 5 ? found.rating : null;
  },
  set(cell, value) {
    this.all = { ...(storage.read("ratings") || this.all) }; // another tab may have written meanwhile
    if (value) {
      this.all[cell.id] = { rating: value, blind: blind.on, label: blind.on ? blind.label(cell) : "", at: new Date().toISOString() };
    } else delete this.all[cell.id];
    storage.write("ratings", this.all);
    if (!storage.kept) say("This browser keeps nothing for this page: save the ratings before you leave");
  },
  rated() { return site.cells.filter((cell) => this.of(cell) !== null); },
  csv() {
    const head = ["prompt", "negative_prompt", "seed", "version", "step", "source", "rating", "blind", "label", "rated_at", "clip"];
    const lines = this.rated().map((cell) => {
      const version = versions.get(cell.version), { rating, blind: unseen, label, at } = this.all[cell.id];
      const settings = cell.settings;
      return [settings.prompt, settings.negative_prompt || "", settings.seed, version.name, version.step ?? "", version.source,
        rating, unseen ? "yes" : "no", label, at, cell.stem];
    });
    return [head, ...lines].map((line) => line.map(field).join(",")).join("\r\n") + "\r\n";
  },
};

/** Quote a field; a text that a spreadsheet would take for a formula gets an apostrophe before it. */
function field(value) {
  const text = typeof value === "string" && /^[=+\-@\t\r]/.test(value) ? `'${value}` : String(value);
  return /[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
}

function saveRatings() {
  if (!ratings.rated().length) { say("Nothing is rated yet"); return; }
  const url = URL.createObjectURL(new Blob(["\ufeff" + ratings.csv()], { type: "text/csv" }));
  make("a", { href: url, download: "ratings.csv" }).click();
  setTimeout(() => URL.revokeObjectURL(url), 10000);
}

function showTally() {
  const tally = byId("tally"), body = tally.querySelector("tbody");
  const rated = ratings.rated();
  tally.hidden = blind.on || !rated.length;
  const mean = (list) => (list.length ? (list.reduce((sum, cell) => sum + ratings.of(cell), 0) / list.length).toFixed(2) : "–");
  body.replaceChildren(...site.versions.map((version) => {
    const mine = rated.filter((cell) => cell.version === version.id), unseen = mine.filter((cell) => ratings.all[cell.id].blind);
    return make("tr", {}, make("th", { scope: "row" }, version.name),
      ...[mine.length, mean(mine), unseen.length, mean(unseen)].map((text) => make("td", {}, String(text))));
  }));
}
