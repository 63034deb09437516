import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.models import nano_components

from riffusion_train.audio.read import read_audio
from riffusion_train.config.sample import SamplerConfig
from riffusion_train.evaluation.grid import Grid, GridModel
from riffusion_train.runtime.errors import InputError, StoppedError
from riffusion_train.sampling.sampler import Sampler

FAST = SamplerConfig(num_inference_steps=1)


class Shelf:
    """Nano models by name, and how often each was loaded."""

    def __init__(self) -> None:
        self.loaded: list[str] = []

    def model(self, name: str, step: int, source: str = "run", fingerprint: str | None = None) -> GridModel:
        def load(device: str | None = None, **options: Any) -> Sampler:
            self.loaded.append(name)
            return Sampler(nano_components(seed=step), device=device or "cpu", **options)

        return GridModel(name, source, step, fingerprint or f"weights{step}", load, (f"checkpoints={step}",))


def cells(folder: Path) -> list[dict[str, Any]]:
    return list(json.loads((folder / "site.json").read_text())["cells"])


def grid(folder: Path, models: list[GridModel], *prompts: str, **options: Any) -> Grid:
    return Grid(folder, models, prompts or ("a band", "a line"), **{"settings": FAST, **options})


def test_every_model_makes_every_prompt_with_every_seed(tmp_path: Path) -> None:
    shelf = Shelf()
    made = grid(tmp_path, [shelf.model("early", 1), shelf.model("late", 2)], seeds=[0, 3]).make()
    assert made == 8 and shelf.loaded == ["early", "late"]
    found = cells(tmp_path)
    rows = [(cell["version"], cell["settings"]["prompt"], cell["settings"]["seed"]) for cell in found]
    assert rows == [(v, p, s) for v in ("v1", "v2") for p in ("a band", "a line") for s in (0, 3)]
    for cell in found:
        wav, rate_hz = read_audio(tmp_path / cell["audio"])
        assert rate_hz == 16000 and np.abs(wav).max() > 0.01
    images = {(tmp_path / cell["image"]).read_bytes() for cell in found}
    assert len(images) == 8


def test_what_stands_is_not_made_again_and_its_model_is_not_loaded(tmp_path: Path) -> None:
    shelf = Shelf()
    grid(tmp_path, [shelf.model("early", 1)]).make()
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.wav")}
    longer = grid(tmp_path, [shelf.model("run · early", 1), shelf.model("run · late", 2)])
    assert longer.count_existing() == 2
    assert longer.make() == 2
    assert shelf.loaded == ["early", "run · late"]
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert [cell["version"] for cell in cells(tmp_path)] == ["v1", "v1", "v2", "v2"]


@pytest.mark.parametrize("kind", ["wav", "png", "json"])
def test_a_clip_that_lacks_a_file_is_made_again(tmp_path: Path, kind: str) -> None:
    models = [Shelf().model("m", 1)]
    grid(tmp_path, models).make()
    lost = next(tmp_path.rglob(f"*.{kind}")) if kind != "json" else next((tmp_path / "clips").rglob("*.json"))
    before = lost.read_bytes()
    lost.unlink()
    assert grid(tmp_path, models).make() == 1
    assert lost.read_bytes() == before


@pytest.mark.parametrize(
    "change",
    [
        {"settings": SamplerConfig(guidance_scale=2.0, num_inference_steps=1)},
        {"negative": "noise"},
        {"seeds": [1]},
        {"audio_format": "flac"},
    ],
)
def test_other_settings_are_other_clips(tmp_path: Path, change: dict[str, Any]) -> None:
    models = [Shelf().model("m", 1)]
    grid(tmp_path, models).make()
    assert grid(tmp_path, models, **change).make() == 2


def test_a_checkpoint_with_other_weights_under_the_same_name_is_made_anew(tmp_path: Path) -> None:
    grid(tmp_path, [Shelf().model("m", 1, fingerprint="before")]).make()
    assert grid(tmp_path, [Shelf().model("m", 1, fingerprint="after")]).make() == 2


def test_an_interrupted_grid_shows_what_it_has_and_goes_on(tmp_path: Path) -> None:
    shelf = Shelf()

    def fail(**options: Any) -> Sampler:
        raise KeyboardInterrupt

    broken = GridModel("late", "run", 2, "weights2", fail, ("checkpoints=2",))
    with pytest.raises(KeyboardInterrupt):
        grid(tmp_path, [shelf.model("early", 1), broken]).make()
    assert len(cells(tmp_path)) == 2
    assert grid(tmp_path, [shelf.model("early", 1), shelf.model("late", 2)]).make() == 2
    assert shelf.loaded == ["early", "late"]


def test_a_clip_that_is_being_written_leaves_nothing_that_looks_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "riffusion_train.sampling.clip.save_image", lambda *_: (_ for _ in ()).throw(OSError(28, "full"))
    )
    with pytest.raises(OSError, match="full"):
        grid(tmp_path, [Shelf().model("m", 1)]).make()
    assert cells(tmp_path) == []
    assert not [path for path in (tmp_path / "clips").rglob("*") if path.is_file()]


def test_a_grid_that_is_asked_to_stop_stops_after_the_clip_and_goes_on(tmp_path: Path) -> None:
    shelf = Shelf()
    with pytest.raises(StoppedError, match="1 of 2 clips are done; the same command continues"):
        grid(tmp_path, [shelf.model("m", 1)]).make(batch_size=1, asked_to_stop=lambda: True)
    assert len(cells(tmp_path)) == 1
    assert grid(tmp_path, [shelf.model("m", 1)]).make() == 1


def test_long_and_odd_prompts_and_repeated_ones_get_one_place_each(tmp_path: Path) -> None:
    prompts = ["../../etc/passwd", "x" * 3000, "", "音楽", "a\nb", "a band", "a band"]
    assert grid(tmp_path / "site", [Shelf().model("m", 1)], *prompts).make() == 6
    assert not [path for path in tmp_path.rglob("*") if "site" not in path.parts]
    assert [cell["settings"]["prompt"] for cell in cells(tmp_path / "site")] == prompts[:6]


def test_each_clip_says_the_command_that_makes_it(tmp_path: Path) -> None:
    run = Shelf().model("m", 1, source="runs/my run")
    assert run.command("it's", "", 3, FAST) == (
        "riffusion evaluate grid 'runs/my run' --prompt 'it'\"'\"'s' checkpoints=1 seeds=3 "
        "guidance_scale=7 num_inference_steps=1 scheduler=dpmsolver quality=normal out=clips"
    )
    model = GridModel("m", "model", None, "w", run.load)
    assert model.command("a", "b", 3, FAST).startswith("riffusion sample model --prompt a --negative b seed=3 ")


def test_a_folder_that_holds_something_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "index.html").write_text("mine")
    with pytest.raises(InputError, match=r"index\.html: is another page; choose another folder"):
        grid(tmp_path, [Shelf().model("m", 1)]).make()
    assert (tmp_path / "index.html").read_text() == "mine"
    (tmp_path / "index.html").rename(tmp_path / "thesis.txt")
    with pytest.raises(InputError, match="holds files that are no audition"):
        grid(tmp_path, [Shelf().model("m", 1)]).make()
    with pytest.raises(InputError, match="is a file; name a folder"):
        grid(tmp_path / "thesis.txt", [Shelf().model("m", 1)]).make()
