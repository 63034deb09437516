// The address holds what is shown and where it plays: a link restores it.
function linkOf() {
  const words = new URLSearchParams();
  if (player.cell) {
    words.set("clip", player.cell.id);
    words.set("t", player.time.toFixed(2));
  }
  if (blind.on) words.set("blind", blind.key);
  if (view.words) words.set("prompt", view.words);
  if (view.seed !== "") words.set("seed", view.seed);
  if (view.order !== "grid") words.set("order", `${view.order}.${view.descending ? "down" : "up"}`);
  if (view.hidden.size) words.set("without", [...view.hidden].map((id) => versions.get(id).name).join("\n"));
  for (const [name, [from, to]] of view.limits) words.set(`where.${name}`, `${from ?? ""}..${to ?? ""}`);
  if (!player.equal) words.set("loudness", "own");
  if (!player.loop) words.set("loop", "no");
  if (!view.pictures) words.set("pictures", "no");
  return words.toString();
}

function writeLink() {
  const text = linkOf();
  history.replaceState(null, "", text ? `#${text}` : location.pathname + location.search);
}

/** Take everything from the address; what it does not know is left out. */
function readLink() {
  const words = new URLSearchParams(location.hash.slice(1));
  view.words = words.get("prompt") || "";
  view.seed = words.get("seed") || "";
  const [order, direction] = (words.get("order") || "grid").split(".");
  view.order = metrics.has(order) || order === "rating" ? order : "grid";
  view.descending = direction !== "up";
  const names = (words.get("without") || "").split("\n");
  view.hidden = new Set(site.versions.filter((version) => names.includes(version.name)).map((version) => version.id));
  view.limits = new Map();
  for (const name of metrics.keys()) {
    const [from, to] = (words.get(`where.${name}`) || "..").split("..").map((text) => (text.trim() && Number.isFinite(Number(text)) ? Number(text) : null));
    if (from !== null || (to ?? null) !== null) view.limits.set(name, [from, to ?? null]);
  }
  player.equal = words.get("loudness") !== "own";
  player.loop = words.get("loop") !== "no";
  view.pictures = words.get("pictures") !== "no";
  if (words.get("blind")) blind.start(words.get("blind")); else blind.stop();
  showTools();
  render();
  const cell = cells.get(words.get("clip")), at = Number(words.get("t"));
  if (cell) {
    player.select(cell, { at: Number.isFinite(at) ? at : 0, play: false });
    const tile = tileOf(cell);
    if (tile) tile.element.scrollIntoView({ block: "center", behavior: "instant" });
  }
}
