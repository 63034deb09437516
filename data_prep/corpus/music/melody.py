"""Harmony and melody: scales and chords, and phrases of two bars over them.

A motif is invented once, and then repeated, varied and led to a close.
"""

import dataclasses
import random

MODES: dict[str, tuple[int, ...]] = {
    "major": (0, 2, 4, 5, 7, 9, 11),
    "minor": (0, 2, 3, 5, 7, 8, 10),
    "dorian": (0, 2, 3, 5, 7, 9, 10),
    "phrygian": (0, 1, 3, 5, 7, 8, 10),
    "lydian": (0, 2, 4, 6, 7, 9, 11),
    "mixolydian": (0, 2, 4, 5, 7, 9, 10),
    "harmonic minor": (0, 2, 3, 5, 7, 8, 11),
}
"""The seven steps of each scale as semitones above the tonic."""
TONICS: tuple[str, ...] = ("C", "C sharp", "D", "E flat", "E", "F", "F sharp", "G", "A flat", "A", "B flat", "B")
_PENTATONIC = {"major": (0, 1, 2, 4, 5), "minor": (0, 2, 3, 4, 6)}
"""The steps of a scale that make its pentatonic one, for scales with a major and with a minor third."""


@dataclasses.dataclass(frozen=True)
class Chord:
    """One chord: its root as a pitch class, and all its notes as semitones above the root."""

    root: int
    intervals: tuple[int, ...]

    @property
    def classes(self) -> tuple[int, ...]:
        """The pitch classes, the root first."""
        return tuple((self.root + interval) % 12 for interval in self.intervals)


def quality_of(mode: str) -> str:
    """Return "major" or "minor": what the third of a scale is."""
    return "major" if MODES[mode][2] == 4 else "minor"


def chord_of(token: str, tonic: int, mode: str, size: int) -> Chord:
    """Return the chord of a token such as "5" or "5M", with `size` notes in thirds; 2 is a root with its fifth."""
    steps = MODES[mode]
    step = int(token.rstrip("Mm")) - 1
    intervals = [
        (steps[(step + 2 * third) % 7] - steps[step]) % 12 + (12 if third > 3 else 0) for third in range(max(size, 3))
    ]
    if token.endswith("M"):
        intervals[1] = 4
    elif token.endswith("m"):
        intervals[1] = 3
    if size == 2:
        intervals = [0, 7]
    return Chord((tonic + steps[step]) % 12, tuple(intervals))


def progression_of(text: str, tonic: int, mode: str, size: int) -> list[list[Chord]]:
    """Return the chords of each bar of a progression; chords of one bar share it evenly."""
    return [[chord_of(token, tonic, mode, size) for token in bar.split("/")] for bar in text.split()]


def melody_classes(tonic: int, mode: str, scale: str) -> tuple[int, ...]:
    """Return the pitch classes that a melody uses, in rising order from the tonic."""
    steps = MODES[mode]
    quality = quality_of(mode)
    if scale == "mode":
        offsets: tuple[int, ...] = steps
    else:
        offsets = tuple(steps[step] for step in _PENTATONIC[quality])
        if scale == "blues":
            offsets = tuple(sorted({*offsets, 6 if quality == "minor" else 3}))
    return tuple((tonic + offset) % 12 for offset in offsets)


def voicing(chord: Chord, lowest: int) -> list[int]:
    """Return the notes of a chord, each within the octave above `lowest`: neighbouring chords move little."""
    return sorted(lowest + (pitch_class - lowest) % 12 for pitch_class in chord.classes)


_FORMS = ("AABA", "ABAC", "AABB", "ABAB", "AABC")
_PHRASE_BARS = 2


@dataclasses.dataclass(frozen=True)
class Step:
    """One note of a motif: its beat within the phrase, its length in beats, and its distance from the first in scale steps."""

    beat: float
    beats: float
    height: int


@dataclasses.dataclass(frozen=True)
class Sung:
    """One note of a melody: its beat from the start of the piece, its length in beats, MIDI note number, and accent."""

    beat: float
    beats: float
    pitch: int
    accent: float


