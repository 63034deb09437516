"""Statements of captions against what was heard: what contradicts, what fits, and what is unclear."""

import numpy as np
import pytest

from data_prep.captions.checking import contradictions, corrected
from data_prep.captions.listening import Heard
from riffusion_train.listening.attributes import TEMPI_BPM, Evidence


def pulse_at(*tempi_bpm):
    """Full support for some tempi and their halves, none for others."""
    near = [
        any(abs(bpm / (tempo * factor) - 1) < 0.03 for tempo in tempi_bpm for factor in (1, 0.5)) for bpm in TEMPI_BPM
    ]
    return tuple(100 * int(one) for one in near)


def heard(tags=None, bpm=None, **evidence):
    scores = {"drums": 0.0, **(tags or {})}
    scores = {tag: value if isinstance(value, tuple) else (value, value) for tag, value in scores.items()}
    return Heard(starts_s=(0.0, 3.0), scores=scores, bpm=bpm, evidence=Evidence(**evidence))


C_MAJOR = tuple(float(share) for share in np.array([6, 1, 4, 1, 5, 4, 1, 6, 1, 4, 1, 3]) / 37)
_BEAT = {"drums": 0.6, "beat": 0.5, "beats": 0.2}
_STROKES = (0.1, 0.3, 0.3, 0.5, 0.5, 0.3, 0.5, 0.5, 0.55, 0.55, 0.5, 0.8, 0.9, 0.95, 0.95, 0.1, 0.2, 0.3, 0.4, 0.4)
_TONES = (0.05, 0.05, 0.02, 0.02, 0.1, 0.1, 0.1, 0.05, 0.05, 0.2, 0.3, 0.3, 0.4, 0.4, 0.5, 0.0, 0.0, 0.0, 0.0, 0.02)
LOUD_DRUMS = heard(_BEAT, strokes=_STROKES)
NO_DRUMS = heard({"drums": 0.005}, strokes=_TONES)
HALF_STROKES = tuple((tone + stroke) / 2 for tone, stroke in zip(_TONES, _STROKES, strict=True))
UNCLEAR = heard({"drums": 0.05, "beat": 0.02}, strokes=HALF_STROKES)


def false_in(caption, one):
    return [(found.statement.text, found.measured) for found in contradictions(caption, one)]


@pytest.mark.parametrize(
    ("caption", "is_false"),
    [
        ("dub at 90 bpm", False),
        ("dub at 45 bpm", False),
        ("dub at 180 bpm", False),
        ("dub at 92 bpm", False),
        ("dub at 104 bpm", True),
        ("dub at 120 bpm", True),
        ("85-95 bpm", False),
        ("100-110 bpm", True),
    ],
)
def test_a_tempo_is_false_if_neither_it_nor_its_half_or_double_is_in_the_onsets(caption, is_false):
    assert bool(false_in(caption, heard(pulse=pulse_at(90), bpm=90.2))) == is_false


def test_a_false_tempo_names_the_measured_one():
    assert false_in("dub at 104 bpm", heard(pulse=pulse_at(90), bpm=90.2)) == [("104 bpm", "measured 90 bpm")]


def test_evidence_of_an_earlier_version_gives_no_verdict_on_drums():
    assert false_in("rock drums", heard({"drums": 0.005}, strokes=(0.2, 0.3))) == []


def test_where_nothing_is_measured_nothing_is_false():
    for evidence in (None, Evidence()):
        silent = Heard(starts_s=(), scores={}, evidence=evidence)
        assert false_in("fast rock drums, piano, no vocals, 120 bpm in A minor", silent) == []


@pytest.mark.parametrize(
    ("key", "is_false"),
    [("C major", False), ("A minor", False), ("F# major", True), ("E major", True)],
)
def test_a_key_is_false_if_neither_it_nor_its_relative_fits_the_notes(key, is_false):
    assert bool(false_in(f"chords in {key}", heard(chroma=C_MAJOR))) == is_false


@pytest.mark.parametrize(
    ("caption", "one", "false"),
    [
        ("rock drums", NO_DRUMS, ["drums"]),
        ("rock drums", LOUD_DRUMS, []),
        ("without any drums", LOUD_DRUMS, ["without any drums"]),
        ("drumless", LOUD_DRUMS, ["drumless"]),
        ("no percussion", LOUD_DRUMS, ["no percussion"]),
        ("no drums", NO_DRUMS, []),
        ("gentle percussion", NO_DRUMS, []),
        ("no drums", UNCLEAR, []),
        ("rock drums", UNCLEAR, []),
    ],
)
def test_drums(caption, one, false):
    assert [text for text, _ in false_in(caption, one)] == false


def test_fast_and_slow():
    slow, fast = heard({"slow": 0.6, "fast": 0.003}), heard({"slow": 0.003, "fast": 0.6})
    assert false_in("fast techno", slow) and not false_in("slow techno", slow)
    assert false_in("slow techno", fast) and not false_in("fast techno", fast)


def test_an_instrument_anywhere_in_the_track_counts():
    late = heard({"piano": (0.001, 0.9)})
    assert not false_in("with piano", late)
    assert [text for text, _ in false_in("no piano, no drums", late)] == ["no piano"]
    assert [text for text, _ in false_in("piano and banjo", heard())] == ["piano"]


def test_false_statements_are_taken_out_of_a_caption():
    one = heard({"drums": 0.005}, strokes=_TONES, pulse=pulse_at(90), chroma=C_MAJOR)
    assert corrected("warm dub with rock drums, 120 bpm, in F# major", one) == "warm dub"
    assert corrected("warm dub, 90 bpm", one) == "warm dub, 90 bpm"
    assert corrected("rock drums", one) == ""
