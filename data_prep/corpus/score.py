"""The score of a clip: its attributes, its notes, and its captions. Clip `i` of seed `s` is a pure function of (s, i)."""

import dataclasses
import itertools
import math
import random

from data_prep.corpus.palette import (
    CLIP_S,
    DRUMS,
    INSTRUMENTS,
    KEYS,
    MODES,
    PATTERNS,
    PROGRESSIONS,
    REGISTERS,
    TEMPI,
    TEMPLATES,
)

_COMBINATIONS = tuple(itertools.product(INSTRUMENTS, TEMPI, DRUMS, REGISTERS, PATTERNS))
_ARPEGGIO_STEPS = (0, 2, 4, 7, 4, 2, 0, 2)
"""Scale steps above the root of the chord, one for each half beat of a bar."""
_LAST_ONSET_S = CLIP_S - 0.02
CAPTIONS_PER_CLIP = 3


@dataclasses.dataclass(frozen=True)
class Attributes:
    """The attributes of a clip; texts are keys of the tables in `palette`."""

    instrument: str
    tempo: str
    bpm: int
    drums: str
    register: str
    pattern: str
    key: str
    mode: str


@dataclasses.dataclass(frozen=True)
class Note:
    """One note: onset and length in seconds, MIDI note number, velocity (1-127), and whether a drum plays it."""

    start_s: float
    duration_s: float
    pitch: int
    velocity: int
    is_drum: bool = False


def attributes_of(seed: int, clip: int) -> Attributes:
    """Return the attributes of one clip.

    Each round of clips visits every combination of instrument, tempo, drums, register and pattern once, in an order
    shuffled by (seed, round), so that the attributes are balanced and independent of each other.
    """
    round_index, position = divmod(clip, len(_COMBINATIONS))
    order = list(range(len(_COMBINATIONS)))
    addressed_random(seed, round_index, "order").shuffle(order)
    instrument, tempo, drums, register, pattern = _COMBINATIONS[order[position]]
    rng = addressed_random(seed, clip, "attributes")
    return Attributes(
        instrument=instrument,
        tempo=tempo,
        bpm=rng.randint(*TEMPI[tempo].bpm),
        drums=drums,
        register=register,
        pattern=pattern,
        key=rng.choice(list(KEYS)),
        mode=rng.choice(list(MODES)),
    )


def compose_notes(attributes: Attributes, seed: int, clip: int) -> list[Note]:
    """Return the notes of one clip in order of their onsets; the first one is at 0 s, on the first beat of a bar."""
    rng = addressed_random(seed, clip, "notes")
    beat_s = 60 / attributes.bpm
    beats = math.ceil(CLIP_S / beat_s)
    play = {"melody": _melody, "chords": _chords, "arpeggio": _arpeggio}[attributes.pattern]
    notes = play(attributes, beat_s, beats, rng) + _drum_notes(attributes.drums, beat_s, beats)
    return sorted((note for note in notes if note.start_s < _LAST_ONSET_S), key=lambda note: (note.start_s, note.pitch))


def addressed_random(seed: int, index: int, purpose: str) -> random.Random:
    """Return a random generator that depends on its arguments alone.

    `random.Random` hashes a text seed in the same way in every process.
    """
    return random.Random(f"{seed}/{index}/{purpose}")


def _pitch(attributes: Attributes, step: int) -> int:
    """Return the MIDI note of a scale step; steps 0 to 7 span one octave, others are folded into it."""
    lowest = REGISTERS[attributes.register].lowest_tonic
    tonic = lowest + (KEYS[attributes.key] - lowest) % 12
    return tonic + MODES[attributes.mode][step % 7] + (12 if step == 7 else 0)


def _melody(attributes: Attributes, beat_s: float, beats: int, rng: random.Random) -> list[Note]:
    """Walk along the scale in small steps, one or two notes a beat."""
    notes = []
    step = rng.randint(0, 4)
    for beat in range(beats):
        parts = rng.choice((1, 2))
        for part in range(parts):
            step = max(0, min(7, step + rng.choice((-2, -1, -1, 1, 1, 2))))
            start_s, length_s = (beat + part / parts) * beat_s, beat_s / parts
            notes.append(Note(start_s, 0.9 * length_s, _pitch(attributes, step), rng.randint(92, 110)))
    return notes


def _chords(attributes: Attributes, beat_s: float, beats: int, rng: random.Random) -> list[Note]:
    """Strike a triad on every beat; the chord changes with the bar."""
    progression = rng.choice(PROGRESSIONS)
    notes = []
    for beat in range(beats):
        root = progression[beat // 4 % len(progression)]
        for third in (0, 2, 4):
            pitch = _pitch(attributes, (root + third) % 7)
            notes.append(Note(beat * beat_s, 0.75 * beat_s, pitch, rng.randint(80, 95)))
    return notes


def _arpeggio(attributes: Attributes, beat_s: float, beats: int, rng: random.Random) -> list[Note]:
    """Break the chord of the bar into two notes a beat."""
    progression = rng.choice(PROGRESSIONS)
    notes = []
    for half in range(2 * beats):
        root = progression[half // 8 % len(progression)]
        pitch = _pitch(attributes, (root + _ARPEGGIO_STEPS[half % 8]) % 7)
        notes.append(Note(half * beat_s / 2, 0.45 * beat_s, pitch, rng.randint(85, 105)))
    return notes


def _drum_notes(drums: str, beat_s: float, beats: int) -> list[Note]:
    bars = math.ceil(beats / 4)
    return [
        Note((4 * bar + hit.beat) * beat_s, 0.1, hit.note, hit.velocity, is_drum=True)
        for bar in range(bars)
        for hit in DRUMS[drums].hits
    ]


def captions_of(attributes: Attributes, seed: int, clip: int) -> list[str]:
    """Return the captions of one clip: the canonical one, then others from different templates with random words.

    Each names instrument, tempo, drums, register and pattern.
    """
    rng = addressed_random(seed, clip, "captions")
    captions = [prompt_of(attributes)]
    for template in rng.sample(TEMPLATES[1:], CAPTIONS_PER_CLIP - 1):
        words = {name: rng.choice(choices) for name, choices in _words(attributes).items()}
        captions.append(_fill(template, attributes, words))
    return captions


def prompt_of(attributes: Attributes) -> str:
    """Return the canonical prompt: the first template with the first word of every attribute."""
    return _fill(TEMPLATES[0], attributes, {name: choices[0] for name, choices in _words(attributes).items()})


def _words(attributes: Attributes) -> dict[str, tuple[str, ...]]:
    return {
        "instrument": INSTRUMENTS[attributes.instrument].words,
        "tempo": TEMPI[attributes.tempo].words,
        "drums": DRUMS[attributes.drums].words,
        "register": REGISTERS[attributes.register].words,
        "pattern": PATTERNS[attributes.pattern],
    }


def _fill(template: str, attributes: Attributes, words: dict[str, str]) -> str:
    text = template.format(bpm=attributes.bpm, key=attributes.key, mode=attributes.mode, **words)
    return text.replace("with without", "without")
