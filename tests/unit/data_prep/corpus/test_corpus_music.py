"""Composed music: the same in every process, at a good level, and as its captions say."""

import collections
import dataclasses
import json
import re

import numpy as np
import pytest
import soundfile

from data_prep.captions.tables import read_table
from data_prep.corpus import write_music
from data_prep.corpus.__main__ import main
from data_prep.corpus.exercises import default_soundfont
from data_prep.corpus.music.clip import CLIP_S, NO_DRUMS, RATE_HZ, Composer, chosen_styles
from data_prep.corpus.music.instruments import DRUM_KITS, DRUM_NOTES, DRUM_PATTERNS, INSTRUMENTS, LEADS, registers_of
from data_prep.corpus.music.melody import MODES, TONICS, chord_of
from data_prep.corpus.music.piece import LEAD_IN_S, compose_piece
from data_prep.corpus.music.soundfont import DRUM_BANK
from data_prep.corpus.music.styles import STYLES
from riffusion_train.runtime.errors import InputError

LENGTH_S = LEAD_IN_S + CLIP_S


@pytest.fixture(scope="module")
def composer():
    return Composer(default_soundfont(), seed=3)


@pytest.fixture(scope="module")
def clips(composer):
    return [composer.compose(index) for index in range(16)]


@pytest.fixture(scope="module")
def pieces():
    return [compose_piece(0, index, tuple(STYLES), LENGTH_S) for index in range(400)]


