"""What the corpus is made of: plain tables, to be read and tuned. The first word of every entry is the canonical one.

No two values of one attribute may share a word, or captions would be ambiguous; a test checks it.
"""

import dataclasses

CLIP_S = 5.12
"""Length of every clip in seconds."""


@dataclasses.dataclass(frozen=True)
class Instrument:
    """One melodic instrument: its General MIDI program (counted from 0) and the words that name it."""

    program: int
    words: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Tempo:
    """One tempo class: the beats a minute it covers (both ends belong to it) and the words that name it."""

    bpm: tuple[int, int]
    words: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Register:
    """One register: its lowest tonic as a MIDI note number (tonics span the octave above it) and its words."""

    lowest_tonic: int
    words: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class DrumHit:
    """One stroke of a drum pattern: General MIDI percussion note, place in the four-beat bar, velocity."""

    note: int
    beat: float
    velocity: int


@dataclasses.dataclass(frozen=True)
class Drums:
    """One drum pattern of a bar in 4/4, and the words that name it."""

    hits: tuple[DrumHit, ...]
    words: tuple[str, ...]


INSTRUMENTS: dict[str, Instrument] = {
    "piano": Instrument(0, ("piano", "grand piano")),
    "church organ": Instrument(19, ("church organ", "pipe organ")),
    "distorted guitar": Instrument(30, ("distorted guitar", "heavy electric guitar")),
    "string ensemble": Instrument(48, ("string ensemble", "strings")),
    "choir": Instrument(52, ("choir", "singing choir")),
    "synth lead": Instrument(80, ("synth lead", "square wave synthesizer")),
}
"""Of twelve candidates these six are told apart best (94 %) in an image of 128 x 128 pixels."""

TEMPI: dict[str, Tempo] = {
    "slow": Tempo((60, 72), ("slow", "calm")),
    "medium": Tempo((96, 112), ("medium tempo", "mid-tempo")),
    "fast": Tempo((150, 172), ("fast", "lively")),
}

REGISTERS: dict[str, Register] = {
    "low": Register(34, ("low", "deep")),
    "middle": Register(55, ("middle", "mid-range")),
    "high": Register(76, ("high", "bright high")),
}

_KICK, _SNARE, _CLOSED_HAT, _OPEN_HAT = 36, 38, 42, 46

DRUMS: dict[str, Drums] = {
    "none": Drums((), ("no drums", "without drums")),
    "rock": Drums(
        (
            *(DrumHit(_KICK, beat, 112) for beat in (0.0, 2.0)),
            *(DrumHit(_SNARE, beat, 112) for beat in (1.0, 3.0)),
            *(DrumHit(_CLOSED_HAT, half / 2, 75) for half in range(8)),
        ),
        ("rock drums", "rock beat"),
    ),
    "four on the floor": Drums(
        (
            *(DrumHit(_KICK, float(beat), 118) for beat in range(4)),
            *(DrumHit(_OPEN_HAT, beat + 0.5, 88) for beat in range(4)),
        ),
        ("four on the floor beat", "house beat"),
    ),
}

PATTERNS: dict[str, tuple[str, ...]] = {
    "melody": ("melody", "tune"),
    "chords": ("chords", "block chords"),
    "arpeggio": ("arpeggio", "rippling arpeggio"),
}

KEYS: dict[str, int] = {"C": 0, "D": 2, "E": 4, "F": 5, "G": 7, "A": 9}
"""Tonic as semitones above C."""

MODES: dict[str, tuple[int, ...]] = {"major": (0, 2, 4, 5, 7, 9, 11), "minor": (0, 2, 3, 5, 7, 8, 10)}
"""The seven steps of the scale as semitones above the tonic."""

PROGRESSIONS: tuple[tuple[int, ...], ...] = ((0, 4, 5, 3), (0, 3, 4, 4), (0, 5, 3, 4), (0, 2, 3, 4))
"""Chord of each bar as a scale step counted from 0."""

TEMPLATES: tuple[str, ...] = (
    "{tempo} {instrument} {pattern}, {register} register, {drums}",
    "{tempo} {pattern} on {instrument} in the {register} register, {drums}",
    "{instrument} {pattern}, {tempo}, {register} notes, {drums}",
    "{tempo} {instrument} {pattern} in {key} {mode}, {register} register, {drums}",
    "{tempo} music at {bpm} bpm: {register} {instrument} {pattern}, {drums}",
    "{instrument} with {drums}, {tempo}, {pattern} in the {register} register",
)
"""The first is the canonical one."""
