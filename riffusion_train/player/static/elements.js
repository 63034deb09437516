// @ts-check
// Elements made from text, never from markup; sentences for the listener; storage that may be refused.

/** @param {string} id @returns {HTMLElement} */
export function byId(id) {
  const element = document.getElementById(id);
  if (!element) throw new Error(`the page has no #${id}`);
  return element;
}
/** @param {string} id */
export const input = (id) => /** @type {HTMLInputElement} */ (byId(id));
/** @param {string} id */
export const select = (id) => /** @type {HTMLSelectElement} */ (byId(id));
/** @param {string} id */
export const button = (id) => /** @type {HTMLButtonElement} */ (byId(id));
/** @param {string} id */
export const dialog = (id) => /** @type {HTMLDialogElement} */ (byId(id));

/**
 * @template {keyof HTMLElementTagNameMap} K
 * @param {K} tag
 * @param {Record<string, string | number | boolean | null | ((event: Event) => void)>} [attributes] Those that begin with "on" are listeners.
 * @param {(Node | string | null)[]} children
 * @returns {HTMLElementTagNameMap[K]}
 */
export function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (typeof value === "function") element.addEventListener(name.slice(2), value);
    else if (value === true) element.setAttribute(name, "");
    else if (value !== false && value !== null) element.setAttribute(name, String(value));
  }
  element.append(...children.filter((child) => child !== null));
  return element;
}

/** @param {string} name */
export function icon(name) {
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  const use = document.createElementNS("http://www.w3.org/2000/svg", "use");
  use.setAttribute("href", `#icon-${name}`);
  svg.setAttribute("aria-hidden", "true");
  svg.append(use);
  return svg;
}

/** Give a button its sign and its name. @param {HTMLElement} element @param {string} sign @param {string} name */
export function sign(element, sign, name) {
  if (element.dataset.sign !== sign) element.querySelector("use")?.setAttribute("href", `#icon-${sign}`);
  element.dataset.sign = sign;
  if (element.getAttribute("aria-label") !== name) element.setAttribute("aria-label", name);
}

let timer = 0;
/** Say something that passes. @param {string} text */
export function say(text) {
  const place = byId("status");
  const around = document.querySelector("dialog[open]") ?? document.body; // what lies behind an open sheet is not seen
  if (place.parentElement !== around) around.append(place);
  place.textContent = text;
  clearTimeout(timer);
  timer = window.setTimeout(() => { place.textContent = ""; }, 5000);
}

/** @param {unknown} error */
export const sayFault = (error) => say(error instanceof Error ? error.message : String(error));

/** @param {string} text @param {string} done */
export async function copy(text, done) {
  try {
    await navigator.clipboard.writeText(text);
    say(done);
  } catch {
    say("The browser does not let this page copy: take the link from the field");
    return false;
  }
  return true;
}

/** @param {number} seconds */
export function clock(seconds) {
  const whole = Math.max(0, Math.floor(seconds));
  return `${Math.floor(whole / 60)}:${String(whole % 60).padStart(2, "0")}`;
}

/** What this browser remembers of the listener's taste. */
export const taste = {
  /** @template T @param {string} name @param {T} otherwise @returns {T} */
  read(name, otherwise) {
    try {
      const kept = JSON.parse(localStorage.getItem(`riffusion-player.${name}`) ?? "null");
      return typeof kept === typeof otherwise ? kept : otherwise;
    } catch {
      return otherwise;
    }
  },
  /** @param {string} name @param {unknown} value */
  write(name, value) {
    try {
      localStorage.setItem(`riffusion-player.${name}`, JSON.stringify(value));
    } catch {
      // A browser that keeps nothing plays all the same.
    }
  },
};
