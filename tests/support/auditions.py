"""Audition sites of made-up clips: tones of known level under images with one band, without any model."""

import json
from pathlib import Path

import numpy as np
from support.worlds import NANO_SPECTROGRAM

from riffusion_train.audio.codec.codec import EncodedClip
from riffusion_train.audio.codec.image_file import save_image
from riffusion_train.audio.io.write import write_audio
from riffusion_train.audition.site import Cell, Site, Version

EVIL = '<img src=x onerror="window.hacked=1">\'&amp;</script><script>window.hacked=2</script>'
PROMPTS = ("a low band", EVIL)
SEEDS = (0, 7)
LEVELS_DB = {"step 100": -12.0, "step 200": -20.0, "final · <b>600</b>": -26.0}
RATE_HZ = NANO_SPECTROGRAM.rate_hz
CLIP_S = 2.5


def write_clip(
    folder: Path, stem: str, *, prompt: str = "a low band", seed: int = 0, level_db: float = -20.0, **settings: object
) -> None:
    """Write a tone whose peak is at a level, an image and settings."""
    path = folder / stem
    path.parent.mkdir(parents=True, exist_ok=True)
    time_s = np.arange(round(CLIP_S * RATE_HZ)) / RATE_HZ
    tone = 10 ** (level_db / 20) * np.sin(2 * np.pi * (400 + 100 * seed) * time_s)
    write_audio(path.with_name(f"{path.name}.wav"), tone.astype(np.float32)[None], RATE_HZ)
    image = np.full((32, 32), 230, np.uint8)
    image[20 - seed] = 20
    save_image(path.with_name(f"{path.name}.png"), EncodedClip(image, 0.0), NANO_SPECTROGRAM)
    said = {"prompt": prompt, "negative_prompt": "", "seed": seed, "guidance_scale": 7.0, **settings}
    path.with_name(f"{path.name}.json").write_text(json.dumps(said), encoding="utf-8")


def make_site(folder: Path, **changes: object) -> Site:
    """Write the clips of a small grid and return its site: two prompts (one hostile), three versions, two seeds."""
    cells = []
    for number, (name, level_db) in enumerate(LEVELS_DB.items()):
        for place, prompt in enumerate(PROMPTS):
            for seed in SEEDS:
                stem = f"clips/v {number}#1/{place}-seed{seed}"
                write_clip(folder, stem, prompt=prompt, seed=seed, level_db=level_db - place)
                cells.append(Cell(stem, name, f"riffusion sample 'model {number}' --prompt {prompt} seed={seed}"))
    versions = [Version(name, f"runs/{EVIL}", 100 * number) for number, name in enumerate(LEVELS_DB, start=1)]
    content = {"title": f"Listening {EVIL}", "command": f"riffusion evaluate grid {EVIL}", "versions": versions}
    return Site(**{**content, "cells": cells, **changes})  # type: ignore[arg-type]
