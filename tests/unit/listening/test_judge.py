import json

import numpy as np
import pytest

from riffusion_train.listening.copies import TrainingSlices
from riffusion_train.listening.embedder import make_heard
from riffusion_train.listening.judge import FIGURES, Judge, JudgedClip, Reference

DIM, REAL, RATE_HZ = 12, 90, 16000
INSTRUMENTS = ("piano", "violin", "choir")
AXES = np.random.default_rng(5).standard_normal((3, DIM)) * 2


class LevelEmbedder:
    """Hears the mean of each of twelve parts of a sound."""

    name, dim = "level", DIM

    def hear(self, clips):
        return [make_heard(wav.reshape(1, DIM, -1).mean(axis=2).astype(np.float32)) for wav, _ in clips]

    def embed_texts(self, texts):
        return None


class LevelEmbedderWithTexts(LevelEmbedder):
    def embed_texts(self, texts):
        return np.stack([sum(AXES[i] for i, name in enumerate(INSTRUMENTS) if name in text) for text in texts])


def sound(kind, seed):
    levels = AXES[kind] + np.random.default_rng(seed).standard_normal(DIM)
    return np.repeat(levels, 50)[None].astype(np.float32), RATE_HZ


def image(seed):
    return np.random.default_rng(seed).integers(0, 256, (64, 64), dtype=np.uint8)


@pytest.fixture(scope="module")
def reference():
    kinds = [i % 3 for i in range(REAL)]
    heard = LevelEmbedder().hear([sound(kind, i) for i, kind in enumerate(kinds)])
    captions = [[f"a slow {INSTRUMENTS[kind]} melody", f"{INSTRUMENTS[kind]} music"] for kind in kinds]
    slices = TrainingSlices([image(i) for i in range(60)], [str(i // 2) for i in range(60)], 0.08)
    return Reference(heard, captions, [str(i // 2) for i in range(REAL)], slices)


@pytest.fixture(scope="module")
def judge(reference):
    return Judge(reference, LevelEmbedder())


def clips(count, first=1000, shift=0):
    return [
        JudgedClip(
            f"{i}",
            sound((i + shift) % 3, first + i),
            f"{INSTRUMENTS[i % 3]} number {'xyz'[i // 3 % 3] * (i + 1)}",
            image(first + i),
        )
        for i in range(count)
    ]


def test_every_figure_has_a_row_and_all_is_plain_data(judge):
    scores = judge.score(clips(40))
    assert [row.what for row in scores.rows] == list(FIGURES)
    assert len(scores.clips) == 40
    assert json.loads(json.dumps(scores.as_json()))["rows"][0]["what"] == "kid"
    for row in scores.rows:
        assert row.unit == FIGURES[row.what]
        assert row.value is not None or row.note, row


def test_music_like_the_real_one_scores_as_the_control(judge):
    scores = judge.score(clips(40))
    for what in ("kid", "kad"):
        row = scores.row(what)
        assert row.low <= 0 <= row.high and row.low <= row.control <= row.high
    assert scores.row("density").value == pytest.approx(1, abs=0.35)
    assert scores.row("agreement").value > 0.85 > scores.row("agreement").control
    assert scores.row("copies").low < 0.05 and scores.row("copies").control == 0.01
    assert np.mean([clip.caption_match for clip in scores.clips]) > 0.7
    assert 0.3 < np.mean([clip.realness for clip in scores.clips]) < 0.7


def test_other_sound_wrong_captions_and_copies_are_noticed(judge, reference):
    noise = [
        JudgedClip(c.name, (c.sound[0] + 5, RATE_HZ), c.caption, reference.slices.images[i])
        for i, c in enumerate(clips(40))
    ]
    scores = judge.score(noise)
    assert scores.row("kid").low > scores.row("kid").control
    assert scores.row("coverage").value < scores.row("coverage").control / 2
    assert scores.row("copies").value == 1 and scores.clips[7].nearest.slice == 7
    assert max(clip.realness for clip in scores.clips) < 0.2
    wrong = judge.score(clips(40, shift=1)).row("agreement")
    assert wrong.value < wrong.control


def test_too_few_clips_leave_figures_out_with_the_number_needed(judge):
    scores = judge.score(clips(10))
    for what, needed in {
        "kid": 16,
        "kad": 16,
        "fad": 13,
        "fad_infinity": 24,
        "density": 25,
        "coverage": 25,
        "retrieval": 16,
    }.items():
        row = scores.row(what)
        assert (row.value, row.needed) == (None, needed) and "needs at least" in row.note
    assert scores.row("copies").value is not None  # a single clip can be searched
    assert scores.row("tempo").needed == 8


def test_what_is_missing_is_said(reference):
    bare = Judge(Reference(reference.heard, [[]] * REAL), LevelEmbedder())
    scores = bare.score([JudgedClip(c.name, c.sound) for c in clips(20)])
    assert scores.row("agreement").note == scores.row("retrieval").note == "the clips have no captions"
    assert "training slices" in scores.row("copies").note and scores.row("copies").needed is None
    assert bare.score(clips(20)).row("agreement").note == "the real clips have no captions"
    assert scores.row("kid").value is not None


def test_an_embedder_of_texts_scores_captions_itself(reference):
    scores = Judge(reference, LevelEmbedderWithTexts()).score(clips(40))
    assert scores.row("clap_score").low > scores.row("clap_score").control
    assert scores.row("retrieval").value > scores.row("retrieval").control


def test_tempo_and_key_are_measured_where_captions_name_them(judge):
    rate_hz, bpm = 22050, 120.0
    time_s = np.arange(6 * rate_hz) / rate_hz
    clicks = np.exp(-40 * (time_s % (60 / bpm))) * np.random.default_rng(0).standard_normal(len(time_s)) * 0.2
    chord = sum(0.1 * np.sin(2 * np.pi * hz * time_s) for hz in (220.0, 261.63, 329.63))
    wav = np.asarray(clicks + chord, np.float32)[None]
    heard = LevelEmbedder().hear([sound(0, 1)])[0]
    asked = ["120 bpm, A minor"] * 6 + ["60 bpm, A minor", "93 bpm, C# major"]
    scores = judge.score([JudgedClip(str(i), (wav, rate_hz), text, heard=heard) for i, text in enumerate(asked)])
    assert scores.row("tempo").value == 6 / 8 and scores.row("tempo_multiples").value == 7 / 8
    assert scores.row("key").value == 7 / 8
    assert scores.clips[0].key == "A minor" and scores.clips[0].tempo_bpm == pytest.approx(120, rel=0.04)
