import json
import re
from pathlib import Path

import pytest
from support.nano import train_arguments, write_dataset
from support.stores import web_server

from riffusion_train.cli.main import main
from riffusion_train.dataset.cache import CACHE_DIR
from riffusion_train.training.dry_run import _disk_lines, _Need


def test_a_check_tells_what_a_run_needs_and_leaves_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    dataset = write_dataset(tmp_path / "dataset")
    words = train_arguments(dataset, tmp_path / "runs" / "mine", "max_train_steps=300", "preview.every_steps=1")
    before = sorted(path.name for path in tmp_path.rglob("*"))
    assert main(["train", *words, "check=true"]) == 0
    said = capsys.readouterr().out
    assert sorted(path.name for path in tmp_path.rglob("*")) == before
    assert "12 slices, seen 100 times in 300 steps of 4" in said
    assert re.search(r"two steps +loss \d+\.\d+; .* s a step, .* images/s, .* s of audio/s", said)
    assert re.search(r"memory +\d+\.\d GiB at most in one process", said)
    assert re.search(r"checkpoint +\S+ GiB, saved in \S+ s, loaded in \S+ s", said)
    assert re.search(r"estimate +\d+:\d\d:\d\d to finish: latents \d+:\d\d:\d\d, captions \d+:\d\d:\d\d, steps", said)
    assert re.search(r"disk .*/mine: \S+ GiB of checkpoints, .*, \S+ GiB of final model, \S+ GiB of previews", said)
    assert re.search(r"disk .*/\.cache: \S+ GiB of latents, \S+ GiB of hidden states, \S+ GiB of keys", said)
    assert re.search(r"free +\S+ GiB on the disk of .*, where \S+ GiB are needed\n", said)
    assert not (dataset / CACHE_DIR).exists()


def test_a_check_counts_what_a_store_takes_and_what_is_kept_of_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    dataset, store = write_dataset(tmp_path / "dataset"), tmp_path / "store"
    words = train_arguments(dataset, tmp_path / "mine", "max_train_steps=300", f"mirror=file://{store}")
    with web_server(dataset) as server:
        words[0] = f"dataset={server.address}"
        assert main(["train", *words, f"cache_dir={tmp_path / 'caches'}", "check=true"]) == 0
    said = capsys.readouterr().out
    assert re.search(rf"disk +{tmp_path}/caches/\w+: \S+ GiB of row groups", said)
    checkpoint, held, sent = (
        float(re.search(pattern, said)[1])  # type: ignore[index]
        for pattern in (r"checkpoint +(\S+) GiB", r"mirror .* (\S+) GiB there at most", r"(\S+) GiB uploaded in all")
    )
    assert held > 3 * checkpoint - 1e-9  # two that are kept, one that comes, and the final model
    assert sent > 3 * checkpoint - 1e-9
    assert not store.exists()


def test_a_disk_with_too_little_space_is_named(tmp_path: Path) -> None:
    little, much = _Need(tmp_path / "run", "checkpoints", 2**30), _Need(tmp_path / "caches", "latents", 2**60)
    lines = _disk_lines([little, much])
    assert lines[0].endswith("/run: 1 GiB of checkpoints")
    assert lines[1].endswith("/caches: 1.1e+09 GiB of latents")
    assert lines[2].endswith("GiB are needed: TOO LITTLE, free some")
    assert len(lines) == 3, "both are on one disk"


def test_a_run_of_one_step_can_be_checked(tmp_path: Path) -> None:
    dataset = write_dataset(tmp_path / "dataset")
    assert main(["train", *train_arguments(dataset, tmp_path / "run", "max_train_steps=1"), "check=true"]) == 0


def test_a_check_refuses_what_the_run_would_refuse(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    dataset = write_dataset(tmp_path / "dataset")
    run = tmp_path / "run"
    run.mkdir()
    (run / "letter.txt").write_text("dear")
    assert main(["train", *train_arguments(dataset, run, "check=true")]) == 2
    assert "the folder holds files that are not a run" in capsys.readouterr().err


def test_a_run_reports_its_speed_as_it_goes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    dataset = write_dataset(tmp_path / "dataset")
    assert main(["train", *train_arguments(dataset, tmp_path / "run", "max_train_steps=3")]) == 0
    shown = capsys.readouterr().err
    assert re.search(r"images/s, \S+ s of audio/s, data wait \S+ %, \S+ GiB", shown)
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    for line in lines:
        assert line["images_per_s"] * line["step_s"] == pytest.approx(4)
        assert line["tflops_per_s"] > 0
        assert line["mfu_percent"] is None  # nobody knows the peak of this CPU
        assert 0 <= line["data_wait_percent"] <= 100
        assert line["peak_memory_gib"] > 0.1
