"""Audition pages of synthetic clips, made without a model: tones of known level, and images with one band."""

import dataclasses
import json
from pathlib import Path

import numpy as np
from support.nano import NANO_SPECTROGRAM

from riffusion_train.audio.codec import EncodedClip
from riffusion_train.audio.image_file import save_image
from riffusion_train.audio.read import read_audio
from riffusion_train.audio.write import write_audio
from riffusion_train.audition.site import Cell, Site, Version
from riffusion_train.listening.heard import measure_sound

EVIL = '<img src=x onerror="window.hacked=1">\'&amp;</script><script>window.hacked=2</script>'
PROMPTS = ("a low band", EVIL)
SEEDS = (0, 7)
LEVELS_DB = {"step 100": -12.0, "step 200": -20.0, "final · <b>600</b>": -26.0}
RATE_HZ = NANO_SPECTROGRAM.rate_hz
CLIP_S = 2.5


def write_clip(
    folder: Path, stem: str, *, prompt: str = "a low band", seed: int = 0, level_db: float = -20.0, **settings: object
) -> None:
    """Write a clip: a tone with its peak at `level_db`, an image with one band, and its settings."""
    path = folder / stem
    path.parent.mkdir(parents=True, exist_ok=True)
    time_s = np.arange(round(CLIP_S * RATE_HZ)) / RATE_HZ
    tone = 10 ** (level_db / 20) * np.sin(2 * np.pi * (400 + 100 * seed) * time_s)
    write_audio(path.with_name(f"{path.name}.wav"), tone.astype(np.float32)[None], RATE_HZ)
    image = np.full((32, 32), 230, np.uint8)
    image[20 - seed] = 20
    save_image(path.with_name(f"{path.name}.png"), EncodedClip(image, 0.0), NANO_SPECTROGRAM)
    record = {"prompt": prompt, "negative_prompt": "", "seed": seed, "guidance_scale": 7.0, **settings}
    path.with_name(f"{path.name}.json").write_text(json.dumps(record), encoding="utf-8")


def make_site(folder: Path, **changes: object) -> Site:
    """Write the clips of a small grid and return its site: two prompts (one of them malicious), three versions, two seeds."""
    cells = []
    for number, (name, level_db) in enumerate(LEVELS_DB.items()):
        for row, prompt in enumerate(PROMPTS):
            for seed in SEEDS:
                stem = f"clips/v {number}#1/{row}-seed{seed}"
                write_clip(folder, stem, prompt=prompt, seed=seed, level_db=level_db - row)
                cells.append(Cell(stem, name, f"riffusion sample 'model {number}' --prompt {prompt} seed={seed}"))
    versions = [Version(name, f"runs/{EVIL}", 100 * number) for number, name in enumerate(LEVELS_DB, start=1)]
    content = {"title": f"Listening {EVIL}", "command": f"riffusion evaluate grid {EVIL}", "versions": versions}
    return Site(**{**content, "cells": cells, **changes})  # type: ignore[arg-type]


def write_scores_beside(folder: Path, site: Site) -> None:
    """Write a `scores.json` of all clips but the last: scores that fall from clip to clip, and the first two are copies."""
    clips = []
    for number, cell in enumerate(site.cells[:-1]):
        share = 1 - number / len(site.cells)
        sound = measure_sound(*read_audio(folder / f"{cell.stem}.wav"))
        nearest = {"track": EVIL, "similarity": share, "is_copy": number < 2, "shift_s": 0.72, "transposition": -number}
        judged = {
            "caption_match": share,
            "realness": share / 2,
            "nearest": nearest,
            "tempo_bpm": None,
            "key": "A minor",
        }
        clips.append({"file": f"{cell.stem}.wav", **judged, **dataclasses.asdict(sound)})
    (folder / "scores.json").write_text(json.dumps({"rows": [], "clips": clips}), encoding="utf-8")
