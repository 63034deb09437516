import importlib.util
import io
import json
import struct
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import soundfile
from accelerate import Accelerator
from PIL import Image
from support.nano import train_config, write_dataset

from riffusion_train.config.compose import compose
from riffusion_train.config.train import PreviewConfig, TrackerConfig, TrackerName, TrainConfig
from riffusion_train.dataset.layout import open_dataset_folder
from riffusion_train.dataset.spectrograms import SpectrogramDataset
from riffusion_train.runtime.errors import InputError
from riffusion_train.training.previews import preview_prompts
from riffusion_train.training.run import run_training
from riffusion_train.training.tracking import start_tracker

PREVIEWED = [
    "max_train_steps=2",
    "preview.every_steps=2",
    "preview.prompts=[a low band,a high band]",
    "preview.guidance_scales=[1.0,5.0]",
    "preview.base_row=true",
    "preview.num_inference_steps=1",
]
NAMES = {f"{index}-guidance-{scale}" for index in ("00", "01") for scale in (1, 5)}


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_dataset(tmp_path_factory.mktemp("data") / "dataset")


def losses(run: Path) -> list[float]:
    return [json.loads(line)["loss"] for line in (run / "metrics.jsonl").read_text().splitlines()]


def test_tensorboard_is_what_a_run_gets_unless_told_otherwise() -> None:
    assert compose("train", TrainConfig, ["dataset=d"]).tracker.name is TrackerName.tensorboard