def contents(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def test_a_clip_depends_on_seed_and_index_alone(composer, clips):
    again = Composer(default_soundfont(), seed=3)
    np.testing.assert_array_equal(again.compose(13).wav, clips[13].wav)
    assert again.describe(13) == (clips[13].captions, clips[13].attributes)
    assert not np.array_equal(Composer(default_soundfont(), seed=4).compose(13).wav, clips[13].wav)


def test_processes_share_the_endless_stream_without_repeating_a_clip(composer, clips):
    for start in (0, 1):
        stream = composer.clips(start, step=2)
        for index in (start, start + 2):
            np.testing.assert_array_equal(next(stream).wav, clips[index].wav)


def test_clips_are_loud_unclipped_stereo_without_offset(clips):
    for clip in clips:
        assert clip.wav.shape == (2, round(CLIP_S * RATE_HZ))
        assert clip.wav.dtype == np.float32
        assert np.abs(clip.wav).max() < 0.9
        assert -18 < 20 * np.log10(np.sqrt(np.square(clip.wav).mean())) < -13
        assert np.abs(clip.wav.mean(axis=1)).max() < 0.02


def test_every_style_is_as_frequent_as_the_others_and_can_be_without_drums(pieces):
    count = collections.Counter(piece.attributes.style for piece in pieces)
    assert set(count) == set(STYLES)
    assert max(count.values()) < 3 * min(count.values())
    assert {piece.attributes.style for piece in pieces if piece.attributes.drums == "none"} == set(STYLES)
    assert {piece.attributes.lead for piece in pieces} == set(LEADS)


def test_captions_name_drums_where_there_are_strokes_and_only_there(pieces):
    for piece in pieces:
        strokes = [
            note for part in piece.parts if part.bank == DRUM_BANK for note in part.notes if note.start_s > LEAD_IN_S
        ]
        assert (piece.attributes.drums == "none") == (not strokes)


def test_captions_are_true_and_differ_in_length(composer):
    for index in range(200):
        captions, attributes = composer.describe(index)
        assert len(captions) == 4
        assert min(len(caption.split()) for caption in captions) <= 7
        assert max(len(caption.split()) for caption in captions) >= 10
        for caption in captions:
            assert "  " not in caption and "{" not in caption and "none" not in caption
            for bpm in re.findall(r"(\d+) bpm", caption):
                assert int(bpm) == attributes.bpm
            if any(words in caption.lower() for words in NO_DRUMS):
                assert attributes.drums == "none"
        assert attributes.style in captions[0] and attributes.lead in captions[0]


def test_chords_stay_in_the_key_but_for_a_few_cadences(pieces):
    inside = []
    for piece in pieces:
        attributes = piece.attributes
        tonic = TONICS.index(attributes.key.rsplit(" ", 1)[0])
        scale = {(tonic + step) % 12 for step in MODES[attributes.mode]}
        notes = [note for part in piece.parts if part.role in ("chords", "pad") for note in part.notes]
        inside += [note.pitch % 12 in scale for note in notes]
    assert 0.95 < np.mean(inside) < 1


def test_drums_fall_on_the_beat_of_the_tempo():
    house = compose_piece(0, _first_with(("house",), "four on the floor"), ("house",), LENGTH_S)
    kicks = [
        note.start_s
        for part in house.parts
        if part.role == "drums"
        for note in part.notes
        if note.pitch == DRUM_NOTES["kick"]
    ]
    intervals = np.diff(sorted(kicks)) * house.attributes.bpm / 60
    assert np.median(intervals) == pytest.approx(1, abs=0.02)


def _first_with(styles, drums):
    return next(index for index in range(100) if compose_piece(0, index, styles, LENGTH_S).attributes.drums == drums)


def test_leads_play_within_the_range_of_their_instrument_near_their_register(pieces):
    means = collections.defaultdict(list)
    for piece in pieces:
        lead = piece.parts[0]
        instrument = INSTRUMENTS[piece.attributes.lead]
        assert all(instrument.lowest <= note.pitch <= instrument.highest for note in lead.notes)
        if lead.notes:
            means[piece.attributes.register].append(np.mean([note.pitch for note in lead.notes]))
    assert np.mean(means["low"]) + 8 < np.mean(means["middle"]) < np.mean(means["high"]) - 8


def test_the_tables_name_only_what_exists():
    assert len(INSTRUMENTS) >= 60
    for style in STYLES.values():
        for name in (*style.basses, *style.comps, *style.pads, *style.leads):
            assert name in INSTRUMENTS
        assert set(style.drums) <= set(DRUM_PATTERNS) and set(style.kits) <= set(DRUM_KITS)
        assert set(style.leads) <= set(LEADS)
        assert all(60 <= low <= high <= 180 for low, high in style.tempi.values())
        for grid in style.bass:
            assert set(grid) <= set("R5378a-.") and len(grid) % style.beats == 0
    assert all(registers_of(lead) for lead in LEADS)
    assert chord_of("5M", 9, "minor", 4).classes == (4, 8, 11, 2)


def test_a_written_corpus_is_the_same_for_any_number_of_workers_and_resumes(tmp_path):
    arguments = {"clips": 5, "seed": 1, "soundfont": default_soundfont(), "styles": ["house", "folk"], "clip_s": 2.0}
    one, two = tmp_path / "one", tmp_path / "two"
    assert write_music(one, num_workers=0, **arguments)
    assert write_music(two, num_workers=2, **arguments)
    assert contents(one) == contents(two)
    (one / "00002.flac").unlink()
    assert write_music(one, num_workers=0, **arguments)
    assert contents(one) == contents(two)
    assert not write_music(one, num_workers=0, **arguments)
    with pytest.raises(InputError, match="another styles"):
        write_music(one, num_workers=0, **{**arguments, "styles": ["folk"]})
    table = read_table(two / "metadata.jsonl")
    assert {"style", "lead", "drums", "tempo", "bpm", "key", "register"} <= set(table.types)
    assert soundfile.info(two / "00000.flac").channels == 2
    settings = json.loads((two / "corpus.json").read_text())
    assert settings["soundfont"] == "TimGM6mb.sf2" and len(settings["soundfont_sha256"]) == 64


def test_wrong_options_are_refused_in_one_line(tmp_path, capsys):
    for arguments, message in (
        (["kind=music", "styles=polka"], "styles=polka: no such style"),
        (["kind=musik"], "kind=musik: exercises or music"),
        (["styles=house"], "styles=house: only for kind=music"),
        (["kind=music", "clip_s=long"], "clip_s=long: not a number"),
        (["kind=music", f"soundfont={__file__}"], "not a SoundFont"),
    ):
        assert main([f"out={tmp_path / 'x'}", *arguments]) == 2
        error = capsys.readouterr().err
        assert message in error and len(error.splitlines()) == 1
    (tmp_path / "cut.sf2").write_bytes(default_soundfont().read_bytes()[:4096])
    with pytest.raises(InputError, match=r"cut\.sf2: damaged"):
        Composer(tmp_path / "cut.sf2")
    with pytest.raises(InputError, match="no style is left"):
        chosen_styles(["folk"], ["folk"])


def test_attributes_are_columns_of_plain_values(composer):
    _, attributes = composer.describe(0)
    assert all(isinstance(value, (str, int, bool)) for value in dataclasses.asdict(attributes).values())
