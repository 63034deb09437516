// Written by `python -m riffusion_train.player.bodies` from the models of the server; do not edit.

export interface Settings {
  prompt: string;
  negative_prompt: string;
  seed: number;
  guidance_scale: number;
  num_inference_steps: number;
  place: number;
  strength: number;
  seed_image: "beats" | "half_time" | "plucked" | "pad" | null;
  guidance_from: number;
  guidance_rescale: number;
  seed_upload: string | null;
  prompt_weight: number;
  mix: Part[];
  loras: LoraFader[];
  clips: number;
}

export interface Part {
  prompt: string;
  weight: number;
}

export interface LoraFader {
  name: string;
  scale: number;
}

export interface QueueItem {
  id: string;
  prompt: string;
  state: "past" | "playing" | "next" | "waiting";
  from_segment: number | null;
}

export interface UploadAnswer {
  id: string;
  name: string;
  duration_s: number;
}
