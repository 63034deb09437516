import dataclasses
import json
import subprocess
import sys

import numpy as np
import pytest
import soundfile
from support.rendered_clips import render

from data_prep import corpus
from data_prep.captions.tables import read_table
from data_prep.corpus import exercises, write_corpus
from data_prep.corpus.exercises import PEAK, RATE_HZ, Attributes, default_soundfont, load_soundfont
from data_prep.corpus.palette import CLIP_S
from riffusion_train.runtime.errors import InputError

LOOP = Attributes("piano", "medium", 100, "none", "middle", "chords", "C", "major")


def contents(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def centroid_hz(wav):
    magnitudes = np.abs(np.fft.rfft(wav))
    return float((magnitudes * np.fft.rfftfreq(len(wav), 1 / RATE_HZ)).sum() / magnitudes.sum())


@pytest.fixture(scope="module")
def corpus_dir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("corpus") / "audio"
    assert write_corpus(folder, clips=12, seed=5, num_workers=0)
    return folder


def test_a_clip_is_mono_five_seconds_long_and_fills_the_scale():
    wav = render(LOOP)
    assert wav.shape == (round(CLIP_S * RATE_HZ),)
    assert np.abs(wav).max() == pytest.approx(PEAK, rel=1e-4)


@pytest.mark.parametrize("bpm", [66, 100, 160])
def test_struck_chords_sound_at_the_bpm(bpm):
    wav = render(dataclasses.replace(LOOP, bpm=bpm))
    hop = RATE_HZ // 100
    frames = wav[: len(wav) // hop * hop].reshape(-1, hop)
    rises = np.maximum(0, np.diff(np.sqrt((frames**2).mean(axis=1))))
    spectrum = np.correlate(rises - rises.mean(), rises - rises.mean(), "full")[len(rises) - 1 :]
    beat = 6000 / bpm  # in hundredths of a second
    shortest = round(0.6 * beat)
    lag = shortest + int(np.argmax(spectrum[shortest : round(1.4 * beat)]))
    assert lag == pytest.approx(beat, rel=0.04)


def test_a_higher_register_sounds_brighter():
    heights = [centroid_hz(render(dataclasses.replace(LOOP, register=name))) for name in ("low", "middle", "high")]
    assert heights[0] < 0.8 * heights[1] < 0.8**2 * heights[2]


def test_the_table_and_the_sidecars_give_the_same_captions(corpus_dir):
    table = read_table(corpus_dir / "metadata.jsonl")
    assert len(table.rows) == 12
    for name, row in table.rows.items():
        assert soundfile.info(corpus_dir / name).samplerate == RATE_HZ
        assert list(row.captions) == (corpus_dir / name).with_suffix(".txt").read_text().splitlines()
    assert table.types["bpm"] == "int64"
    assert {"instrument", "tempo", "drums", "register", "pattern", "key", "mode"} <= set(table.types)


def test_workers_in_any_number_write_the_same_bytes(corpus_dir, tmp_path):
    write_corpus(tmp_path / "audio", clips=12, seed=5, num_workers=2)
    assert contents(tmp_path / "audio") == contents(corpus_dir)


def test_a_complete_corpus_is_recognised_and_not_touched(corpus_dir, monkeypatch):
    before = {path: path.stat().st_mtime_ns for path in corpus_dir.iterdir()}
    monkeypatch.setattr(corpus, "_render_all", None)
    assert not write_corpus(corpus_dir, clips=12, seed=5, num_workers=0)
    assert {path: path.stat().st_mtime_ns for path in corpus_dir.iterdir()} == before


def test_resuming_renders_what_is_missing_only_and_growing_keeps_the_rest(corpus_dir, tmp_path):
    folder = tmp_path / "audio"
    write_corpus(folder, clips=9, seed=5, num_workers=0)
    (folder / "00003.flac").unlink()
    kept = {path.name: path.stat().st_mtime_ns for path in folder.glob("*.flac")}
    assert write_corpus(folder, clips=12, seed=5, num_workers=0)
    assert contents(folder) == contents(corpus_dir)
    assert {name: (folder / name).stat().st_mtime_ns for name in kept} == kept


def test_a_folder_with_another_corpus_is_refused(corpus_dir):
    with pytest.raises(InputError, match="another seed"):
        write_corpus(corpus_dir, clips=12, seed=6, num_workers=0)
    with pytest.raises(InputError, match="holds 12 clips"):
        write_corpus(corpus_dir, clips=11, seed=5, num_workers=0)


def test_a_soundfont_of_another_kind_is_refused_by_name(tmp_path):
    (tmp_path / "no.sf2").write_bytes(b"RIFF\0\0\0\0WAVE")
    with pytest.raises(InputError, match=r"no\.sf2: not a SoundFont"):
        load_soundfont(tmp_path / "no.sf2")
    compressed = bytearray(default_soundfont().read_bytes()[:4096])
    at = compressed.index(b"ifil") + 8
    compressed[at] = 3
    (tmp_path / "small.sf3").write_bytes(compressed)
    with pytest.raises(InputError, match=r"small\.sf3: an SF3"):
        load_soundfont(tmp_path / "small.sf3")
    with pytest.raises(InputError, match="gone"):
        load_soundfont(tmp_path / "gone.sf2")


def test_a_truncated_soundfont_is_one_line(tmp_path):
    (tmp_path / "cut.sf2").write_bytes(default_soundfont().read_bytes()[:4096])
    with pytest.raises(InputError, match="cannot be played"):
        write_corpus(tmp_path / "audio", clips=1, soundfont=tmp_path / "cut.sf2", num_workers=0)


def test_without_the_demo_extra_the_fix_is_named(monkeypatch):
    monkeypatch.setattr(exercises.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"pip install 'riffusion-train\[demo\]'"):
        exercises.default_soundfont()
    with pytest.raises(InputError, match=r"pip install 'riffusion-train\[demo\]'"):
        exercises.require_renderer()


def test_the_command_writes_a_corpus_and_refuses_unknown_arguments(tmp_path):
    command = [sys.executable, "-m", "data_prep.corpus"]
    arguments = [f"out={tmp_path / 'a b'}", "clips=2", "num_workers=1", "soundfont=null"]
    done = subprocess.run([*command, *arguments], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, f"{tmp_path / 'a b'}: 2 clips\n")
    assert "2/2" in done.stderr
    rows = [json.loads(line) for line in (tmp_path / "a b" / "metadata.jsonl").read_text().splitlines()]
    assert [row["file_name"] for row in rows] == ["00000.flac", "00001.flac"]
    refused = subprocess.run([*command, "clip=2"], capture_output=True, text=True)
    assert refused.returncode == 2
    assert len(refused.stderr.splitlines()) == 1
