"""A piece of music: its attributes, drawn from a style, and the parts that its instruments play."""

import dataclasses
import random
from collections.abc import Sequence

from data_prep.corpus.music.instruments import (
    DRUM_FILLS,
    DRUM_KITS,
    DRUM_NOTES,
    DRUM_PATTERNS,
    DRUM_VELOCITIES,
    INSTRUMENTS,
    REGISTERS,
    Drums,
    registers_of,
)
from data_prep.corpus.music.melody import TONICS, Chord, melody_classes, progression_of, quality_of, riff, sing, voicing
from data_prep.corpus.music.soundfont import DRUM_BANK, Note, Part
from data_prep.corpus.music.styles import STYLES, Style

LEAD_IN_S = 0.7
"""Music before the clip, so that tails sound into it; it is cut off."""
_PHRASE_BARS = 8
_NO_DRUMS_SHARE = 0.3
_ALIGNED_SHARE = 0.6
_SOLO_SHARE = 0.06


@dataclasses.dataclass(frozen=True)
class Attributes:
    """What is true of a clip; texts are names in the tables.

    Attributes:
        style: Of `styles.STYLES`.
        lead: The instrument of the melody, of `instruments.LEADS`.
        role: What it plays: "melody" or "arpeggio".
        register: Of `instruments.REGISTERS`.
        drums: Kind of the drums; "none" without.
        tempo: "slow", "medium" or "fast".
        bpm: Beats a minute.
        key: Tonic and "major" or "minor", such as "E flat minor".
        mode: The scale.
        meter: "4/4" or "3/4".
        section: "full", "no drums", "sparse" (lead and one accompaniment) or "solo" (the lead alone).
        bass: Its instrument; "none" without.
        chords: The instrument of the chords; "none" without.
        pad: The instrument of held chords; "none" without.
        mood: One word for its character.
        is_aligned: Whether the clip starts with a bar.
    """

    style: str
    lead: str
    role: str
    register: str
    drums: str
    tempo: str
    bpm: int
    key: str
    mode: str
    meter: str
    section: str
    bass: str
    chords: str
    pad: str
    mood: str
    is_aligned: bool


@dataclasses.dataclass(frozen=True)
class Piece:
    """The attributes of a clip, its parts with their notes, and the words for its drums."""

    attributes: Attributes
    parts: list[Part]
    drum_words: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class _Frame:
    """What all parts of a piece share: chords of each bar, and where bars lie in the sound."""

    style: Style
    chords: list[list[Chord]]
    beat_s: float
    first_bar_s: float

    def time_s(self, beat: float, steps_per_beat: float = 4) -> float:
        """Return when a beat is, from the start of the sound; every second step of its grid swings."""
        step = beat * steps_per_beat
        late = self.style.swing / steps_per_beat if round(step) % 2 == 1 and abs(step - round(step)) < 0.05 else 0.0
        return self.first_bar_s + (beat + late) * self.beat_s


def addressed_random(seed: int, index: int, purpose: str) -> random.Random:
    """Return a random generator that depends on its arguments alone, in every process."""
    return random.Random(f"music/{seed}/{index}/{purpose}")


