"""Scales and chords."""

import dataclasses

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