def sing(
    rng: random.Random, chords: list[list[Chord]], classes: tuple[int, ...], centre: int, beats: int, density: float
) -> list[Sung]:
    """Return a melody over bars of chords.

    Args:
        rng: Where its randomness comes from.
        chords: The chords of each bar.
        classes: Pitch classes that it uses.
        centre: The note around which it moves.
        beats: Beats of a bar.
        density: Notes a beat, about.
    """
    form = rng.choice(_FORMS)
    motifs = {letter: _motif(rng, beats, density) for letter in sorted(set(form))}
    ladder = [pitch for pitch in range(centre - 14, centre + 15) if pitch % 12 in classes]
    middle = min(range(len(ladder)), key=lambda index: abs(ladder[index] - centre))
    notes: list[Sung] = []
    for phrase in range((len(chords) + _PHRASE_BARS - 1) // _PHRASE_BARS):
        motif = motifs[form[phrase % len(form)]]
        is_close = phrase % len(form) == len(form) - 1
        shift = rng.choice((0, 0, 0, 1, -1, 2)) if phrase >= len(form) or phrase % 2 else 0
        for index, step in enumerate(motif):
            beat = phrase * _PHRASE_BARS * beats + step.beat
            bar = min(int(beat // beats), len(chords) - 1)
            chord = _chord_at(chords[bar], beat - bar * beats, beats)
            place = min(len(ladder) - 1, max(0, middle + shift + step.height))
            is_last = index == len(motif) - 1
            # Strong beats and long notes belong to the chord; the others pass between.
            is_strong = step.beat % 2 == 0 or step.beats >= 1
            pitch = _nearest(ladder[place], chord.classes[:4]) if is_strong or is_last else ladder[place]
            length = step.beats * (1.6 if is_last and is_close else 1)
            notes.append(Sung(beat, length, pitch, 1.0 if step.beat % beats == 0 else 0.6 if is_strong else 0.3))
    return notes


def riff(rng: random.Random, chords: list[list[Chord]], centre: int, beats: int, per_beat: int) -> list[Sung]:
    """Return broken chords: one figure through all bars, with two or four notes a beat."""
    length = beats * per_beat
    figure = rng.choice(
        ((0, 1, 2, 3), (0, 2, 1, 2), (0, 1, 2, 1), (3, 2, 1, 0), (0, 2, 3, 2, 1, 2), (0, 1, 3), (0, 3, 2, 3, 1, 3))
    )
    notes = []
    for bar, of_bar in enumerate(chords):
        for index in range(length):
            beat = index / per_beat
            chord = _chord_at(of_bar, beat, beats)
            tones = sorted(_nearest(centre + offset, (pitch_class,)) for offset, pitch_class in zip(
                (-4, 0, 4, 7), (*chord.classes, chord.classes[0])[:4], strict=False))  # fmt: skip
            pitch = tones[figure[index % len(figure)] % len(tones)]
            notes.append(Sung(bar * beats + beat, 0.95 / per_beat, pitch, 1.0 if index == 0 else 0.5))
    return notes


def _motif(rng: random.Random, beats: int, density: float) -> list[Step]:
    """Return a phrase of two bars: a rhythm of the first bar that the second repeats or answers, and a rest at its end."""
    grid = 4 if density > 1.7 else 2
    first = _rhythm(rng, beats, grid, density)
    second = list(first) if rng.random() < 0.5 else _rhythm(rng, beats, grid, density * 0.8)
    onsets = [*first, *(beats + onset for onset in second if onset < beats - 0.9)]
    height = rng.choice((-1, 0, 0, 1, 2))
    direction = rng.choice((-1, 1))
    steps = []
    for index, onset in enumerate(onsets):
        end = onsets[index + 1] if index + 1 < len(onsets) else 2 * beats - rng.choice((0.0, 0.5, 1.0))
        steps.append(Step(onset, max(0.2, min(end - onset, 3.0)), height))
        move = rng.choice((1, 1, 1, 2, 0, 2, 3, -1, -2))
        height += direction * move
        if abs(height) > 4:  # a line turns before it leaves its register
            direction = -1 if height > 0 else 1
        elif rng.random() < 0.25:
            direction = -direction
    return steps


def _rhythm(rng: random.Random, beats: int, grid: int, density: float) -> list[float]:
    onsets = [0.0] if rng.random() < 0.8 else []
    for index in range(1, beats * grid):
        beat = index / grid
        weight = 1.5 if beat % 1 == 0 else 1.0 if beat % 0.5 == 0 else 0.7
        if rng.random() < min(0.95, density / grid * weight):
            onsets.append(beat)
    return onsets or [0.0]


def _chord_at(of_bar: list[Chord], beat: float, beats: int) -> Chord:
    return of_bar[min(len(of_bar) - 1, int(beat / beats * len(of_bar)))]


def _nearest(pitch: int, classes: tuple[int, ...]) -> int:
    """Return the note of some pitch classes that is nearest to a note."""
    return min(range(pitch - 6, pitch + 7), key=lambda note: (note % 12 not in classes, abs(note - pitch)))
