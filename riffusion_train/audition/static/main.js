// Controls and keys.
const STEP_S = 0.5;
const KEYS = [
  ["space", "play or pause"], ["1 – 9", "another version, at the same position"], ["← →", "half a second back or forward"],
  ["↑ ↓", "the previous or next prompt or seed"], ["Home", "back to the beginning"], ["shift 1 – 5", "rate; shift 0 removes the rating"],
  ["b", "blind"], ["e", "equal loudness"], ["l", "loop"], ["p", "images"], ["i", "details"], ["c", "copy a link to this moment"],
  ["s", "save the ratings"], ["/", "find a prompt"], ["?", "this help"],
];

function showTools() {
  byId("words").value = view.search;
  byId("seed").value = view.seed;
  if (byId("seed").value !== view.seed) { view.seed = ""; byId("seed").value = ""; }
  byId("order").value = blind.on ? "grid" : view.order; // an order by a measure would give the names away
  byId("copies").value = view.copies;
  byId("copies").closest("label").hidden = !hasCopyCheck || blind.on;
  byId("blind").checked = blind.on;
  byId("equal").checked = player.equal;
  byId("loop").checked = player.loop;
  byId("images").checked = view.images;
  byId("order").disabled = blind.on;
  byId("more").hidden = blind.on;
  const reverse = byId("reverse");
  reverse.hidden = view.order === "grid" || blind.on;
  reverse.textContent = view.descending ? "Highest first" : "Lowest first";
  for (const box of byId("versions").querySelectorAll("input")) box.checked = !view.hidden.has(box.value);
  for (const box of byId("limits").querySelectorAll("input")) {
    const limits = view.limits.get(box.dataset.metric) || [null, null];
    box.value = limits[Number(box.dataset.end)] ?? "";
  }
}

function showChips() {
  const cell = player.cell;
  byId("chips").replaceChildren(...siblings(cell).map((other, index) => make("button", {
    type: "button", class: "chip", "aria-pressed": String(other === cell), onclick: () => { if (other === player.cell) player.toggle(); else player.select(other); refocusChip(); },
  }, index < 9 ? make("kbd", { "aria-hidden": "true" }, String(index + 1)) : null, nameOf(other))));
  const on = byId("chips").querySelector('[aria-pressed="true"]');
  const strip = byId("chips");
  if (on) strip.scrollLeft = on.offsetLeft - strip.offsetLeft - (strip.clientWidth - on.clientWidth) / 2;
}
const refocusChip = () => byId("chips").querySelector('[aria-pressed="true"]')?.focus({ preventScroll: true });

function showStars() {
  for (const box of byId("stars").querySelectorAll("input")) box.checked = Number(box.value) === (ratings.of(player.cell) || 0);
}

function rate(value) {
  if (!player.cell) return;
  ratings.set(player.cell, value);
  showStars();
  const tile = tileOf(player.cell);
  if (tile) showMeasures(tile);
  showTally();
  say(value ? `${nameOf(player.cell)}: rated ${value} of 5` : `${nameOf(player.cell)}: rating removed`);
}

function setBlind(on) {
  // The letter of the selected clip would give its name away: select the first of its row instead, and stop.
  player.pause();
  say("");
  if (on) blind.start(); else blind.stop();
  showTools();
  render();
  if (player.cell) player.select(on ? siblings(player.cell)[0] : player.cell, { at: 0, play: false });
  writeLink();
}

function go(step) {
  const order = [...byId("clips").querySelectorAll(".clip")].map((element) => cells.get(element.dataset.id));
  if (!order.length) return;
  if (!player.cell) { player.select(order[0], { at: 0, play: false }); return; }
  const inGrid = view.order === "grid" || blind.on, here = player.cell;
  const stops = inGrid ? [...new Map(order.map((cell) => [cell.row, cell])).keys()] : order.map((cell) => cell.id);
  const at = stops.indexOf(inGrid ? here.row : here.id), next = stops[at + step];
  if (next === undefined) return;
  let cell = cells.get(next);
  if (inGrid) {
    const index = siblings(here).indexOf(here), row = order.filter((other) => other.row === next);
    cell = blind.on ? row[Math.min(index, row.length - 1)] : row.find((other) => other.version === here.version) || row[0];
  }
  player.select(cell, { at: 0 });
  tileOf(cell).element.scrollIntoView({ block: "center", behavior: reducedMotion.matches ? "instant" : "smooth" });
}

function onKey(event) {
  const target = event.target;
  if (event.ctrlKey || event.metaKey || event.altKey || document.querySelector("dialog[open]")) return;
  if (target.closest("select, textarea, input:not([type=checkbox]):not([type=radio]):not([type=range])")) return;
  const native = target.closest("input[type=range], input[type=radio]") && /^(Arrow|Home|End|Page)/.test(event.key);
  const pressed = event.key === " " && target.closest("button, a, summary, input[type=checkbox], input[type=radio]:not(:checked)");
  if (native || pressed) return;
  const digit = /^(?:Digit|Numpad)(\d)$/.exec(event.code);
  if (digit) {
    const number = Number(digit[1]);
    if (!player.cell) return;
    if (event.shiftKey) { if (number <= 5) rate(number); } else if (number) {
      const other = siblings(player.cell)[number - 1];
      if (other) player.select(other);
    } else return;
    event.preventDefault();
    return;
  }
  const act = {
    " ": () => (player.cell ? player.toggle() : (go(0), player.play())),
    ArrowLeft: () => player.seek(player.time - STEP_S), ArrowRight: () => player.seek(player.time + STEP_S),
    ArrowUp: () => go(-1), ArrowDown: () => go(1), Home: () => player.seek(0),
    b: () => setBlind(!blind.on), e: () => byId("equal").click(), l: () => byId("loop").click(), p: () => byId("images").click(),
    i: () => openSheet(player.cell), c: share, s: saveRatings, "/": () => byId("words").focus(), "?": () => byId("help").showModal(),
  }[event.key];
  if (!act || (event.key === "Home" && !player.cell)) return;
  event.preventDefault();
  act();
}