def test_tensorboard_gets_scalars_spectrograms_and_audio(dataset: Path, tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run = run_training(train_config(dataset, tmp_path / "run", *PREVIEWED, "tracker=tensorboard"), [])
    events = [path for path in run.rglob("events.out.tfevents.*") if b"data_wait" in path.read_bytes()]
    accumulator = EventAccumulator(str(events[0]))
    accumulator.Reload()
    assert [event.value for event in accumulator.Scalars("loss")] == pytest.approx(losses(run))
    assert len(accumulator.Scalars("images_per_s")) == 2
    for name in NAMES:
        # At a preview's steps alone: before the first step, and after the second.
        assert [event.step for event in accumulator.Images(f"spectrogram/{name}")] == [0, 2]
        sounds = accumulator.Audio(f"audio/{name}")
        assert [sound.step for sound in sounds] == [0, 2]
        heard, rate_hz = soundfile.read(io.BytesIO(sounds[1].encoded_audio_string))
        kept, kept_rate_hz = soundfile.read(run / "previews" / "step-000002" / f"{name}.wav")
        assert rate_hz == kept_rate_hz
        np.testing.assert_allclose(heard, kept, atol=2e-3)


def test_wandb_offline_holds_scalars_spectrograms_and_audio(
    dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    run = run_training(train_config(dataset, tmp_path / "run", *PREVIEWED, "tracker=wandb"), [])
    rows, settings = _read_finished_wandb(next((run / "wandb").rglob("*.wandb")))
    assert [row["loss"] for row in rows if "loss" in row] == pytest.approx(losses(run))
    assert all({"lr", "grad_norm", "images_per_s", "data_wait_percent"} <= row.keys() for row in rows if "loss" in row)
    assert settings["optimizer.lr"] == 1e-3
    assert settings["model.name"] == "random"
    assert settings["spectrogram_preset"] is None
    assert settings["preview.prompts"] == ["a low band", "a high band"]
    media = {key for row in rows for key in row}
    assert {f"{kind}/{name}" for kind in ("audio", "spectrogram") for name in NAMES} <= media
    last = next(row for row in reversed(rows) if "audio/00-guidance-5" in row)
    files = next((run / "wandb").rglob("files"))
    heard, _ = soundfile.read(files / last["audio/00-guidance-5"]["path"])
    kept, _ = soundfile.read(run / "previews" / "step-000002" / "00-guidance-5.wav")
    np.testing.assert_allclose(heard.squeeze(), kept.squeeze(), atol=2e-3)
    seen = np.asarray(Image.open(files / last["spectrogram/00-guidance-5"]["path"]).convert("L"))
    np.testing.assert_array_equal(seen, np.asarray(Image.open(run / "previews/step-000002/00-guidance-5.png")))


def test_a_resumed_run_continues_its_wandb_run(dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    monkeypatch.delenv("WANDB_RUN_ID", raising=False)
    (tmp_path / "run").mkdir()
    arguments: list[dict[str, Any]] = []
    monkeypatch.setattr("wandb.init", lambda **given: arguments.append(given))
    monkeypatch.setattr("wandb.config", SimpleNamespace(update=lambda *given, **options: None))
    config = TrackerConfig(TrackerName.wandb, entity="us", group="drums", tags=["a", "b"], notes="a test")
    for _ in range(2):
        start_tracker(Accelerator(cpu=True, log_with="wandb"), config, tmp_path / "run", {})
    first, second = arguments
    assert first == second
    assert (first["id"], first["resume"]) == ((tmp_path / "run" / "wandb-id.txt").read_text().strip(), "allow")
    assert [first[key] for key in ("project", "entity", "group", "tags", "notes")] == [
        "riffusion-train",
        "us",
        "drums",
        ["a", "b"],
        "a test",
    ]
    monkeypatch.setenv("WANDB_RUN_ID", "of-a-sweep")
    start_tracker(Accelerator(cpu=True, log_with="wandb"), config, tmp_path / "run", {})
    assert arguments[2]["id"] == "of-a-sweep"
    assert (tmp_path / "run" / "wandb-id.txt").read_text() == "of-a-sweep\n"


def test_keys_of_wandb_are_refused_with_another_tracker(dataset: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"tracker\.tags is wandb's and tracker=files; leave it out"):
        run_training(train_config(dataset, tmp_path / "run", "tracker.tags=[a]"), [])


def test_previews_are_of_distinct_captions_held_out_and_trained(tmp_path: Path) -> None:
    """All slices of a song have the same caption."""
    captions = [f"song {index // 3}" for index in range(12)]
    folder = open_dataset_folder(write_dataset(tmp_path / "dataset", 12, 12, captions=captions))
    trained = SpectrogramDataset(folder, "train")
    held_out = SimpleNamespace(all_captions=lambda: ["new 0", "song 1", "new 1", "new 2"])
    assert preview_prompts(PreviewConfig(), trained, held_out) == ["new 0", "new 1", "song 0", "song 2"]  # type: ignore[arg-type]
    assert preview_prompts(PreviewConfig(num_prompts=6), trained, held_out) == [  # type: ignore[arg-type]
        *("new 0", "new 1", "new 2", "song 0", "song 1", "song 2"),
    ]
    assert preview_prompts(PreviewConfig(), trained, None) == [f"song {index}" for index in range(4)]
    assert preview_prompts(PreviewConfig(num_prompts=9), trained, None) == [f"song {index}" for index in range(4)]
    assert preview_prompts(PreviewConfig(prompts=["mine"]), trained, None) == ["mine"]


def _read_finished_wandb(file: Path, timeout_s: float = 60) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Read the log once it is whole: wandb's own process writes its last block after `finish` has returned."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        rows, settings, finished = _read_wandb(file)
        if finished:
            return rows, settings
        time.sleep(0.1)
    raise AssertionError(f"{file} has no exit record after {timeout_s} s")


def _read_wandb(file: Path) -> tuple[list[dict[str, Any]], dict[str, Any], bool]:
    """Read the history rows and the settings back from wandb's own log, and whether it has its last record."""
    from wandb.proto import wandb_internal_pb2

    rows: list[dict[str, Any]] = []
    settings: dict[str, Any] = {}
    kind = None
    for data in _leveldb_records(file.read_bytes()[7:]):
        record = wandb_internal_pb2.Record()
        record.ParseFromString(data)
        kind = record.WhichOneof("record_type")
        if kind == "history":
            rows.append(_plain(record.history.item))
        for items in (record.config.update, record.run.config.update):
            settings |= _plain(items)
    return rows, settings, kind == "exit"


def _plain(items: Iterable[Any]) -> dict[str, Any]:
    """Return protocol items as a dictionary; a medium comes as one item for each of its fields."""
    values: dict[str, Any] = {}
    for item in items:
        name, *inner = item.nested_key or [item.key]
        value = json.loads(item.value_json)
        if inner:
            values.setdefault(name, {})["/".join(inner)] = value
        else:
            values[name] = value
    return values


def _leveldb_records(log: bytes, head: int = 7, block: int = 32768) -> Iterator[bytes]:
    """Yield the records of LevelDB's log format: blocks of 32 KiB, of parts with checksum, length and kind before each.

    wandb's own header of 7 bytes belongs to the first block.
    """
    at, parts = head, b""
    log = b"\0" * head + log
    while at + head <= len(log):
        if block - at % block < head:
            at += block - at % block
            continue
        length, kind = struct.unpack_from("<HB", log, at + 4)
        if kind == 0 or at + head + length > len(log):  # the end, or one that is still being written
            return
        parts = (b"" if kind in (1, 2) else parts) + log[at + head : at + head + length]
        at += head + length
        if kind in (1, 4):  # whole, or the last part
            yield parts


@pytest.mark.skipif(importlib.util.find_spec("trackio") is None, reason="trackio is an extra")
def test_trackio_gets_the_scalars(dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import sqlite3

    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))
    run = run_training(train_config(dataset, tmp_path / "run", *PREVIEWED, "tracker=trackio"), [])
    base = next((tmp_path / "trackio").rglob("*.db"))
    rows = [json.loads(row[0]) for row in sqlite3.connect(base).execute("select metrics from metrics order by step")]
    assert [row["loss"] for row in rows if "loss" in row] == pytest.approx(losses(run))
    assert {f"audio/{name}" for name in NAMES} <= {key for row in rows for key in row}


@pytest.mark.parametrize("name", ["tensorboard", "wandb", "trackio"])
def test_a_tracker_that_is_not_installed_is_refused_before_anything_is_done(
    dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(InputError, match=f"tracker={name} is not installed; pip install {name}"):
        run_training(train_config(dataset, tmp_path / "run", f"tracker={name}"), [])
    assert not (tmp_path / "run").exists()


def test_previews_show_every_prompt_at_every_guidance_beside_the_base_model(dataset: Path, tmp_path: Path) -> None:
    run = run_training(train_config(dataset, tmp_path / "run", *PREVIEWED), [])
    for step in ("base", "step-000002"):
        files = {path.name for path in (run / "previews" / step).iterdir()}
        assert files == {f"{name}.{kind}" for name in NAMES for kind in ("wav", "png", "json")}
    base, last = (
        json.loads((run / "previews" / step / "01-guidance-5.json").read_text()) for step in ("base", "step-000002")
    )
    same = ("prompt", "seed", "guidance_scale", "num_inference_steps")
    assert [base[key] for key in same] == [last[key] for key in same] == ["a high band", 1, 5.0, 1]
    assert base["model_fingerprint"] != last["model_fingerprint"]
    site = json.loads((run / "previews" / "site.json").read_text())
    assert [version["name"] for version in site["versions"]] == [
        f"{step} · guidance {scale}" for step in ("before training", "step 2") for scale in (1, 5)
    ]
    assert len(site["cells"]) == 8
    page = (run / "previews" / "index.html").read_text()
    assert "base/01-guidance-5.wav" in page and "step-000002/00-guidance-1.png" in page
