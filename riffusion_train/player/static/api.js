// @ts-check
// Requests to the server, and the link that restores a moment.
/** @typedef {import("./page.d.ts").Choices} Choices */
/** @typedef {import("./types.d.ts").Settings} Settings */
/** @typedef {import("./types.d.ts").QueueItem} QueueItem */
/** @typedef {import("./types.d.ts").UploadAnswer} UploadAnswer */

/** An error that the server answered with. */
export class ServerError extends Error {
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
    throw new ServerError(0, { error: "The player does not answer: is it still running?" });
  }
  const body = await answer.json().catch(() => ({}));
  if (!answer.ok) throw new ServerError(answer.status, body);
  return body;
}

/** @param {string} method @param {unknown} body @param {string} [token] @returns {RequestInit} */
const withJson = (method, body, token) => ({
  method,
  headers: { "Content-Type": "application/json", ...(token ? { Authorization: `Bearer ${token}` } : {}) },
  body: JSON.stringify(body),
});

/** @param {string} id */
const session = (id) => `/api/sessions/${encodeURIComponent(id)}`;

/** @returns {Promise<Choices>} */
export const readChoices = () => ask("/api/choices");

/** @param {Record<string, unknown>} settings @returns {Promise<{ id: string, token: string, settings: Settings }>} */
export const makeSession = (settings) => ask("/api/sessions", withJson("POST", settings));

/** @param {string} id @param {string} token @param {Record<string, unknown>} changes
 * @returns {Promise<{ settings: Settings, queue: QueueItem[], takes_effect_at: number, change: number | null }>} */
export const steer = (id, token, changes) => ask(session(id), withJson("PATCH", changes, token));

/** @param {File} file @param {string} [token] @returns {Promise<UploadAnswer>} */
export function upload(file, token) {
  const form = new FormData();
  form.append("file", file, file.name);
  return ask("/api/uploads", { method: "POST", body: form, headers: token ? { Authorization: `Bearer ${token}` } : {} });
}

/** @param {string} id @param {string} kind wav, mp3 or png. @param {number} lastS @param {number} toSample */
export const recording = (id, kind, lastS, toSample) => `${session(id)}/recording.${kind}?last_s=${lastS}&to_sample=${toSample}`;

/** @param {Record<string, unknown>} share The `share` of a segment. @param {number} offsetS From the beginning of the segment. */
export function toLink(share, offsetS) {
  const bytes = new TextEncoder().encode(JSON.stringify(share));
  const code = btoa(String.fromCharCode(...bytes)).replaceAll("+", "-").replaceAll("/", "_").replaceAll("=", "");
  return `${location.origin}${location.pathname}#m=${code}${offsetS > 0.05 ? `&at=${offsetS.toFixed(2)}` : ""}`;
}

/** Read a link: a moment to restore, a session to listen along to, or nothing.
 * @param {string} hash @returns {{ listen: string | null, share: Record<string, unknown> | null, offsetS: number, broken: boolean }} */
export function readLink(hash) {
  const parameters = new URLSearchParams(hash.replace(/^#/, ""));
  const code = parameters.get("m");
  const link = { listen: parameters.get("listen"), share: null, offsetS: Math.max(0, Number(parameters.get("at")) || 0), broken: false };
  if (!code) return link;
  try {
    const text = atob(code.replaceAll("-", "+").replaceAll("_", "/"));
    const share = JSON.parse(new TextDecoder().decode(Uint8Array.from(text, (character) => character.charCodeAt(0))));
    if (share && typeof share === "object" && !Array.isArray(share)) return { ...link, share };
  } catch {
    // A link that was cut off: reported below.
  }
  return { ...link, broken: true };
}
