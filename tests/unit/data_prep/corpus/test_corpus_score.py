import re
from collections import Counter

import numpy as np
import pytest

from data_prep.captions.text import read_sidecar
from data_prep.corpus import palette
from data_prep.corpus.exercises import attributes_of, captions_of, compose_notes, prompt_of

CLIPS = range(600)
WORDS = {
    "instrument": {name: entry.words for name, entry in palette.INSTRUMENTS.items()},
    "tempo": {name: entry.words for name, entry in palette.TEMPI.items()},
    "drums": {name: entry.words for name, entry in palette.DRUMS.items()},
    "register": {name: entry.words for name, entry in palette.REGISTERS.items()},
    "pattern": palette.PATTERNS,
}


def named_in(caption, attribute):
    return {
        name
        for name, words in WORDS[attribute].items()
        if any(re.search(rf"(?<![\w-]){re.escape(word)}(?![\w-])", caption) for word in words)
    }


def test_a_clip_depends_on_the_seed_and_its_number_only():
    assert attributes_of(3, 17) == attributes_of(3, 17)
    attributes = attributes_of(3, 17)
    assert compose_notes(attributes, 3, 17) == compose_notes(attributes, 3, 17)
    assert captions_of(attributes, 3, 17) == captions_of(attributes, 3, 17)
    assert [attributes_of(3, clip) for clip in range(9)] != [attributes_of(4, clip) for clip in range(9)]
    assert compose_notes(attributes, 3, 17) != compose_notes(attributes, 3, 18)


def test_a_round_of_clips_visits_every_combination_once():
    combinations = [
        len(table) for table in (palette.INSTRUMENTS, palette.TEMPI, palette.DRUMS, palette.REGISTERS, palette.PATTERNS)
    ]
    size = int(np.prod(combinations))
    for start in (0, size):
        visited = Counter(
            (item.instrument, item.tempo, item.drums, item.register, item.pattern)
            for item in (attributes_of(0, clip) for clip in range(start, start + size))
        )
        assert len(visited) == size


@pytest.mark.parametrize("attribute", WORDS)
def test_every_caption_names_each_attribute_and_no_other_value_of_it(attribute):
    for clip in CLIPS:
        attributes = attributes_of(1, clip)
        for caption in [*captions_of(attributes, 1, clip), prompt_of(attributes)]:
            assert named_in(caption, attribute) == {getattr(attributes, attribute)}, caption


def test_a_clip_has_several_captions_that_differ_and_survive_a_sidecar(tmp_path):
    captions = captions_of(attributes_of(0, 5), 0, 5)
    assert 2 <= len(set(captions)) == len(captions)
    (tmp_path / "a.txt").write_text("\n".join(captions) + "\n")
    assert list(read_sidecar(tmp_path / "a.txt")) == captions


def test_onsets_lie_on_the_beats_of_the_bpm():
    for clip in CLIPS:
        attributes = attributes_of(2, clip)
        onsets_s = np.array([note.start_s for note in compose_notes(attributes, 2, clip)])
        halves = onsets_s * attributes.bpm / 60 * 2
        assert onsets_s[0] == 0
        assert np.allclose(halves, halves.round())
        assert onsets_s.max() < palette.CLIP_S
        low, high = palette.TEMPI[attributes.tempo].bpm
        assert low <= attributes.bpm <= high


def test_registers_do_not_overlap_in_their_tonics_and_order_the_pitches():
    means = {name: [] for name in palette.REGISTERS}
    for clip in CLIPS:
        attributes = attributes_of(2, clip)
        pitches = [note.pitch for note in compose_notes(attributes, 2, clip) if not note.is_drum]
        low = palette.REGISTERS[attributes.register].lowest_tonic
        assert low <= min(pitches) and max(pitches) < low + 24
        means[attributes.register].append(np.mean(pitches))
    assert max(means["low"]) < min(means["middle"])
    assert max(means["middle"]) < min(means["high"])


def test_drums_play_only_where_they_are_asked_for():
    for clip in CLIPS:
        attributes = attributes_of(2, clip)
        drums = {note.pitch for note in compose_notes(attributes, 2, clip) if note.is_drum}
        assert bool(drums) == (attributes.drums != "none")
        assert (38 in drums) == (attributes.drums == "rock")