def compose_piece(seed: int, index: int, styles: Sequence[str], length_s: float) -> Piece:
    """Return one piece.

    Args:
        seed: Seed of the corpus.
        index: Number of the clip.
        styles: The styles to choose from; each is as frequent as the others.
        length_s: Length of the sound, `LEAD_IN_S` included.
    """
    rng = addressed_random(seed, index, "attributes")
    style_name = styles[rng.randrange(len(styles))]
    style = STYLES[style_name]
    drums = rng.choice(DRUM_PATTERNS[rng.choice(style.drums)])
    section = "solo" if rng.random() < _SOLO_SHARE else "no drums" if rng.random() < _NO_DRUMS_SHARE else "full"
    if section == "no drums" and rng.random() < 0.3:
        section = "sparse"
    lead = rng.choice(sorted(set(style.leads)))
    tempo = rng.choice(list(style.tempi))
    tonic = rng.randrange(12)
    mode = rng.choice(style.modes)
    bass, chords, pad = rng.choice(style.basses), rng.choice(style.comps), rng.choice(style.pads or ("none",))
    has_bass = (section == "full" and rng.random() < 0.95) or (section == "no drums" and rng.random() < 0.8)
    has_pad = section in ("full", "no drums") and rng.random() < 0.55
    attributes = Attributes(
        style=style_name,
        lead=lead,
        role="arpeggio" if rng.random() < 0.2 else "melody",
        register=rng.choice(registers_of(lead)),
        drums=drums.kind if section == "full" else "none",
        tempo=tempo,
        bpm=rng.randint(*style.tempi[tempo]),
        key=f"{TONICS[tonic]} {quality_of(mode)}",
        mode=mode,
        meter=f"{style.beats}/4",
        section=section,
        bass=bass if has_bass else "none",
        chords=chords if section != "solo" and (rng.random() < 0.9 or not has_pad) else "none",
        pad=pad if has_pad else "none",
        mood=rng.choice(style.moods),
        is_aligned=rng.random() < _ALIGNED_SHARE,
    )
    progression = progression_of(rng.choice(style.progressions), tonic, mode, style.chord_size)
    return Piece(attributes, _parts(attributes, style, drums, tonic, progression, seed, index, length_s), drums.words)


def _parts(
    attributes: Attributes, style: Style, drums: Drums, tonic: int, progression: list[list[Chord]],
    seed: int, index: int, length_s: float,
) -> list[Part]:  # fmt: skip
    rng = addressed_random(seed, index, "place")
    beat_s = 60 / attributes.bpm
    bar_s = style.beats * beat_s
    start_bar = rng.randrange(1, _PHRASE_BARS + 1)
    into_bar_s = 0.0 if attributes.is_aligned else rng.uniform(0.05, 0.95) * bar_s
    bars = start_bar + int((length_s + into_bar_s) / bar_s) + 2
    chords = [progression[bar % len(progression)] for bar in range(bars)]
    frame = _Frame(style, chords, beat_s, LEAD_IN_S - into_bar_s - start_bar * bar_s)
    parts = [_lead(attributes, frame, tonic, addressed_random(seed, index, "lead"))]
    if attributes.drums != "none":
        parts.append(_drums(drums, frame, addressed_random(seed, index, "drums")))
    if attributes.bass != "none":
        parts.append(_bass(attributes.bass, frame, addressed_random(seed, index, "bass")))
    if attributes.chords != "none":
        parts.extend(_chords(attributes.chords, frame, addressed_random(seed, index, "chords")))
    if attributes.pad != "none":
        parts.append(_pad(attributes.pad, frame, addressed_random(seed, index, "pad")))
    for part in parts:
        part.notes = _within(part, length_s)
    return parts


def _within(part: Part, length_s: float) -> list[Note]:
    """Return the notes of a part that sound; those which began before begin at once, but no drum does."""
    notes = []
    for note in part.notes:
        late_s = -note.start_s
        if late_s > 0:
            if part.bank == DRUM_BANK or note.duration_s - late_s < 0.15:
                continue
            note = Note(0.0, note.duration_s - late_s, note.pitch, note.velocity)
        if note.start_s < length_s - 0.02:
            notes.append(note)
    return sorted(notes, key=lambda note: (note.start_s, note.pitch))


def _part(role: str, name: str, pan: float, reverb: float) -> Part:
    instrument = INSTRUMENTS[name]
    return Part(
        role, instrument.bank, instrument.program, [], pan=pan, reverb=reverb, drive=instrument.drive,
        vibrato_cents=instrument.vibrato_cents if role == "lead" else 0.0,
    )  # fmt: skip


def _note(
    rng: random.Random, frame: _Frame, beat: float, beats: float, pitch: int, velocity: float, grid: float = 4
) -> Note:
    start_s = frame.time_s(beat, grid) + rng.gauss(0, frame.style.looseness_ms / 1000)
    return Note(start_s, beats * frame.beat_s, pitch, max(20, min(127, round(velocity + rng.gauss(0, 5)))))


