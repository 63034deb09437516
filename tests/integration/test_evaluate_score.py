import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.nano import NANO_SPECTROGRAM, train_config, write_dataset

import riffusion_train
from riffusion_train.audio.codec import make_codec
from riffusion_train.audio.write import write_audio
from riffusion_train.cli.main import main
from riffusion_train.dataset.spectrograms import load_dataset
from riffusion_train.export.write import export_run
from riffusion_train.runtime.errors import EXIT_DONE, EXIT_INPUT
from riffusion_train.training.run import run_training

QUICK = ["num_inference_steps=1", "quality=draft", "real_quality=draft", "device=cpu"]
NUM_REAL, NUM_SLICES = 14, 52


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dataset with its audio, a model trained on it for one step, and clips: two copies of slices among noise."""
    folder = tmp_path_factory.mktemp("score")
    write_dataset(folder / "dataset", NUM_SLICES, NUM_REAL)
    run = run_training(train_config(folder / "dataset", folder / "run", "max_train_steps=1"), [])
    export_run(run, folder / "model")
    trained, codec = load_dataset(folder / "dataset"), make_codec(NANO_SPECTROGRAM)
    rng = np.random.default_rng(0)
    (folder / "clips" / "sub").mkdir(parents=True)
    for number in range(12):
        wav = rng.normal(0, 0.1, (1, codec.clip_samples)).astype(np.float32)
        if number in (3, 7):
            wav = codec.decode(trained.image(number), quality="draft")
        write_audio(folder / "clips" / "sub" / f"{number:02d}.wav", wav, codec.rate_hz)
    rows = "".join(f"sub/{number:02d}.wav,band {number}\n" for number in range(11))
    (folder / "clips" / "captions.csv").write_text(f"file,caption\n{rows}")
    (folder / "audio").mkdir()
    for number in range(NUM_REAL):
        wav = codec.decode(load_dataset(folder / "dataset", "validation").image(number), quality="draft")
        write_audio(folder / "audio" / f"{number}.wav", wav, codec.rate_hz)
    return folder


@pytest.fixture(scope="module")
def scored(world: Path) -> Path:
    """The clips, scored against the dataset and its audio."""
    arguments = [str(world / "clips"), f"real={world / 'dataset'}", f"audio={world / 'audio'}", f"out={world / 'out'}"]
    assert score(*arguments) == EXIT_DONE
    return world / "out"


def score(*arguments: str) -> int:
    return main(["evaluate", "score", *arguments, *QUICK])


def read(out: Path) -> Any:
    return json.loads((out / "scores.json").read_text(encoding="utf-8"))


def rows(out: Path) -> dict[str, Any]:
    return {row["what"]: row for row in read(out)["rows"]}


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    capsys.readouterr()
    assert score(*arguments) == EXIT_INPUT
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("riffusion evaluate: ")]
    assert len(lines) == 1
    return lines[0].removeprefix("riffusion evaluate: ")


def test_scores_hold_where_they_came_from_and_every_clip(scored: Path) -> None:
    data = read(scored)
    assert {"command", "git", "machine", "versions", "rows", "about", "warnings", "clips"} <= set(data)
    assert data["command"].startswith("riffusion evaluate score ")
    assert [clip["file"] for clip in data["clips"]] == [f"sub/{number:02d}.wav" for number in range(12)]
    assert all({"what", "unit", "ours", "reference", "ratio"} <= set(row) for row in data["rows"])
    assert data["about"]["num_real"] == NUM_REAL and data["about"]["slices_searched"] == NUM_SLICES


def test_a_figure_with_too_few_clips_has_no_value_but_the_number_that_it_needs(scored: Path) -> None:
    left_out = [row for row in read(scored)["rows"] if row["needed"] is not None]
    assert left_out and all(row["ours"] is None and row["needed"] > 0 for row in left_out)
    page = (scored / "index.html").read_text(encoding="utf-8")
    assert all(f"needs {row['needed']} clips" in page for row in left_out)


def test_the_clips_that_are_nearest_to_the_training_data_are_its_copies(scored: Path) -> None:
    nearest = {clip["file"]: clip["nearest"] for clip in read(scored)["clips"]}
    likeness = sorted(nearest, key=lambda name: -nearest[name]["similarity"])
    assert set(likeness[:2]) == {"sub/03.wav", "sub/07.wav"}


def test_the_original_sound_is_compared_too(scored: Path) -> None:
    assert {name for name in rows(scored) if "original" in name} >= {"kid, against the original sound"}


def test_what_was_left_out_is_said_once(world: Path, scored: Path) -> None:
    warnings = read(scored)["warnings"]
    assert len([one for one in warnings if "have no caption" in one]) == 1
    assert len([one for one in warnings if "shorter than 3 s" in one]) == 1


def test_the_page_plays_files_that_are_there(scored: Path) -> None:
    page = (scored / "index.html").read_text(encoding="utf-8")
    files = set(re.findall(r'src="(listen/[^"]+)"', page))
    assert any(name.startswith("listen/slice-") for name in files) and any("clip-" in name for name in files)
    assert all((scored / name).is_file() for name in files)


def test_a_second_call_hears_nothing_again(world: Path, scored: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in world.rglob("heard-*.safetensors")}
    arguments = [str(world / "clips"), f"real={world / 'dataset'}", f"audio={world / 'audio'}", f"out={scored}"]
    assert score(*arguments) == EXIT_DONE
    assert {path: path.stat().st_mtime_ns for path in world.rglob("heard-*.safetensors")} == before
    assert len(before) > 3


def test_a_model_is_sampled_from_held_out_captions_and_its_clips_are_kept(world: Path, tmp_path: Path) -> None:
    held_out = load_dataset(world / "dataset", "validation").all_captions()
    out = tmp_path / "out"
    arguments = [f"real={world / 'dataset'}", f"out={out}", "num_slices=10"]
    assert score(str(world / "model"), *arguments, "num_clips=3", "seed=5") == EXIT_DONE
    records = {path: json.loads(path.read_text()) for path in sorted((out / "clips").glob("*.json"))}
    assert [record["seed"] for record in records.values()] == [5, 6, 7]
    assert len({record["prompt"] for record in records.values()} & set(held_out)) == 3
    before = {path: path.stat().st_mtime_ns for path in records}
    assert score(str(world / "run"), *arguments, "num_clips=4", "seed=5") == EXIT_DONE  # the same model, one more clip
    again = [json.loads(path.read_text())["seed"] for path in sorted((out / "clips").glob("*.json"))]
    assert sorted(set(again)) == [5, 6, 7, 8]
    assert all(path.stat().st_mtime_ns == time_ns for path, time_ns in before.items())


def test_python_scores_against_a_folder_of_sounds(world: Path, tmp_path: Path) -> None:
    (tmp_path / "clips").mkdir()
    for path in (world / "clips" / "sub").iterdir():
        shutil.copy(path, tmp_path / "clips")
    (tmp_path / "clips" / "broken.wav").write_bytes(b"no sound")
    evaluation = riffusion_train.evaluate(tmp_path / "clips", real=world / "audio", out=tmp_path / "out")
    assert len(evaluation.clips) == 12 and evaluation.page.is_file()
    assert any("broken.wav" in one for one in evaluation.warnings)
    assert evaluation.row("copies").ours is None
    assert "KID " in evaluation.table() and "Bandwidth " in evaluation.table()


def test_wrong_input_is_one_line(world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    clips, dataset, audio = (str(world / name) for name in ("clips", "dataset", "audio"))
    out = f"out={tmp_path / 'out'}"
    (tmp_path / "empty").mkdir()
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "a.wav").write_bytes(b"no sound")
    unsplit = write_dataset(tmp_path / "unsplit", 2, 0)
    cases = {
        (f"real={dataset}", out): "one folder of clips or one model, and none is given",
        (clips, out): "evaluate score needs real=…",
        (str(tmp_path / "nowhere"), f"real={dataset}", out): "no such folder of clips",
        (str(tmp_path / "empty"), f"real={dataset}", out): "holds no sounds",
        (str(tmp_path / "broken"), f"real={dataset}", out): "none of its sounds can be read: ",
        (clips, f"real={tmp_path / 'nowhere'}", out): "no such folder; name a dataset folder",
        (clips, f"real={tmp_path / 'broken'}", out): "none of its sounds can be read: ",
        (clips, f"real={unsplit}", out): "has no validation split; prepare it with validation_ratio=0.1",
        (clips, f"real={dataset}", f"out={clips}"): "is the folder of the clips or of the real music",
        (clips, f"real={audio}", f"audio={audio}", out): "only goes with a dataset",
        (clips, f"real={dataset}", f"audio={clips}", out): "from which slices of the dataset were cut",
        (clips, f"real={dataset}", out, "embedder=vggish"): "vggish",
        (clips, f"real={dataset}", out, "embedder=clap", f"embedder_source={tmp_path / 'empty'}"): "empty",
        (clips, f"real={dataset}", out, "num_clips=0"): "num_clips=0: must be at least 1",
    }
    for arguments, message in cases.items():
        assert message in refused(capsys, *arguments), message
    assert not (tmp_path / "out" / "scores.json").exists()


def test_copies_are_flagged_alike_without_hearing_the_slices(world: Path, scored: Path, tmp_path: Path) -> None:
    assert score(str(world / "clips"), f"real={world / 'dataset'}", f"out={tmp_path}", "hear_slices=false") == EXIT_DONE
    flags = [[clip["nearest"]["is_copy"] for clip in read(out)["clips"]] for out in (scored, tmp_path)]
    assert flags[0] == flags[1] and any(flags[0])
    assert all(clip["nearest"]["embedding_slice"] is None for clip in read(tmp_path)["clips"])
