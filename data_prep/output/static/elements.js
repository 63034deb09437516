// Shared by all parts: the page's data, elements made from text (never from markup), and storage that may be refused.
const site = JSON.parse(document.getElementById("site").textContent);
const reducedMotion = matchMedia("(prefers-reduced-motion: reduce)");
const byId = (id) => document.getElementById(id);
site.tracks.forEach((track, index) => { track.index = index; track.shown = []; track.copies = 0; });
for (const slice of site.slices) site.tracks[slice.track].shown.push(slice);
site.copies.forEach((group, number) => { for (const index of group) site.tracks[index].copies = number + 1; });

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

let statusTimer = 0;
function say(text) {
  byId("status").textContent = text;
  clearTimeout(statusTimer);
  statusTimer = setTimeout(() => { byId("status").textContent = ""; }, 5000);
}

const plural = (count, name) => `${count.toLocaleString("en")} ${name}${count === 1 ? "" : "s"}`;

function clock(seconds) {
  if (seconds === null || seconds === undefined) return "–";
  const whole = Math.floor(seconds + 1e-6), rest = String(whole % 60).padStart(2, "0");
  return `${Math.floor(whole / 60)}:${rest}`;
}

function amount(hours) {
  if (hours >= 2) return `${hours.toFixed(1)} hours`;
  return hours * 60 >= 2 ? `${Math.round(hours * 60)} minutes` : `${Math.round(hours * 3600)} seconds`;
}

/** A value of a column as text; numbers without needless digits. */
function shownValue(value) {
  if (typeof value === "number") return String(Math.round(value * 100) / 100).replace("-", "−");
  return typeof value === "boolean" ? (value ? "yes" : "no") : String(value);
}

const storage = {
  name: `riffusion-dataset.${site.fingerprint}`,
  read() {
    try { return JSON.parse(localStorage.getItem(this.name)); } catch { return null; }
  },
  write(value) {
    try {
      if (Object.keys(value).length) localStorage.setItem(this.name, JSON.stringify(value)); else localStorage.removeItem(this.name);
      return true;
    } catch { return false; }
  },
};
