// @ts-check
// The WebSocket: whole segments in, credit out; opened again when it is lost.
/** @typedef {import("./page.d.ts").ServerMessage} ServerMessage */
/** @typedef {import("./page.d.ts").SegmentMessage} SegmentMessage */

const MAGIC = 0x53464952; // "RIFS", little-endian
const HEADER_BYTES = 16;
const RETRY_MS = [250, 500, 1000, 2000, 4000];
const CROWDED = 1013; // "try again later"

/** Read a frame of a segment. @param {ArrayBuffer} frame */
export function readFrame(frame) {
  if (frame.byteLength < HEADER_BYTES) throw new Error("a frame without a header");
  const view = new DataView(frame);
  const [magic, index, pcmBytes, pngBytes] = [0, 4, 8, 12].map((offset) => view.getUint32(offset, true));
  if (magic !== MAGIC || HEADER_BYTES + pcmBytes + pngBytes !== frame.byteLength || pcmBytes % 2) throw new Error("a frame that is not a segment");
  return {
    index,
    pcm: new Int16Array(frame.slice(HEADER_BYTES, HEADER_BYTES + pcmBytes)),
    png: new Blob([new Uint8Array(frame, HEADER_BYTES + pcmBytes, pngBytes)], { type: "image/png" }),
  };
}

/** Events: "message" (detail: a ServerMessage), "segment" (detail: a Segment), "lost", "crowded". */
export class Stream extends EventTarget {
  /** @param {string} id Of the session. */
  constructor(id) {
    super();
    const scheme = location.protocol === "https:" ? "wss:" : "ws:";
    this.address = `${scheme}//${location.host}/api/sessions/${encodeURIComponent(id)}/stream`;
    /** @type {WebSocket | null} */
    this.socket = null;
    /** @type {SegmentMessage | null} */
    this.announced = null;
    this.failures = 0;
    this.timer = 0;
    this.closed = false;
    this.#open();
  }

  close() {
    this.closed = true;
    clearTimeout(this.timer);
    this.socket?.close();
  }

  get open() {
    return this.socket?.readyState === WebSocket.OPEN;
  }

  /** @param {{ type: "credit", ahead: number, played_sample: number, paused: boolean } | { type: "stay" }} message */
  send(message) {
    if (this.open) this.socket?.send(JSON.stringify(message));
  }

  /** Connect at once, if it waits to try again. */
  reconnectNow() {
    if (this.closed || !this.timer) return;
    clearTimeout(this.timer);
    this.#open();
  }

  #open() {
    this.timer = 0;
    const socket = new WebSocket(this.address);
    socket.binaryType = "arraybuffer";
    socket.onmessage = (event) => { if (socket === this.socket) this.#receive(event.data); };
    socket.onclose = (event) => { if (socket === this.socket) this.#lost(event.code); };
    this.socket = socket;
    this.announced = null;
  }

  /** @param {string | ArrayBuffer} data */
  #receive(data) {
    this.failures = 0;
    if (typeof data === "string") {
      /** @type {ServerMessage} */
      const message = JSON.parse(data);
      if (message.type === "segment") this.announced = message;
      else this.dispatchEvent(new CustomEvent("message", { detail: message }));
      return;
    }
    const frame = readFrame(data);
    const announced = this.announced;
    this.announced = null;
    if (announced?.index === frame.index) this.dispatchEvent(new CustomEvent("segment", { detail: { ...announced, pcm: frame.pcm, png: frame.png } }));
  }

  /** @param {number} code */
  #lost(code) {
    if (this.closed) return;
    if (code === CROWDED) {
      this.closed = true;
      this.dispatchEvent(new Event("crowded"));
      return;
    }
    this.dispatchEvent(new Event("lost"));
    this.timer = window.setTimeout(() => this.#open(), RETRY_MS[Math.min(this.failures, RETRY_MS.length - 1)]);
    this.failures += 1;
  }
}