def _lead(attributes: Attributes, frame: _Frame, tonic: int, rng: random.Random) -> Part:
    style = frame.style
    part = _part("lead", attributes.lead, rng.uniform(-0.25, 0.25), rng.uniform(0.15, 0.35))
    centre = REGISTERS[attributes.register][0] + rng.randint(-2, 2)
    # Fast music is not sung faster: as many notes a second, within bounds, as at a medium tempo.
    density = max(0.4, min(2.6, style.melody_density * min(1.5, 115 / attributes.bpm) * rng.uniform(0.8, 1.25)))
    if attributes.role == "arpeggio":
        per_beat = 4 if attributes.bpm < 118 else 2
        sung = riff(rng, frame.chords, centre, style.beats, per_beat)
    else:
        classes = melody_classes(tonic, attributes.mode, style.scale)
        sung = sing(rng, frame.chords, classes, centre, style.beats, density)
    instrument = INSTRUMENTS[attributes.lead]
    overlap = 1.0 if instrument.is_plucked else rng.choice((0.85, 0.95, 1.02))
    for note in sung:
        pitch = note.pitch
        while pitch < instrument.lowest:
            pitch += 12
        while pitch > instrument.highest:
            pitch -= 12
        part.notes.append(_note(rng, frame, note.beat, note.beats * overlap, pitch, 80 + 25 * note.accent))
    return part


def _drums(pattern: Drums, frame: _Frame, rng: random.Random) -> Part:
    style = frame.style
    part = Part("drums", DRUM_BANK, DRUM_KITS[rng.choice(style.kits)], [], reverb=rng.uniform(0.03, 0.15), width=0.8)
    swap = {"hat": rng.choice(("hat", "hat", "ride", "shaker"))} if rng.random() < 0.3 else {}
    for bar in range(len(frame.chords)):
        is_fill = bar % 4 == 3 and rng.random() < 0.6
        if bar % 8 == 0 and rng.random() < 0.5 and pattern.kind not in ("bossa", "soft beat", "swing"):
            _stroke(part, rng, frame, bar * style.beats, "crash", 100, 16)
        for name, row in pattern.rows.items():
            steps_per_beat = len(row) / style.beats
            for step, mark in enumerate(row):
                beat = bar * style.beats + step / steps_per_beat
                in_fill = is_fill and step >= len(row) / 2 and name not in ("kick", "shaker")
                if in_fill or mark == ".":
                    if mark == "." and not in_fill and name in ("hat", "snare", "kick") and rng.random() < 0.012:
                        _stroke(part, rng, frame, beat, swap.get(name, name), 50, len(row))
                    continue
                if mark == "o" and rng.random() < 0.15:
                    continue
                _stroke(part, rng, frame, beat, swap.get(name, name), DRUM_VELOCITIES[mark], len(row))
        if is_fill:
            for name, row in rng.choice(DRUM_FILLS).items():
                for step, mark in enumerate(row):
                    if mark != ".":
                        beat = (bar + 0.5 + step / len(row) / 2) * style.beats
                        _stroke(part, rng, frame, beat, name, DRUM_VELOCITIES[mark] - 6, 16)
    return part


def _stroke(part: Part, rng: random.Random, frame: _Frame, beat: float, name: str, velocity: int, steps: int) -> None:
    # The kick keeps time; the others are as loose as the style.
    looseness_s = frame.style.looseness_ms / 1000 * (0.3 if name == "kick" else 0.6)
    grid = steps / frame.style.beats
    start_s = frame.time_s(beat, grid if grid != 3 else 0.01) + rng.gauss(0, looseness_s)
    part.notes.append(Note(start_s, 0.1, DRUM_NOTES[name], max(20, min(127, round(velocity + rng.gauss(0, 6))))))


