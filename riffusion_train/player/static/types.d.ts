// The shapes that the modules of the page share; read by `tsc --checkJs` alone and never served.

export interface Settings {
  prompt: string;
  negative_prompt: string;
  seed: number;
  guidance_scale: number;
  strength: number;
  seed_image: string | null;
  seed_upload: string | null;
  num_inference_steps: number;
  clips: number;
  place: number;
}

export type Planes = "mono" | "stereo" | "stereo_phase";

export interface Choices {
  model: string;
  rate_hz: number;
  channels: number;
  segment_s: number;
  hop_length: number;
  planes: Planes;
  row_hz: number[];
  seed_images: { id: string; name: string; about: string }[];
  dice: string[];
  builder: Record<"genre" | "mood" | "instrument" | "tempo", string[]>;
  limits: { prompt_chars: number; upload_bytes: number };
  steps: { min: number; max: number; default: number };
  settings: Settings;
}

export interface QueueItem {
  id: string;
  prompt: string;
  state: "playing" | "next" | "waiting" | "past";
  from_segment: number | null;
}

export interface SegmentMessage {
  type: "segment";
  index: number;
  start_sample: number;
  n_samples: number;
  prompt_from: string;
  prompt_to: string;
  alpha: number;
  seed: number;
  num_inference_steps: number;
  share: Record<string, unknown>;
  discontinuity: boolean;
}

export interface Segment extends SegmentMessage {
  pcm: Int16Array;
  png: Blob;
}

export interface Hello {
  type: "hello";
  rate_hz: number;
  channels: number;
  segment_samples: number;
  columns: number;
  n_mels: number;
  settings: Settings;
  queue: QueueItem[];
  live_index: number;
}

export type ServerMessage =
  | Hello
  | SegmentMessage
  | { type: "queue"; queue: QueueItem[] }
  | { type: "behind"; behind: boolean; steps: number }
  | { type: "idle" }
  | { type: "gone"; why: string };

export type WorkletMessage =
  | { type: "push"; epoch: number; start: number; planes: Float32Array[]; fade: boolean }
  | { type: "seek"; epoch: number }
  | { type: "run"; on: boolean };

export interface Report {
  /** Sample of the session that the next quantum begins with. */
  position: number;
  /** Samples consumed since the beginning. */
  played: number;
  /** The context's time at the end of the quantum that the report is of. */
  time: number;
  buffered: number;
  moving: boolean;
  starving: boolean;
  underruns: number;
  held: number;
  joins: number;
  joinStep: number;
  insideStep: number;
  epoch: number;
}

declare global {
  // The scope of an AudioWorklet, which TypeScript's DOM library lacks.
  const sampleRate: number;
  const currentTime: number;
  class AudioWorkletProcessor {
    readonly port: MessagePort;
    constructor(options?: AudioWorkletNodeOptions);
  }
  function registerProcessor(name: string, processor: typeof AudioWorkletProcessor): void;
  interface Navigator {
    audioSession?: { type: string };
  }
}
