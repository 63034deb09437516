"""The nano model, which trains in milliseconds per step, its spectrogram format, and datasets for it."""

import hashlib
import io
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from riffusion_train.config.compose import compose
from riffusion_train.config.spectrogram import SpectrogramConfig, write_spectrogram
from riffusion_train.config.train import TrainConfig
from riffusion_train.dataset.layout import arrow_schema, shard_name

NANO_MODEL = [
    "model=tiny",
    "model.sample_size=8",
    "model.vae_block_out_channels=[8,8,8]",
    "model.vae_norm_num_groups=4",
    "model.unet_block_out_channels=[16,16]",
    "model.unet_attention_levels=[true,false]",
    "model.unet_attention_head_dim=4",
    "model.text_hidden_size=16",
    "model.text_intermediate_size=16",
    "model.text_num_hidden_layers=1",
    "model.text_num_attention_heads=2",
]
"""SD 1.5's architecture at the smallest possible size: 32 x 32 images, 8 x 8 latents."""

NANO_SPECTROGRAM = SpectrogramConfig(
    name="nano",
    rate_hz=16000,
    hop_length=400,
    win_length=1600,
    n_fft=2048,
    n_mels=32,
    width_px=32,
    f_max_hz=8000.0,
    decode_rate_hz=16000,
    decode_n_fft=2048,
)


def write_dataset(
    folder: Path,
    num_train: int = 12,
    num_validation: int = 3,
    *,
    seed: int = 0,
    spectrogram: SpectrogramConfig = NANO_SPECTROGRAM,
    captions: Sequence[str] = (),
    images: Sequence[np.ndarray] = (),
) -> Path:
    """Write a dataset of images with one dark band each, whose captions name it; or of `images` and `captions` where given."""
    (folder / "data").mkdir(parents=True)
    write_spectrogram(folder, spectrogram)
    rng = np.random.default_rng(seed)
    shards = []
    for split, count in (("train", num_train), ("validation", num_validation)):
        if not count:
            continue
        rows = [_row(index, spectrogram, rng) for index in range(count)]
        for row, caption in zip(rows, captions, strict=False):
            row["caption"] = [caption]
        for row, image in zip(rows, images, strict=False):
            row["image"] = _png(image)
        path = folder / "data" / shard_name(split, 0)
        pq.write_table(pa.Table.from_pylist(rows, schema=arrow_schema()), path)
        shards.append({"name": path.name, "split": split, "slices": count, "bytes": path.stat().st_size})
    fingerprint = hashlib.sha256(b"".join((folder / "data" / shard["name"]).read_bytes() for shard in shards))
    stats = {"schema_version": 1, "fingerprint": fingerprint.hexdigest(), "shards": shards}
    (folder / "stats.json").write_text(json.dumps(stats))
    return folder


def train_config(dataset: Path, run: Path, *overrides: str) -> TrainConfig:
    """Compose a config for the nano model."""
    return compose("train", TrainConfig, train_arguments(dataset, run, *overrides))


def train_arguments(dataset: Path, run: Path, *overrides: str) -> list[str]:
    """Return the command-line arguments of a short run of the nano model."""
    return [
        f"dataset={dataset}",
        f"run={run}",
        *NANO_MODEL,
        "train_batch_size=4",
        "optimizer.lr=1e-3",
        "schedule=cosine",
        "schedule.num_warmup_steps=2",
        "logging_steps=1",
        "checkpointing_steps=100",
        "num_threads=1",
        "tracker=files",
        *overrides,
    ]


def _row(index: int, spectrogram: SpectrogramConfig, rng: np.random.Generator) -> dict[str, object]:
    image = np.full((spectrogram.n_mels, spectrogram.width_px), 230, np.uint8)
    image[(5 * index) % 28 : (5 * index) % 28 + 4] = 30
    image = np.clip(image + rng.normal(0, 5, image.shape), 0, 255).astype(np.uint8)
    return {
        "image": _png(image),
        "caption": [f"band {index}", f"a line, number {index}"],
        "track_id": f"track-{index}",
        "start_s": 0.0,
        "duration_s": spectrogram.clip_s,
        "loudness_lufs": -14.0,
        "max_value": 1e5,
        "source": f"{index}.wav",
    }


def _png(image: np.ndarray) -> dict[str, object]:
    """Return an image as a row holds it."""
    file = io.BytesIO()
    Image.fromarray(image).save(file, "PNG")
    return {"bytes": file.getvalue(), "path": None}
