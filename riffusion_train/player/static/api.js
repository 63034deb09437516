// @ts-check
// The server's addresses, and the link that restores a moment.
/** @typedef {import("./types.d.ts").Choices} Choices */
/** @typedef {import("./types.d.ts").Settings} Settings */
/** @typedef {import("./types.d.ts").QueueItem} QueueItem */

/** A refusal that the server put into words. */
export class Refusal extends Error {
  /** @param {number} status @param {Record<string, any>} body */
  constructor(status, body) {
    super(typeof body.error === "string" ? body.error : `The server answered ${status}`);
    this.status = status;
    this.body = body;
  }
}

/** @param {string} address @param {RequestInit} [options] @returns {Promise<any>} */
async function ask(address, options = {}) {
  let answer;
  try {
    answer = await fetch(address, options);
  } catch {
    throw new Refusal(0, { error: "The player does not answer: is it still running?" });
  }
  const body = await answer.json().catch(() => ({}));
  if (!answer.ok) throw new Refusal(answer.status, body);
  return body;
}

/** @param {string} method @param {unknown} body @param {string} [token] @returns {RequestInit} */
const written = (method, body, token) => ({
  method,
  headers: { "Content-Type": "application/json", ...(token ? { Authorization: `Bearer ${token}` } : {}) },
  body: JSON.stringify(body),
});

/** @param {string} id */
const session = (id) => `/api/sessions/${encodeURIComponent(id)}`;

/** @returns {Promise<Choices>} */
export const readChoices = () => ask("/api/choices");

/** @param {Record<string, unknown>} settings @returns {Promise<{ id: string, token: string, settings: Settings }>} */
export const makeSession = (settings) => ask("/api/sessions", written("POST", settings));

/** @param {string} id @param {string} token @param {Record<string, unknown>} changes
 * @returns {Promise<{ settings: Settings, queue: QueueItem[], takes_effect_at: number }>} */
export const steer = (id, token, changes) => ask(session(id), written("PATCH", changes, token));

/** @param {File} file @param {string} [token] @returns {Promise<{ id: string, name: string, duration_s: number }>} */
export function upload(file, token) {
  const form = new FormData();
  form.append("file", file, file.name);
  return ask("/api/uploads", { method: "POST", body: form, headers: token ? { Authorization: `Bearer ${token}` } : {} });
}

/** @param {string} id @param {string} kind wav, mp3 or png. @param {number} lastS @param {number} toSample */
export const recording = (id, kind, lastS, toSample) => `${session(id)}/recording.${kind}?last_s=${lastS}&to_sample=${toSample}`;

/** @param {Record<string, unknown>} share What a segment says of itself. @param {number} offsetS Into the segment. */
export function toLink(share, offsetS) {
  const bytes = new TextEncoder().encode(JSON.stringify(share));
  const code = btoa(String.fromCharCode(...bytes)).replaceAll("+", "-").replaceAll("/", "_").replaceAll("=", "");
  return `${location.origin}${location.pathname}#m=${code}${offsetS > 0.05 ? `&at=${offsetS.toFixed(2)}` : ""}`;
}

/** What a link says: a moment to restore, a session to listen along to, or nothing.
 * @param {string} hash @returns {{ listen: string | null, share: Record<string, unknown> | null, offsetS: number, broken: boolean }} */
export function readLink(hash) {
  const words = new URLSearchParams(hash.replace(/^#/, ""));
  const code = words.get("m");
  const link = { listen: words.get("listen"), share: null, offsetS: Math.max(0, Number(words.get("at")) || 0), broken: false };
  if (!code) return link;
  try {
    const text = atob(code.replaceAll("-", "+").replaceAll("_", "/"));
    const share = JSON.parse(new TextDecoder().decode(Uint8Array.from(text, (letter) => letter.charCodeAt(0))));
    if (share && typeof share === "object" && !Array.isArray(share)) return { ...link, share };
  } catch {
    // A link that was cut: said below.
  }
  return { ...link, broken: true };
}
