// Shared by all parts: the site's data, elements made from text (never from markup), and storage that may be refused.
const site = JSON.parse(document.getElementById("site").textContent);
const versions = new Map(site.versions.map((version) => [version.id, version]));
const cells = new Map(site.cells.map((cell) => [cell.id, cell]));
const metrics = new Map(site.metrics.map((metric) => [metric.name, metric]));
const reducedMotion = matchMedia("(prefers-reduced-motion: reduce)");
const fromDisk = location.protocol === "file:";
const byId = (id) => document.getElementById(id);

const rows = new Map(); // prompt, negative prompt and seed -> its clips, in the order of the versions
for (const version of site.versions) {
  for (const cell of site.cells) {
    if (cell.version !== version.id) continue;
    cell.row = JSON.stringify([cell.settings.prompt, cell.settings.negative_prompt || "", cell.settings.seed]);
    if (!rows.has(cell.row)) rows.set(cell.row, []);
    rows.get(cell.row).push(cell);
  }
}

function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (value === true) element.setAttribute(name, "");
    else if (value !== false && value !== null && value !== undefined) element.setAttribute(name, String(value));
  }
  element.append(...children.filter((child) => child !== null && child !== undefined));
  return element;
}

function icon(name) {
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  const use = document.createElementNS("http://www.w3.org/2000/svg", "use");
  use.setAttribute("href", `#icon-${name}`);
  svg.setAttribute("aria-hidden", "true");
  svg.append(use);
  return svg;
}

const address = (path) => path.split("/").map(encodeURIComponent).join("/");

function measure(cell, name) {
  const value = name === "rating" ? ratings.of(cell) : cell.metrics[name];
  return value === undefined ? null : value;
}

function formatted(name, value) {
  const metric = metrics.get(name);
  if (value === null) return "–";
  if (!metric) return String(value);
  return `${value.toFixed(metric.decimals).replace("-", "−")} ${metric.unit}`;
}

const hasCopyCheck = site.cells.some((cell) => cell.is_copy !== undefined);

let statusTimer = 0;
function say(text) {
  const status = byId("status");
  status.textContent = text;
  clearTimeout(statusTimer);
  statusTimer = setTimeout(() => { status.textContent = ""; }, 4000);
}

async function copy(text, done) {
  try {
    await navigator.clipboard.writeText(text);
    say(done);
  } catch {
    const box = make("textarea", { "aria-hidden": "true", class: "visually-hidden" });
    box.value = text;
    (document.querySelector("dialog[open]") || document.body).append(box);
    box.select();
    say(document.execCommand("copy") ? done : "The browser does not allow this page to copy");
    box.remove();
  }
}

const storage = {
  available: true,
  read(name) {
    try { return JSON.parse(localStorage.getItem(`riffusion-audition.${name}`)); } catch { return null; }
  },
  write(name, value) {
    try { localStorage.setItem(`riffusion-audition.${name}`, JSON.stringify(value)); this.available = true; } catch { this.available = false; }
  },
};
