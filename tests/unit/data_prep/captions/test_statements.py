"""What a caption states that can be measured, and the caption without it."""

import pytest

from data_prep.captions.checking import Kind, find_statements, without


def drums_in(caption):
    return [(one.text, one.present) for one in find_statements(caption) if one.kind is Kind.drums]


def instruments_in(caption):
    return [(one.name, one.present) for one in find_statements(caption) if one.kind is Kind.instrument]


def speeds_in(caption):
    return [one.name for one in find_statements(caption) if one.kind is Kind.speed]


@pytest.mark.parametrize(
    ("caption", "bpm"),
    [
        ("techno at 128 bpm", [(128, 128)]),
        ("between 90-100 BPM", [(90, 100)]),
        ("90 to 100 bpm", [(90, 100)]),
        ("a 92.5 beats per minute groove", [(92.5, 92.5)]),
        ("80 bpm, then 120 bpm", [(80, 80), (120, 120)]),
        ("recorded in 1997", []),
    ],
)
def test_tempi(caption, bpm):
    assert [one.bpm for one in find_statements(caption) if one.kind is Kind.tempo] == bpm


def test_keys_are_found_once_each():
    statements = find_statements("in A minor, later Bb major, in g minor")
    assert [(one.name, one.text) for one in statements] == [
        ("A minor", "A minor"),
        ("A# major", "Bb major"),
        ("G minor", "in g minor"),
    ]


@pytest.mark.parametrize(
    ("caption", "drums"),
    [
        ("piano with rock drums", [("drums", True)]),
        ("piano, no drums", [("no drums", False)]),
        ("piano without any drums", [("without any drums", False)]),
        ("without heavy electronic drums", [("without heavy electronic drums", False)]),
        ("a drumless loop", [("drumless", False)]),
        ("beatless ambient", [("beatless", False)]),
        ("no percussion", [("no percussion", False)]),
        ("no bass or drums", [("no bass or drums", False)]),
        ("no bass, drums or guitar", [("drums", True)]),
        ("no singing but loud drums", [("drums", True)]),
        ("no vocals, drums", [("drums", True)]),
        ("snares and hi-hats, four-on-the-floor", [("snares", True), ("hi-hats", True), ("four-on-the-floor", True)]),
        ("drum machine, 90 beats per minute", [("drum machine", True)]),
        ("a trap beat", [("beat", True)]),
        ("a trap beat without drums", [("without drums", False)]),
        ("no beat", [("no beat", False)]),
        ("drum and bass", []),
        ("drum & bass and drum 'n' bass", []),
        ("steel drum solo, upbeat, lofi beats", []),
        ("percussive guitar", []),
    ],
)
def test_drums(caption, drums):
    assert drums_in(caption) == drums


@pytest.mark.parametrize(
    ("caption", "instruments"),
    [
        ("a Grand Piano and synths", [("piano", True), ("synth", True)]),
        ("no guitar or piano", [("guitar", False), ("piano", False)]),
        ("no guitar, violin or cello", [("guitar", False), ("violin", False), ("cello", False)]),
        ("no guitar, piano", [("guitar", False), ("piano", True)]),
        ("an instrumental with harp", [("voice", False), ("harp", True)]),
        ("non-vocal choir", [("voice", False), ("choir", True)]),
        ("sung vocals, string quartet", [("voice", True), ("strings", True)]),
        ("bass guitar and electric piano", []),
        ("harpsichord", [("harpsichord", True)]),
        ("sharp, pianissimo, synthetic", []),
    ],
)
def test_instruments(caption, instruments):
    assert instruments_in(caption) == instruments


@pytest.mark.parametrize(
    ("caption", "speeds"),
    [
        ("fast-paced rock", ["fast"]),
        ("up-tempo, quick", ["fast"]),
        ("a slow waltz", ["slow"]),
        ("unhurried", ["slow"]),
        ("slow, then fast", []),
        ("synth with a slow attack", []),
        ("not too fast", []),
        ("breakfast slowly", []),
    ],
)
def test_speeds(caption, speeds):
    assert speeds_in(caption) == speeds


@pytest.mark.parametrize(
    ("caption", "kind", "left"),
    [
        ("slow dub, rock drums, 90 bpm", Kind.drums, "slow dub, 90 bpm"),
        ("slow dub, rock drums, 90 bpm", Kind.tempo, "slow dub, rock drums"),
        ("slow dub, rock drums, 90 bpm", Kind.speed, "dub, rock drums, 90 bpm"),
        ("techno at 128 bpm: a low piano melody", Kind.tempo, "techno: a low piano melody"),
        ("An epic piece in C minor at 92.5 bpm. It feels sad.", Kind.key, "An epic piece at 92.5 bpm. It feels sad."),
        ("An epic piece in C minor at 92.5 bpm. It feels sad.", Kind.tempo, "An epic piece in C minor. It feels sad."),
        ("warm organ with soft rock drums and bass, sad", Kind.drums, "warm organ and bass, sad"),
        ("warm organ without any drums, sad", Kind.drums, "warm organ, sad"),
        ("with violin", Kind.instrument, ""),
        ("no drums", Kind.drums, ""),
        ("Dub. No drums. Sad.", Kind.drums, "Dub. Sad."),
    ],
)
def test_a_caption_without_a_statement_reads_well(caption, kind, left):
    statement = next(one for one in find_statements(caption) if one.kind is kind)
    assert without(caption, statement) == left
