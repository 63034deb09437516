"""Broken and odd files in one run: each is listed for what it is, and the rest is used."""

import json

import pytest
import soundfile
from support import broken_files as broken
from support.corpus_files import tone

from data_prep.pipeline import prepare
from riffusion_train.config.compose import compose
from riffusion_train.config.prepare import PrepareConfig


@pytest.fixture(scope="module")
def audio(tmp_path_factory):
    folder = tmp_path_factory.mktemp("broken")
    for name in ("mp3.mp3", "wav.wav"):
        broken.write_half(folder, name)
    broken.write_rotten_mp3(folder)
    broken.write_header_only_wav(folder)
    broken.write_nan_wav(folder)
    broken.write_renamed(folder, "aac.m4a", "misnamed.wav")
    broken.write_half(folder, "aac.m4a")
    for name, content in (("empty.wav", b""), ("zeros.mp3", bytes(20000)), ("text.flac", b"hello " * 3000)):
        broken.write_bytes(folder, name, content)
    soundfile.write(folder / "silent.wav", 0 * tone(100, 5).T, 44100)
    soundfile.write(folder / "rate.wav", tone(100, 1).T, 1_000_000)
    return folder


def prepared(audio, out, *arguments):
    base = [f"audio={audio}", f"out={out}", "spectrogram=tiny", "default_caption=x", "min_clip_s=1", "num_workers=0"]
    folder = prepare(compose("prepare", PrepareConfig, [*base, *arguments]))
    with (folder.path / "manifest.jsonl").open() as lines:
        return folder, {entry["source"]: entry for entry in map(json.loads, lines)}


def test_each_broken_file_is_listed_with_its_reason_or_kept_with_a_warning(audio, tmp_path, capsys):
    folder, manifest = prepared(audio, tmp_path / "out")
    assert {name: entry["reason"] for name, entry in manifest.items() if entry["reason"]} == {
        "header.wav": "no samples",
        "nan.wav": "not numbers",
        "half-aac.m4a": "unreadable",
        "empty.wav": "unreadable",
        "zeros.mp3": "unreadable",
        "text.flac": "unreadable",
        "silent.wav": "silent",
        "rate.wav": "unreadable",
    }
    assert manifest["rate.wav"]["detail"].startswith("a sample rate of 1000000 Hz is outside 1000 to 768000 Hz")
    assert {name: list(entry["warnings"]) for name, entry in manifest.items() if entry["warnings"]} == {
        "half-mp3.mp3": ["truncated"],
        "half-wav.wav": ["truncated"],
        "misnamed.wav": ["misnamed"],
    }
    assert folder.stats["warnings"] == {"misnamed": 1, "truncated": 2}
    assert "used with a warning: 1 misnamed, 2 truncated" in capsys.readouterr().out
    assert "1 misnamed, 2 truncated" in (folder.path / "README.md").read_text()


def test_truncated_files_are_left_out_on_request(audio, tmp_path):
    _, manifest = prepared(audio, tmp_path / "out", "truncated=reject")
    assert {name for name, entry in manifest.items() if entry["reason"] == "truncated"} == {
        "half-mp3.mp3",
        "half-wav.wav",
    }
    assert "of the 5.00 s its container declares" in manifest["half-wav.wav"]["detail"]