def _grid_notes(grid: str) -> list[tuple[int, int, str]]:
    """Return (step, length in steps, mark) of each note of a grid."""
    notes = []
    for step, mark in enumerate(grid):
        if mark not in ".-":
            rest = grid[step + 1 :]
            notes.append((step, 1 + len(rest) - len(rest.lstrip("-")), mark))
    return notes


def _bass(name: str, frame: _Frame, rng: random.Random) -> Part:
    style = frame.style
    part = _part("bass", name, 0.0, 0.02)
    grid = rng.choice(style.bass)
    lowest = INSTRUMENTS[name].lowest
    per_beat = len(grid) / style.beats
    for bar, of_bar in enumerate(frame.chords):
        following = frame.chords[(bar + 1) % len(frame.chords)][0]
        for step, length, mark in _grid_notes(grid):
            chord = of_bar[min(len(of_bar) - 1, step * len(of_bar) // len(grid))]
            root = lowest + (chord.root - lowest) % 12
            third, fifth = chord.intervals[1] % 12, chord.intervals[min(2, len(chord.intervals) - 1)] % 12
            seventh = chord.intervals[3] % 12 if len(chord.intervals) > 3 else 10
            approach = lowest + (following.root - lowest) % 12 + rng.choice((-1, 1, -2)) - root
            pitch = root + {"R": 0, "5": fifth, "3": third, "7": seventh, "8": 12, "a": approach}[mark]
            if rng.random() < 0.03:
                continue
            beat = bar * style.beats + step / per_beat
            part.notes.append(
                _note(rng, frame, beat, 0.92 * length / per_beat, pitch, 98 if step == 0 else 88, per_beat)
            )
    return part


def _chords(name: str, frame: _Frame, rng: random.Random) -> list[Part]:
    """Return the chords; guitars with distortion play twice, left and right."""
    style = frame.style
    instrument = INSTRUMENTS[name]
    is_power = style.chord_size == 2 or instrument.drive >= 0.8
    grid = rng.choice(style.comping)
    per_beat = len(grid) / style.beats
    low = max(instrument.lowest, 40 if is_power else rng.choice((50, 52, 55, 57)))
    strum_s = 0.012 if "guitar" in name or name in ("banjo", "harp", "dulcimer") else 0.0
    takes = (-0.8, 0.8) if is_power else (rng.uniform(-0.5, 0.5),)
    parts = []
    for pan in takes:
        part = _part("chords", name, pan, rng.uniform(0.08, 0.2))
        for bar, of_bar in enumerate(frame.chords):
            for step, length, mark in _grid_notes(grid):
                chord = of_bar[min(len(of_bar) - 1, step * len(of_bar) // len(grid))]
                root = low + (chord.root - low) % 12
                pitches = [root, root + 7, root + 12] if is_power else voicing(chord, low)
                pitches = [pitch if pitch <= instrument.highest else pitch - 12 for pitch in pitches]
                beat = bar * style.beats + step / per_beat
                beats = length / per_beat * (0.9 if length > 1 else 0.75)
                upward = step % 2 == 1
                for order, pitch in enumerate(reversed(pitches) if upward else pitches):
                    note = _note(rng, frame, beat, beats, pitch, 84 if mark == "x" else 58, per_beat)
                    part.notes.append(dataclasses.replace(note, start_s=note.start_s + order * strum_s))
        parts.append(part)
    return parts


def _pad(name: str, frame: _Frame, rng: random.Random) -> Part:
    style = frame.style
    part = _part("pad", name, rng.uniform(-0.2, 0.2), rng.uniform(0.25, 0.5))
    part.width, part.attack_s = 1.0, 0.08
    low = max(INSTRUMENTS[name].lowest, rng.choice((50, 55, 60)))
    for bar, of_bar in enumerate(frame.chords):
        for half, chord in enumerate(of_bar):
            share = style.beats / len(of_bar)
            for pitch in voicing(chord, low)[:4]:
                part.notes.append(_note(rng, frame, bar * style.beats + half * share, share * 1.02, pitch, 70))
    return part
