"""`riffusion evaluate grid … real=DATASET`: every clip of a grid judged by itself, for the page."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.nano import train_config, write_dataset

from riffusion_train.cli.main import main
from riffusion_train.dataset.spectrograms import load_dataset
from riffusion_train.evaluation.grid_scores import caption_matches
from riffusion_train.export.write import export_run
from riffusion_train.listening.captions import CaptionModel
from riffusion_train.listening.embedder import Heard
from riffusion_train.listening.judge import JudgedClip
from riffusion_train.runtime.errors import EXIT_DONE, EXIT_INPUT
from riffusion_train.training.run import run_training

QUICK = ["num_inference_steps=1", "quality=draft", "device=cpu"]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dataset that is large enough for the search for copies, and a model trained on it for one step."""
    folder = tmp_path_factory.mktemp("grid")
    write_dataset(folder / "dataset", 52, 14)
    export_run(
        run_training(train_config(folder / "dataset", folder / "run", "max_train_steps=1"), []), folder / "model"
    )
    return folder


def grid(world: Path, *arguments: str) -> int:
    return main(["evaluate", "grid", str(world / "model"), *arguments, f"out={world / 'audition'}", *QUICK])


def read(world: Path, name: str) -> Any:
    return json.loads((world / "audition" / name).read_text(encoding="utf-8"))


def test_clips_are_scored_once_and_the_page_has_their_scores(world: Path, capsys: pytest.CaptureFixture[str]) -> None:
    real = f"real={world / 'dataset'}"
    assert grid(world, "--prompt", "band 3", "seeds=0-1", real) == EXIT_DONE
    assert "scored: 2 clips, 0 already scored" in capsys.readouterr().out
    first = read(world, "scores.json")
    cells = read(world, "site.json")["cells"]
    assert [clip["file"] for clip in first["clips"]] == [cell["audio"] for cell in cells]
    for cell in cells:
        assert {"realness", "copy_similarity", "bandwidth_hz"} <= cell["metrics"].keys()
        assert isinstance(cell["is_copy"], bool) and "similar to a slice of" in cell["nearest"]
    assert {row["what"].partition(",")[0] for row in first["rows"]} >= {"realness", "copies"}
    assert grid(world, "--prompt", "band 3", "--prompt", "a line", "seeds=0-1", real) == EXIT_DONE
    assert "scored: 2 clips, 2 already scored" in capsys.readouterr().out
    second = read(world, "scores.json")["clips"]
    assert [clip for clip in second if clip["captions"] == ["band 3"]] == first["clips"] and len(second) == 4
    assert grid(world, "--prompt", "band 3", "seeds=0-1") == EXIT_DONE  # the scores that are there stay on the page
    assert all("realness" in cell["metrics"] for cell in read(world, "site.json")["cells"])


def test_what_is_no_dataset_is_refused_before_anything_is_sampled(
    world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for folder, message in ((tmp_path, "is no dataset folder"), (tmp_path / "gone", "is no dataset folder")):
        assert main(
            ["evaluate", "grid", str(world / "model"), "--prompt", "x", f"real={folder}", f"out={tmp_path / 'a'}"]
        )
        assert message in capsys.readouterr().err
    write_dataset(tmp_path / "unsplit", 6, 0)
    words = ["--prompt", "x", f"real={tmp_path / 'unsplit'}", f"out={tmp_path / 'a'}"]
    assert main(["evaluate", "grid", str(world / "model"), *words]) == EXIT_INPUT
    assert "has no validation split" in capsys.readouterr().err
    assert not (tmp_path / "a").exists()


def test_a_clip_matches_its_caption_if_what_is_heard_is_what_it_names(world: Path) -> None:
    rng = np.random.default_rng(0)
    is_piano = np.arange(80) % 2 == 0
    embeddings = np.where(is_piano[:, None], 1.0, -1.0) + rng.normal(0, 0.3, (80, 6))
    model = CaptionModel(embeddings, [["piano"] if one else ["guitar"] for one in is_piano])

    class HeldOut:
        def all_captions(self) -> list[str]:
            return ["piano", "guitar"]

    def clip(caption: str | None, level: float) -> JudgedClip:
        embedding = np.full(6, level, np.float32)
        heard = Heard(embedding, embedding[None], {}, np.zeros((1, 0), np.float32))
        return JudgedClip("a", (np.zeros((1, 10), np.float32), 16000), caption, heard=heard)

    clips = [clip("piano", 1.0), clip("piano", -1.0), clip(None, 1.0), clip("zither", 1.0)]
    assert caption_matches(clips, model, HeldOut()) == [1.0, 0.0, None, None]  # type: ignore[arg-type]
    assert caption_matches(clips, ValueError("too few"), load_dataset(world / "dataset")) == [None] * 4
