// The address holds what is shown and where it plays: a link restores it.
function linkOf() {
  const parameters = new URLSearchParams();
  if (player.cell) {
    parameters.set("clip", player.cell.id);
    parameters.set("t", player.time.toFixed(2));
  }
  if (blind.on) parameters.set("blind", blind.key);
  if (view.search) parameters.set("prompt", view.search);
  if (view.seed !== "") parameters.set("seed", view.seed);
  if (view.order !== "grid") parameters.set("order", `${view.order}.${view.descending ? "down" : "up"}`);
  if (view.hidden.size) parameters.set("without", [...view.hidden].map((id) => versions.get(id).name).join("\n"));
  for (const [name, [from, to]] of view.limits) parameters.set(`where.${name}`, `${from ?? ""}..${to ?? ""}`);
  if (view.copies) parameters.set("copies", view.copies);
  if (!player.equal) parameters.set("loudness", "own");
  if (!player.loop) parameters.set("loop", "no");
  if (!view.images) parameters.set("images", "no");
  return parameters.toString();
}

function writeLink() {
  const text = linkOf();
  history.replaceState(null, "", text ? `#${text}` : location.pathname + location.search);
}

/** Restore everything from the address; what it does not hold gets its default. */
function readLink() {
  const parameters = new URLSearchParams(location.hash.slice(1));
  view.search = parameters.get("prompt") || "";
  view.seed = parameters.get("seed") || "";
  const [order, direction] = (parameters.get("order") || "grid").split(".");
  view.order = metrics.has(order) || order === "rating" ? order : "grid";
  view.descending = direction !== "up";
  const names = (parameters.get("without") || "").split("\n");
  view.hidden = new Set(site.versions.filter((version) => names.includes(version.name)).map((version) => version.id));
  view.limits = new Map();
  for (const name of metrics.keys()) {
    const [from, to] = (parameters.get(`where.${name}`) || "..").split("..").map((text) => (text.trim() && Number.isFinite(Number(text)) ? Number(text) : null));
    if (from !== null || (to ?? null) !== null) view.limits.set(name, [from, to ?? null]);
  }
  view.copies = hasCopyCheck && ["only", "hide"].includes(parameters.get("copies")) ? parameters.get("copies") : "";
  player.equal = parameters.get("loudness") !== "own";
  player.loop = parameters.get("loop") !== "no";
  view.images = parameters.get("images") !== "no";
  if (parameters.get("blind")) blind.start(parameters.get("blind")); else blind.stop();
  showTools();
  render();
  const cell = cells.get(parameters.get("clip")), at = Number(parameters.get("t"));
  if (cell) {
    player.select(cell, { at: Number.isFinite(at) ? at : 0, play: false });
    const tile = tileOf(cell);
    if (tile) tile.element.scrollIntoView({ block: "center", behavior: "instant" });
  }
}
