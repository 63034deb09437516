"""What version 0.1.0 wrote stays of use: its dataset, its run, its models and its clips, in `tests/fixtures/v0_1_0`."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import soundfile
from datasets import load_dataset
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor

from riffusion_train.cli.main import main

FIXTURE = Path(__file__).parents[1] / "fixtures" / "v0_1_0"
PARTS = ("unet/diffusion_pytorch_model", "vae/diffusion_pytorch_model", "text_encoder/model")
SAMPLING = ["num_inference_steps=2", "quality=draft", "device=cpu", "num_threads=1"]
TEXT, LONG = "clips/0000-slow-piano-seed3", "clips/0000-fast-choir-seed4"


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A copy of the fixture as the current folder, for its clips name their models by relative paths."""
    folder = tmp_path_factory.mktemp("written") / "v0_1_0"
    shutil.copytree(FIXTURE, folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert main(["import", "model.safetensors", "out=imported"]) == 0
        for model in ("run/final", "model"):
            shutil.copytree("imported/tokenizer", f"{model}/tokenizer")
        yield folder


def weights_of(model: Path) -> dict[str, Tensor]:
    """Return the weights of a folder or of a file, by part and name."""
    if model.is_file():
        return load_file(model)
    parts = {part: load_file(model / f"{part}.safetensors") for part in PARTS}
    return {f"{part}: {name}": weight for part, weights in parts.items() for name, weight in weights.items()}


def losses_of(run: Path) -> dict[tuple[int, str], float]:
    """The losses by step and name; where a step is there twice, the later one."""
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return {(row["step"], name): row[name] for row in rows for name in ("loss", "validation_loss") if name in row}


def pixels_of(path: Path) -> np.ndarray:
    with Image.open(path) as picture:
        return np.asarray(picture).astype(int)


def sample(out: Path, *words: str) -> Path:
    """Make one clip; return the place of its files without their ends."""
    assert main(["sample", *words, f"out={out}", *SAMPLING]) == 0
    (settings,) = out.glob("*.json")
    return settings.with_suffix("")


def test_the_dataset_opens(world: Path) -> None:
    dataset = load_dataset(str(world / "dataset"))
    assert {split: len(rows) for split, rows in dataset.items()} == {"train": 5, "validation": 1}
    row = dataset["train"][0]
    assert row["image"].size == (64, 64)
    assert row["caption"][0] == "fast choir melody, middle register, four on the floor beat"


def test_the_run_goes_on_from_its_checkpoint_to_the_same_end(world: Path, tmp_path: Path) -> None:
    """The last digits depend on the processor."""
    shutil.copytree("run", tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "final")
    metrics = tmp_path / "run" / "metrics.jsonl"
    rows = metrics.read_text().splitlines(keepends=True)
    metrics.write_text("".join(row for row in rows if json.loads(row)["step"] <= 2))
    started = json.loads((world / "run" / "overrides.jsonl").read_text().splitlines()[0])["overrides"]
    words = [word for word in started if not word.startswith("run=")]
    assert main(["train", *words, f"run={tmp_path / 'run'}", "resume=auto"]) == 0
    expected, losses = losses_of(world / "run"), losses_of(tmp_path / "run")
    assert losses.keys() == expected.keys()
    assert {(3, "loss"), (4, "loss"), (4, "validation_loss")} < losses.keys()
    assert [losses[key] for key in expected] == pytest.approx(list(expected.values()), rel=1e-4)
    before, after = weights_of(world / "run" / "final"), weights_of(tmp_path / "run" / "final")
    assert before.keys() == after.keys()
    assert [name for name, weight in before.items() if not weight.allclose(after[name], atol=1e-4)] == []


@pytest.mark.parametrize(
    ("name", "words"), [("model", ["dtype=fp16"]), ("model.safetensors", ["format=single_file", "dtype=bf16"])]
)
def test_the_run_is_exported_as_it_was(world: Path, tmp_path: Path, name: str, words: list[str]) -> None:
    assert main(["export", "run=run", f"out={tmp_path / name}", *words]) == 0
    before, after = weights_of(world / name), weights_of(tmp_path / name)
    assert before.keys() == after.keys()
    assert [key for key, weight in before.items() if not weight.equal(after[key])] == []


def test_a_checkpoint_of_the_run_is_exported(world: Path, tmp_path: Path) -> None:
    assert main(["export", "run=run", f"out={tmp_path / 'early'}", "checkpoint=2", "weights=raw"]) == 0
    state = load_file(world / "run" / "checkpoints" / "step-000002" / "trained.safetensors")
    unet = load_file(tmp_path / "early" / f"{PARTS[0]}.safetensors")
    assert {f"unet.{name}" for name in unet} == state.keys()
    assert all(weight.equal(state[f"unet.{name}"]) for name, weight in unet.items())


@pytest.mark.parametrize("model", ["model", "model.safetensors", "run/final", "base.safetensors"])
def test_every_model_sings(world: Path, tmp_path: Path, model: str) -> None:
    clip = sample(tmp_path, model, "--prompt", "slow piano")
    wav, rate_hz = soundfile.read(clip.with_suffix(".wav"))
    assert (rate_hz, wav.shape) == (22050, (63 * 1764,))
    assert np.abs(wav).max() > 0.05
    assert pixels_of(clip.with_suffix(".png")).shape == (64, 64)


def test_the_lora_changes_what_is_drawn(world: Path, tmp_path: Path) -> None:
    words = ["model", "--prompt", "slow piano"]
    plain = sample(tmp_path / "plain", *words)
    styled = sample(tmp_path / "styled", *words, "--lora", "lora.safetensors:4")
    pictures = [pixels_of(clip.with_suffix(".png")) for clip in (plain, styled)]
    assert np.abs(pictures[0] - pictures[1]).max() > 0
    assert json.loads(styled.with_suffix(".json").read_text())["loras"] == ["lora.safetensors:4"]


@pytest.mark.parametrize(
    ("clip", "file", "sound"),
    [
        (TEXT, ".json", ".wav"),
        (TEXT, ".png", ".wav"),
        (TEXT, ".wav", ".wav"),
        (LONG, ".png", ".flac"),
        (LONG, ".flac", ".flac"),
    ],
)
def test_a_clip_is_made_again_from_each_of_its_files(
    world: Path, tmp_path: Path, clip: str, file: str, sound: str
) -> None:
    """The phase of the sound follows the last digits of the processor that finds it: by up to a tenth of the level."""
    words = [f"out={tmp_path}", f"format={sound[1:]}", "device=cpu", "num_threads=1"]
    assert main(["sample", "--again", f"{clip}{file}", *words]) == 0
    old, new = world / clip, next(tmp_path.glob("*.json")).with_suffix("")
    number, words_of_old = old.name.split("-", 1)
    assert new.name == f"{number}-{'long' if clip == LONG else 'text'}-{words_of_old}"
    assert np.abs(pixels_of(old.with_suffix(".png")) - pixels_of(new.with_suffix(".png"))).max() <= 1
    before, after = (soundfile.read(stem.with_suffix(sound))[0] for stem in (old, new))
    assert before.shape == after.shape
    assert np.linalg.norm(before - after) < 0.2 * np.linalg.norm(before)
    settings = [json.loads(stem.with_suffix(".json").read_text()) for stem in (old, new)]
    for key in ("mode", "prompt", "seed", "guidance_scale", "scheduler", "model", "model_fingerprint"):
        assert settings[0][key] == settings[1][key]
