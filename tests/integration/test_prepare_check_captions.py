"""`check_captions=`: false statements of any caption are warned of, taken out, or reject their track."""

import json

import numpy as np
import pytest
from support.corpus_files import write_track

from data_prep.pipeline import prepare
from riffusion_train.config.compose import compose
from riffusion_train.config.prepare import PrepareConfig

RATE_HZ = 22050
FALSE_BPM = "soft clicks, 123 bpm"
TRUE_BPM = "soft clicks, 100 bpm"


@pytest.fixture(scope="module")
def audio(tmp_path_factory):
    """Clicks at 100 bpm, thrice: with a true caption, with a false one among two, and with nothing but a false one."""
    folder = tmp_path_factory.mktemp("clicks")
    for number, captions in enumerate([[TRUE_BPM], [FALSE_BPM, "clicks"], ["123 bpm"]]):
        rng = np.random.default_rng(number)
        wav = 0.001 * rng.standard_normal(6 * RATE_HZ)
        for start_s in np.arange(0.1, 5.9, 0.6):
            start = round(start_s * RATE_HZ)
            wav[start : start + 1000] += 0.5 * rng.standard_normal(1000) * np.linspace(1, 0, 1000) ** 2
        write_track(folder / f"{number}.wav", wav[None].astype(np.float32), *captions, rate_hz=RATE_HZ)
    return folder


def prepared(audio, out, *arguments):
    base = [f"audio={audio}", f"out={out}", "spectrogram=tiny", "num_workers=0", "validation_ratio=0", "page=false"]
    folder = prepare(compose("prepare", PrepareConfig, [*base, *arguments]))
    lines = map(json.loads, (out / "manifest.jsonl").read_text().splitlines())
    return folder, {line["track_id"]: line for line in lines}


def captions_of(folder):
    import pyarrow.parquet as pq

    rows = [row for shard in folder.shards("train") for row in pq.read_table(shard).to_pylist()]
    return {row["track_id"]: row["caption"] for row in rows}


def test_warn_keeps_the_captions_and_lists_the_tracks(audio, tmp_path, capsys):
    folder, lines = prepared(audio, tmp_path / "out", "check_captions=warn")
    assert captions_of(folder)["1"] == [FALSE_BPM, "clicks"]
    assert lines["0"]["warnings"] == {}
    assert lines["1"]["warnings"]["tempo contradicted"].startswith("'123 bpm': measured ")
    assert folder.stats["warnings"] == {"tempo contradicted": 2}
    printed = capsys.readouterr().out
    assert "captions of 3 tracks are checked against the sound: 2 state something false" in printed
    assert "used with a warning: 2 tempo contradicted" in printed


def test_fix_takes_false_statements_out(audio, tmp_path):
    folder, lines = prepared(audio, tmp_path / "out", "check_captions=fix")
    assert captions_of(folder) == {"0": [TRUE_BPM], "1": ["soft clicks", "clicks"]}
    assert lines["1"]["warnings"]["caption corrected"].startswith("'123 bpm': measured ")
    assert lines["2"]["reason"] == "caption contradicted" and "nothing else is in the caption" in lines["2"]["detail"]
    (audio / "2.txt").write_text(TRUE_BPM)
    try:
        folder, lines = prepared(audio, tmp_path / "out", "check_captions=fix")
    finally:
        (audio / "2.txt").write_text("123 bpm")
    assert captions_of(folder) == {"0": [TRUE_BPM], "1": ["soft clicks", "clicks"], "2": [TRUE_BPM]}
    assert lines["2"]["warnings"] == {} and len(lines["1"]["warnings"]) == 1


def test_drop_rejects_the_tracks(audio, tmp_path):
    folder, lines = prepared(audio, tmp_path / "out", "check_captions=drop", "trigger=zuzu")
    assert captions_of(folder) == {"0": [f"zuzu, {TRUE_BPM}"]}
    assert lines["1"]["reason"] == lines["2"]["reason"] == "caption contradicted"
    assert "'123 bpm'" in lines["1"]["detail"]
    assert folder.stats["rejected"] == {"caption contradicted": 2}


def test_without_a_check_nothing_is_heard(audio, tmp_path):
    folder, lines = prepared(audio, tmp_path / "out")
    assert captions_of(folder)["2"] == ["123 bpm"]
    assert all("heard" not in line and line["warnings"] == {} for line in lines.values())


def test_the_check_of_a_finished_dataset_may_change_and_nothing_is_decoded_again(audio, tmp_path, monkeypatch):
    """Warned of, then corrected."""
    prepared(audio, tmp_path / "out", "check_captions=warn")
    monkeypatch.setattr("data_prep.tracks.track_worker.decode_audio", None)
    folder, lines = prepared(audio, tmp_path / "out", "check_captions=fix")
    assert captions_of(folder) == {"0": [TRUE_BPM], "1": ["soft clicks", "clicks"]}
    assert folder.stats["parameters"]["check_captions"] == "fix" and lines["2"]["reason"] == "caption contradicted"
