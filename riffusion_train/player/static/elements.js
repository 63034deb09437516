// @ts-check
// Elements, made from text and never from markup; notices for the listener; preferences.

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
 * @param {Record<string, string | number | boolean | null | ((event: Event) => void)>} [attributes] Names that begin with "on" are event listeners.
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

/** Set the icon and the accessible name of a button. @param {HTMLElement} element @param {string} icon @param {string} name */
export function setIcon(element, icon, name) {
  if (element.dataset.icon !== icon) element.querySelector("use")?.setAttribute("href", `#icon-${icon}`);
  element.dataset.icon = icon;
  if (element.getAttribute("aria-label") !== name) element.setAttribute("aria-label", name);
}

const NOTICE_MS = 5000;
let timer = 0;
/** Show a notice for a few seconds. @param {string} text */
export function notify(text) {
  const status = byId("status");
  const parent = document.querySelector("dialog[open]") ?? document.body; // a notice behind an open dialog would not be seen
  if (status.parentElement !== parent) parent.append(status);
  status.textContent = text;
  clearTimeout(timer);
  timer = window.setTimeout(() => { status.textContent = ""; }, NOTICE_MS);
}

/** @param {unknown} error */
export const notifyError = (error) => notify(error instanceof Error ? error.message : String(error));

/** @param {string} text @param {string} done */
export async function copy(text, done) {
  try {
    await navigator.clipboard.writeText(text);
    notify(done);
  } catch {
    notify("The browser does not let this page copy: copy the link from the field");
    return false;
  }
  return true;
}

/** @param {number} seconds */
export function clock(seconds) {
  const whole = Math.max(0, Math.floor(seconds));
  return `${Math.floor(whole / 60)}:${String(whole % 60).padStart(2, "0")}`;
}

/** What this browser remembers for the listener. */
export const preferences = {
  /** @template T @param {string} name @param {T} otherwise @returns {T} */
  read(name, otherwise) {
    try {
      const saved = JSON.parse(localStorage.getItem(`riffusion-player.${name}`) ?? "null");
      return saved !== null && typeof saved === typeof otherwise ? saved : otherwise;
    } catch {
      return otherwise;
    }
  },
  /** @param {string} name @param {unknown} value */
  write(name, value) {
    try {
      localStorage.setItem(`riffusion-player.${name}`, JSON.stringify(value));
    } catch {
      // The page also works in a browser that does not store anything.
    }
  },
};
