import json
from pathlib import Path

import numpy as np
import pytest
from datasets import load_dataset
from PIL import Image
from support.nano import NANO_MODEL
from support.produced_tracks import write_folder

from riffusion_train.audio.read import read_audio
from riffusion_train.cli.main import main

NUM_TRACKS = 28


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("produced")
    assert write_folder(folder / "audio") == NUM_TRACKS
    arguments = [f"audio={folder / 'audio'}", f"out={folder / 'dataset'}", "spectrogram=tiny", "validation_ratio=0.1"]
    assert main(["prepare", *arguments]) == 0
    return folder


def test_every_track_is_cut_into_captioned_slices(world: Path) -> None:
    dataset = load_dataset(str(world / "dataset"))
    rows = [row for split in dataset.values() for row in split]
    assert len({row["track_id"] for row in rows}) == NUM_TRACKS
    assert len(rows) >= 5 * NUM_TRACKS  # each lasts 29 to 33 s, a slice 5.04 s
    assert all(len(row["caption"]) == 2 and "music" in row["caption"][0] for row in rows)
    assert all(row["image"].size == (64, 64) for row in rows)
    assert not {row["track_id"] for row in dataset["train"]} & {row["track_id"] for row in dataset["validation"]}
    intensities = [255 - np.asarray(row["image"]).mean() for row in rows]
    assert min(intensities) > 20, "a slice is almost silent"


def test_tracks_become_a_model_that_makes_sound(world: Path, capsys: pytest.CaptureFixture[str]) -> None:
    nano = [*NANO_MODEL, "model.sample_size=16"]
    arguments = [f"dataset={world / 'dataset'}", "max_train_steps=20", "train_batch_size=4", "optimizer.lr=1e-3"]
    assert (
        main(["train", f"run={world / 'vae'}", "method=vae", "method.train_vae_encoder=true", *nano, *arguments]) == 0
    )
    arguments += ["method.train_text_encoder=true", "preview.every_steps=20", "preview.num_prompts=1"]
    assert main(["train", f"run={world / 'run'}", f"model={world / 'vae' / 'final'}", *arguments]) == 0
    assert main(["export", f"run={world / 'run'}", f"out={world / 'model'}"]) == 0
    prompt = 'calm, "acoustic" music (live), 68 bpm'
    assert main(["sample", str(world / "model"), "--prompt", prompt, f"out={world / 'clips'}", "seed=3"]) == 0
    assert "sampled: 1 clips" in capsys.readouterr().out
    settings = json.loads(next((world / "clips").glob("*.json")).read_text())
    assert (settings["prompt"], settings["seed"]) == (prompt, 3)
    assert Image.open(next((world / "clips").glob("*.png"))).size == (64, 64)
    wav, rate_hz = read_audio(next((world / "clips").glob("*.wav")))
    assert (rate_hz, wav.shape) == (22050, (1, 63 * 1764))
    assert 0.1 < np.abs(wav).max() <= 1.0
    assert len(list((world / "run" / "previews" / "step-000020").iterdir())) == 3
