"""Comparing what two versions of the package write."""

import json
from pathlib import Path

import pytest
import soundfile
from PIL import Image, PngImagePlugin

from benchmarks.compare_cases import CASES, Case
from benchmarks.compare_outputs import facts_of
from benchmarks.compare_versions import compare, main

ROOT = Path(__file__).parents[2]
SETTINGS = {"prompt": "piano", "lane": 1, "riffusion_train": "0.1.0"}
SAME = SETTINGS | {"riffusion_train": "0.2.0"}


def write_outputs(folder: Path, settings: dict[str, object], level: float = 0.5) -> Path:
    folder.mkdir()
    text = json.dumps(settings)
    (folder / "clip.json").write_text(text)
    texts = PngImagePlugin.PngInfo()
    texts.add_text("riffusion", text)
    Image.new("L", (4, 4), 7).save(folder / "clip.png", pnginfo=texts)
    soundfile.write(folder / "clip.wav", [level, -level], 16000)
    (folder / "metrics.jsonl").write_text(json.dumps({"loss": 0.1 + 0.2, "step_s": hash(str(folder))}))
    return folder


def compared(old: Path, new: Path, **options: bool):
    case = Case("it", (), ("clip.json", "clip.png", "clip.wav", "metrics.jsonl"))
    versions = {old: "0.1.0", new: "0.2.0"}
    found = [
        {case.name: facts_of(folder, case.outputs, version=version, strict=options.get("strict", False))}
        for folder, version in versions.items()
    ]
    rows, added = compare([case], *found)
    return {row.what.removeprefix("it: "): row for row in rows}, added["it"]


def test_a_new_key_is_told_and_a_new_name_and_version_do_not_count(tmp_path: Path) -> None:
    old = write_outputs(tmp_path / "old", SETTINGS)
    renamed = {"prompt": "piano", "unet_batch_size": 1, "riffusion_train": "0.2.0", "host": "a"}
    rows, added = compared(old, write_outputs(tmp_path / "new", renamed))
    assert all(row.equal and row.old == row.new for row in rows.values())
    assert added == {"host", "texts.riffusion.host"}


def test_every_change_is_found_with_its_place(tmp_path: Path) -> None:
    old = write_outputs(tmp_path / "old", SETTINGS)
    new = write_outputs(tmp_path / "new", SAME | {"prompt": "organ"}, level=0.25)
    (new / "metrics.jsonl").write_text(json.dumps({"loss": 0.3}))
    rows, _ = compared(old, new)
    assert {what for what, row in rows.items() if not row.equal} == {
        "clip.json",
        "clip.png",
        "clip.wav",
        "metrics.jsonl",
    }
    assert rows["clip.json"].details == ('prompt: "piano" became "organ"',)
    assert rows["metrics.jsonl"].details == ("[0].loss: 0.30000000000000004 became 0.3",)
    (new / "clip.wav").unlink()
    assert compared(old, new)[0]["clip.wav"].new == "missing"


def test_strict_means_bytes(tmp_path: Path) -> None:
    old, new = write_outputs(tmp_path / "old", SETTINGS), write_outputs(tmp_path / "new", SAME)
    (new / "clip.json").write_text(json.dumps(SAME, indent=1))
    assert compared(old, new)[0]["clip.json"].equal
    assert not compared(old, new, strict=True)[0]["clip.json"].equal


def test_this_version_writes_what_it_writes(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(ROOT), str(ROOT), "--until", "corpus"]) == 0
    assert "corpus: corpus/*.flac (3)" in capsys.readouterr().out


def test_what_cannot_be_compared_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path), str(ROOT)]) == 2
    assert "no checkout of riffusion-train" in capsys.readouterr().err
    assert main([str(ROOT), str(ROOT), "--until", "lunch"]) == 2
    assert (
        "choose from: corpus, spectrogram, prepare, train, export, import, sample, evaluate" in capsys.readouterr().err
    )


def test_no_case_uses_a_word_that_was_renamed() -> None:
    assert not [line for case in CASES for line in case.commands if "--energy" in line or "lane=" in line]