function share() {
  writeLink();
  copy(location.href, "Link copied");
}

/** Change what is shown, and the page and the address with it. */
function change(act) {
  act();
  showTools();
  render();
  writeLink();
}

function build() {
  const seeds = [...new Set(site.cells.map((cell) => cell.settings.seed))].sort((one, other) => one - other);
  byId("seed").append(...seeds.map((seed) => make("option", { value: seed }, String(seed))));
  byId("order").append(...site.metrics.map((metric) => make("option", { value: metric.name }, `by ${metric.label}`)), make("option", { value: "rating" }, "by your rating"));
  byId("versions").append(...site.versions.map((version) => make("label", {}, make("input", {
    type: "checkbox", value: version.id, onchange: (event) => change(() => { if (event.target.checked) view.hidden.delete(version.id); else view.hidden.add(version.id); }),
  }), version.name)));
  for (const metric of site.metrics) {
    const end = (index, word) => make("input", {
      type: "number", step: "any", "data-metric": metric.name, "data-end": index, "aria-label": `${metric.label} ${word}, ${metric.unit}`, placeholder: word,
      oninput: (event) => change(() => {
        const limits = view.limits.get(metric.name) || [null, null], text = event.target.value;
        limits[index] = text === "" ? null : Number(text);
        if (limits[0] === null && limits[1] === null) view.limits.delete(metric.name); else view.limits.set(metric.name, limits);
      }),
    });
    byId("limits").append(make("span", { class: "limit" }, make("span", {}, metric.label), end(0, "from"), end(1, "to"), metric.unit));
  }
  const explained = site.metrics.filter((metric) => metric.meaning);
  byId("meanings").append(...explained.map((metric) => make("div", {}, make("dt", {}, metric.label), make("dd", {}, metric.meaning))));
  byId("meanings").hidden = byId("meanings").previousElementSibling.hidden = !explained.length;
  for (let value = 1; value <= 5; value += 1) {
    byId("stars").append(make("label", {}, make("input", { type: "radio", name: "rating", value, onchange: () => rate(value) }),
      make("span", { "aria-hidden": "true" }, "★"), make("span", { class: "visually-hidden" }, `${value} of 5`)));
  }
  byId("help").querySelector(".keys").append(...KEYS.map(([key, text]) => make("div", {}, make("dt", {}, make("kbd", {}, key)), make("dd", {}, text))));
  byId("made").hidden = !site.command;
  byId("made").querySelector("code").textContent = site.command;
  for (const box of document.querySelectorAll(".command")) makeCopy(box);
}

function listen() {
  byId("tools").addEventListener("submit", (event) => event.preventDefault());
  byId("words").addEventListener("input", (event) => change(() => { view.search = event.target.value; }));
  byId("words").addEventListener("keydown", (event) => { if (event.key === "Escape") event.target.blur(); });
  byId("seed").addEventListener("change", (event) => change(() => { view.seed = event.target.value; }));
  byId("order").addEventListener("change", (event) => change(() => { view.order = event.target.value; }));
  byId("copies").addEventListener("change", (event) => change(() => { view.copies = event.target.value; }));
  byId("reverse").addEventListener("click", () => change(() => { view.descending = !view.descending; }));
  byId("blind").addEventListener("change", (event) => setBlind(event.target.checked));
  byId("equal").addEventListener("change", (event) => { player.equal = event.target.checked; player.adjust(); writeLink(); });
  byId("loop").addEventListener("change", (event) => { player.loop = event.target.checked; player.adjust(); writeLink(); });
  byId("images").addEventListener("change", (event) => change(() => { view.images = event.target.checked; }));
  byId("export").addEventListener("click", saveRatings);
  byId("ask").addEventListener("click", () => byId("help").showModal());
  byId("toggle").addEventListener("click", () => player.toggle());
  byId("position").addEventListener("input", (event) => player.seek(Number(event.target.value)));
  byId("details").addEventListener("click", () => openSheet(player.cell));
  byId("share").addEventListener("click", share);
  document.addEventListener("keydown", onKey);
  addEventListener("hashchange", () => { if (location.hash.slice(1) !== linkOf()) { player.pause(); readLink(); } });
  addEventListener("storage", (event) => {
    if (!event.key || !event.key.endsWith(".ratings")) return;
    ratings.all = storage.read("ratings") || {};
    for (const tile of tiles.values()) showMeasures(tile);
    if (player.cell) showStars();
    showTally();
  });
}

build();
listen();
readLink();
