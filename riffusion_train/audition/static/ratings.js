// Ratings, stored in the browser by clip id; blind labels; and the CSV file of both.
const blind = {
  on: false,
  key: "",
  /** Shuffle anew, or repeat the shuffle of a link. */
  start(key) {
    this.on = true;
    this.key = key || [...crypto.getRandomValues(new Uint8Array(6))].map((byte) => byte.toString(16).padStart(2, "0")).join("");
    this.indices = new Map();
    for (const row of rows.values()) {
      [...row].sort((one, other) => this.rank(one) - this.rank(other)).forEach((cell, index) => this.indices.set(cell.id, index));
    }
  },
  stop() { this.on = false; this.key = ""; },
  /** FNV-1a of the key and the clip, mixed once more: an order that does not depend on the names. */
  rank(cell) {
    let hash = 0x811c9dc5;
    for (const letter of this.key + cell.id) hash = Math.imul(hash ^ letter.charCodeAt(0), 0x01000193);
    hash = Math.imul(hash ^ (hash >>> 15), 0x2c1b3c6d);
    return (hash ^ (hash >>> 13)) >>> 0;
  },
  label(cell) {
    const index = this.indices.get(cell.id);
    return index < 26 ? String.fromCharCode(65 + index) : `${String.fromCharCode(64 + Math.floor(index / 26))}${String.fromCharCode(65 + (index % 26))}`;
  },
};

const nameOf = (cell) => (blind.on ? blind.label(cell) : versions.get(cell.version).name);

const ratings = {
  all: storage.read("ratings") || {},
  stored(cell, isBlind) {
    const stored = this.all[isBlind ? `${cell.id}.blind` : cell.id];
    return stored && stored.rating >= 1 && stored.rating <= 5 ? stored : null;
  },
  /** The rating to show: while blind, only one given in this shuffle, since any other would give the name away. */
  of(cell) {
    const blindly = this.stored(cell, true);
    const shown = blind.on ? (blindly && blindly.shuffle === blind.key ? blindly : null) : this.stored(cell, false) || blindly;
    return shown && shown.rating;
  },
  set(cell, value) {
    this.all = { ...(storage.read("ratings") || this.all) }; // another tab may have written since
    const at = new Date().toISOString();
    if (value && blind.on) this.all[`${cell.id}.blind`] = { rating: value, label: blind.label(cell), shuffle: blind.key, at };
    else if (value) this.all[cell.id] = { rating: value, at };
    else for (const name of blind.on ? [`${cell.id}.blind`] : [cell.id, `${cell.id}.blind`]) delete this.all[name];
    storage.write("ratings", this.all);
    if (!storage.available) say("This browser stores nothing for this page: save the ratings before you leave");
  },
  /** All ratings of this page: a clip may have one by its name and a blind one. */
  list() {
    return site.cells.flatMap((cell) => [false, true].map((isBlind) => ({ cell, isBlind, ...this.stored(cell, isBlind) }))).filter((one) => one.rating);
  },
  csv() {
    const head = ["prompt", "negative_prompt", "seed", "version", "step", "source", "rating", "blind", "label", "rated_at", "clip"];
    const lines = this.list().map(({ cell, isBlind, rating, label = "", at }) => {
      const version = versions.get(cell.version), settings = cell.settings;
      return [settings.prompt, settings.negative_prompt || "", settings.seed, version.name, version.step ?? "", version.source,
        rating, isBlind ? "yes" : "no", label, at, cell.stem];
    });
    return [head, ...lines].map((line) => line.map(field).join(",")).join("\r\n") + "\r\n";
  },
};

/** Quote a field; a text that a spreadsheet would read as a formula gets a leading apostrophe. */
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
  const mean = (group) => (group.length ? (group.reduce((sum, one) => sum + one.rating, 0) / group.length).toFixed(2) : "–");
  body.replaceChildren(...site.versions.map((version) => {
    const mine = list.filter((one) => one.cell.version === version.id);
    const [named, blindly] = [mine.filter((one) => !one.isBlind), mine.filter((one) => one.isBlind)];
    return make("tr", {}, make("th", { scope: "row" }, version.name),
      ...[named.length, mean(named), blindly.length, mean(blindly)].map((text) => make("td", {}, String(text))));
  }));
}
