// The shapes that the modules of the page share, beside those of types.d.ts; read by `tsc --checkJs` alone and never served.

import type { LoraFader, QueueItem, Settings } from "./types.d.ts";

export type Channels = "mono" | "stereo" | "stereo_phase";

/** The JSON schema of a setting, with what the page needs to build its field. */
export interface SettingField {
  title: string;
  control?: "slider" | "text" | "seed" | "groove";
  order?: number;
  slider?: { minimum: number; maximum: number; step: number };
  minimum?: number;
  maximum?: number;
  maxLength?: number;
}

export interface Choices {
  model: string;
  rate_hz: number;
  channels: number;
  segment_s: number;
  hop_length: number;
  planes: Channels;
  row_hz: number[];
  seed_images: { id: string; name: string; about: string }[];
  dice: string[];
  builder: Record<"genre" | "mood" | "instrument" | "tempo", string[]>;
  limits: { prompt_chars: number; upload_bytes: number; mix: number };
  loras: LoraFader[];
  /** Seconds until a change should be heard. */
  delay_s: number;
  schema: Record<keyof Settings, SettingField>;
  settings: Settings;
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
  /** Changes that were made before it while the stream played: one with a higher number replaces what was sent from its first sample on. */
  change: number;
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
  delay_s: number;
  digital_source_type: string;
  model_fingerprint: string;
  dataset_fingerprint: string | null;
}

export type ServerMessage =
  | Hello
  | SegmentMessage
  | { type: "queue"; queue: QueueItem[] }
  | { type: "behind"; behind: boolean; steps: number }
  | { type: "idle" }
  | { type: "gone"; why: string };

export type WorkletMessage =
  | { type: "push" | "splice"; epoch: number; start: number; channels: Float32Array[]; fade: boolean }
  | { type: "seek"; epoch: number }
  | { type: "run"; on: boolean };

/** Figures of the audio thread. */
export interface Report {
  /** Sample of the session that the next quantum begins with. */
  position: number;
  /** Samples played since the beginning. */
  played: number;
  /** The context's time at the end of the quantum that was reported. */
  time: number;
  buffered: number;
  moving: boolean;
  starving: boolean;
  underruns: number;
  /** Samples in which the last sound was sustained, since nothing new had come. */
  held: number;
  /** Boundaries between two pieces that follow one another. */
  boundaries: number;
  /** Largest step from one sample to the next, at boundaries and inside pieces. */
  boundaryStep: number;
  insideStep: number;
  /** Changes that were heard, the context's time at the first sample of the last one that differs, and the largest step near them. */
  changes: number;
  changeTime: number;
  changeStep: number;
  /** Changes that came too late for their first sample, and were crossfaded in where it played. */
  late: number;
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
