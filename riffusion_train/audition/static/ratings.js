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
  found(cell, unseen) {
    const found = this.all[unseen ? `${cell.id}.blind` : cell.id];
    return found && found.rating >= 1 && found.rating <= 5 ? found : null;
  },
  /** What is rated: while blind, only by the letters of now, since any other rating would tell the name. */
  of(cell) {
    const unseen = this.found(cell, true);
    const found = blind.on ? (unseen && unseen.shuffle === blind.key ? unseen : null) : this.found(cell, false) || unseen;
    return found && found.rating;
  },
  set(cell, value) {
    this.all = { ...(storage.read("ratings") || this.all) }; // another tab may have written meanwhile
    const at = new Date().toISOString();
    if (value && blind.on) this.all[`${cell.id}.blind`] = { rating: value, label: blind.label(cell), shuffle: blind.key, at };
    else if (value) this.all[cell.id] = { rating: value, at };
    else for (const name of blind.on ? [`${cell.id}.blind`] : [cell.id, `${cell.id}.blind`]) delete this.all[name];
    storage.write("ratings", this.all);
    if (!storage.kept) say("This browser keeps nothing for this page: save the ratings before you leave");
  },
  /** All ratings of this page: a clip may have one by its name and one by a letter. */
  list() {
    return site.cells.flatMap((cell) => [false, true].map((unseen) => ({ cell, unseen, ...this.found(cell, unseen) }))).filter((one) => one.rating);
  },
  csv() {
    const head = ["prompt", "negative_prompt", "seed", "version", "step", "source", "rating", "blind", "label", "rated_at", "clip"];
    const lines = this.list().map(({ cell, unseen, rating, label = "", at }) => {
      const version = versions.get(cell.version), settings = cell.settings;
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
  if (!ratings.list().length) { say("Nothing is rated yet"); return; }
  const url = URL.createObjectURL(new Blob(["\ufeff" + ratings.csv()], { type: "text/csv" }));
  make("a", { href: url, download: "ratings.csv" }).click();
  setTimeout(() => URL.revokeObjectURL(url), 10000);
}

function showTally() {
  const tally = byId("tally"), body = tally.querySelector("tbody");
  const list = ratings.list();
  tally.hidden = blind.on || !list.length;
  const mean = (some) => (some.length ? (some.reduce((sum, one) => sum + one.rating, 0) / some.length).toFixed(2) : "–");
  body.replaceChildren(...site.versions.map((version) => {
    const mine = list.filter((one) => one.cell.version === version.id);
    const [open, unseen] = [mine.filter((one) => !one.unseen), mine.filter((one) => one.unseen)];
    return make("tr", {}, make("th", { scope: "row" }, version.name),
      ...[open.length, mean(open), unseen.length, mean(unseen)].map((text) => make("td", {}, String(text))));
  }));
}
