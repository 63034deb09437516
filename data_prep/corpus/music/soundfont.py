"""Reading a SoundFont 2 file, and playing notes with its samples: one stereo track for each part of a piece.

A font says which samples a note of a program sounds, and with which envelope and filter. The file is mapped into memory, not
read, so that a font of 148 MB costs each process only the samples it plays. The names are those of the SoundFont 2.04
specification, section 8.1.

The inner loop of playing is compiled by numba: at 90 ms to read a font of 148 MB again for each clip and 40 ms for each part,
the MIDI renderer of the exercises is five times too slow for an endless corpus, and returns one mix instead of tracks.
"""

import dataclasses
import mmap
from pathlib import Path
from typing import Any

import numba
import numpy as np
import numpy.typing as npt

from riffusion_train.runtime.errors import InputError

DRUM_BANK = 128
COLUMNS = (
    "start", "end", "loop_start", "loop_end", "is_looped", "rate_hz", "root", "scale_cents", "tune_cents", "gain", "pan",
    "delay_s", "attack_s", "hold_s", "decay_s", "sustain_db", "release_s",
    "cutoff_cents", "resonance_db", "envelope_cents", "envelope_attack_s", "envelope_decay_s", "envelope_sustain",
    "vibrato_cents", "vibrato_delay_s", "vibrato_hz",
)  # fmt: skip
"""What `Preset.zones` says of each zone."""

_RANGES = (43, 44)  # keyRange, velRange
_INSTRUMENT, _SAMPLE = 41, 53
_SAMPLE_ONLY = (0, 1, 2, 3, 4, 12, 45, 46, 47, 50, 54, 57, 58)
"""Generators that a preset may not change (section 8.5)."""
_DEFAULTS = {8: 13500, 21: -12000, 23: -12000, 25: -12000, 26: -12000, 27: -12000, 28: -12000, 30: -12000, 33: -12000,
             34: -12000, 35: -12000, 36: -12000, 38: -12000, 56: 100, 58: -1}  # fmt: skip
_ATTENUATION_SCALE = 0.4
"""Fonts are made for the synthesizers that play them, all of which apply four tenths of the attenuation written."""

_HEADER = np.dtype([("name", "S20"), ("program", "<u2"), ("bank", "<u2"), ("bag", "<u2"), ("rest", "S12")])
_INSTRUMENT_HEADER = np.dtype([("name", "S20"), ("bag", "<u2")])
_BAG = np.dtype([("generator", "<u2"), ("modulator", "<u2")])
_GENERATOR = np.dtype([("kind", "<u2"), ("amount", "<i2")])
_SAMPLE_HEADER = np.dtype(
    [("name", "S20"), ("start", "<u4"), ("end", "<u4"), ("loop_start", "<u4"), ("loop_end", "<u4"), ("rate_hz", "<u4"),
     ("root", "u1"), ("correction", "i1"), ("link", "<u2"), ("kind", "<u2")]
)  # fmt: skip

Generators = dict[int, int]


@dataclasses.dataclass(frozen=True)
class Preset:
    """One program.

    Attributes:
        ranges: Lowest and highest key, lowest and highest velocity of each zone; int (zones, 4).
        zones: What `COLUMNS` names, of each zone; float64 (zones, columns).
    """

    ranges: npt.NDArray[np.int64]
    zones: npt.NDArray[np.float64]

    def sounding(self, key: int, velocity: int) -> npt.NDArray[np.float64]:
        """Return the zones that a note sounds, (zones, columns); without any, the one whose keys are nearest."""
        low, high, soft, loud = self.ranges.T
        inside = (low <= key) & (key <= high) & (soft <= velocity) & (velocity <= loud)
        if not inside.any():
            distance = np.maximum(low - key, 0) + np.maximum(key - high, 0)
            inside = (distance == distance.min()) & (soft <= velocity) & (velocity <= loud)
        return self.zones[inside]


class SoundFont:
    """The programs and samples of a SoundFont file.

    Args:
        path: A SoundFont 2 file with General MIDI programs.

    Attributes:
        samples: All samples of the font, int16 (samples,).
        licence: What the font says of its own licence; empty where it says nothing.

    Raises:
        InputError: If the file cannot be read or is not a SoundFont 2.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            with path.open("rb") as file:
                data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except (OSError, ValueError) as error:
            raise InputError(f"soundfont={path}: {getattr(error, 'strerror', None) or 'empty file'}") from None
        if data[:4] != b"RIFF" or data[8:12] != b"sfbk":
            raise InputError(f"soundfont={path}: not a SoundFont; give an .sf2 file")
        try:
            self._read(_chunks(data))
        except (KeyError, ValueError):
            raise InputError(f"soundfont={path}: damaged or incomplete; give a whole General MIDI .sf2") from None
        self._presets: dict[tuple[int, int], Preset] = {}

    def _read(self, chunks: dict[str, memoryview]) -> None:
        if int.from_bytes(chunks["ifil"][:2], "little") >= 3:
            raise InputError(f"soundfont={self._path}: an SF3 (compressed samples) cannot be played; give an .sf2 file")
        self.samples = np.frombuffer(chunks["smpl"], "<i2")
        self.licence = "; ".join(
            bytes(chunks[name]).split(b"\0")[0].decode("latin-1") for name in ("ICOP", "ICMT") if name in chunks
        )
        self._headers = np.frombuffer(chunks["phdr"], _HEADER)
        self._instruments = np.frombuffer(chunks["inst"], _INSTRUMENT_HEADER)
        self._sample_headers = np.frombuffer(chunks["shdr"], _SAMPLE_HEADER)
        self._bags = {
            name: (
                np.frombuffer(chunks[f"{name}bag"], _BAG)["generator"],
                np.frombuffer(chunks[f"{name}gen"], _GENERATOR),
            )
            for name in ("p", "i")
        }

    def preset(self, bank: int, program: int) -> Preset:
        """Return a program; of a bank without it, that of bank 0, and of the drum bank the standard kit.

        Raises:
            InputError: If the font has neither.
        """
        if (bank, program) not in self._presets:
            self._presets[bank, program] = self._load(bank, program)
        return self._presets[bank, program]

    def _load(self, bank: int, program: int) -> Preset:
        spare = (DRUM_BANK, 0) if bank == DRUM_BANK else (0, program)
        for wanted_bank, wanted_program in ((bank, program), spare):
            found = np.flatnonzero(
                (self._headers["bank"][:-1] == wanted_bank) & (self._headers["program"][:-1] == wanted_program)
            )
            if len(found):
                break
        else:
            raise InputError(
                f"soundfont={self._path}: has no program {program} in bank {bank}; give a General MIDI .sf2"
            )
        ranges, zones = [], []
        header = int(found[0])
        for outer in self._zones(
            "p", int(self._headers["bag"][header]), int(self._headers["bag"][header + 1]), _INSTRUMENT
        ):
            instrument = outer[_INSTRUMENT]
            first, last = (int(self._instruments["bag"][instrument + step]) for step in (0, 1))
            for inner in self._zones("i", first, last, _SAMPLE):
                spans = [_intersection(outer.get(kind), inner.get(kind)) for kind in _RANGES]
                if all(low <= high for low, high in spans):
                    ranges.append((*spans[0], *spans[1]))
                    zones.append(self._row(inner, outer))
        return Preset(np.asarray(ranges, np.int64), np.asarray(zones, np.float64))

    def _zones(self, level: str, first: int, last: int, target: int) -> list[Generators]:
        """Return the generators of each zone that plays something, with those of the global zone filled in."""
        starts, generators = self._bags[level]
        common: Generators = {}
        zones = []
        for bag in range(first, last):
            part = generators[int(starts[bag]) : int(starts[bag + 1])]
            own = {int(kind): int(amount) for kind, amount in zip(part["kind"], part["amount"], strict=True)}
            if target in own:
                zones.append({**common, **own})
            elif bag == first:
                common = own
        return zones

    def _row(self, inner: Generators, outer: Generators) -> list[float]:
        """Return one zone as the numbers that `COLUMNS` names."""
        sample = self._sample_headers[inner[_SAMPLE]]

        def amount(kind: int) -> int:
            own = inner.get(kind, _DEFAULTS.get(kind, 0))
            return own if kind in _SAMPLE_ONLY else own + outer.get(kind, 0)

        def seconds(kind: int) -> float:
            cents = amount(kind)
            return 0.0 if cents <= -12000 else float(2 ** (cents / 1200))

        def place(name: str, fine: int, coarse: int) -> float:
            # Interpolation reads one sample before and two after; a font that points elsewhere must not crash.
            return float(min(max(1, int(sample[name]) + amount(fine) + 32768 * amount(coarse)), len(self.samples) - 3))

        root = amount(58)
        return [
            place("start", 0, 4), place("end", 1, 12), place("loop_start", 2, 45), place("loop_end", 3, 50),
            float(amount(54) & 1),
            float(sample["rate_hz"]),
            float(root if 0 <= root <= 127 else sample["root"]),
            float(amount(56)),
            100 * amount(51) + amount(52) + float(sample["correction"]),
            10 ** (-max(0, amount(48)) * _ATTENUATION_SCALE / 200),
            min(1.0, max(-1.0, amount(17) / 500)),
            seconds(33), seconds(34), seconds(35), seconds(36), min(100.0, max(0, amount(37)) / 10), seconds(38),
            float(amount(8)), max(0, amount(9)) / 10, float(amount(11)), seconds(26), seconds(28),
            1 - min(1000, max(0, amount(29))) / 1000,
            float(amount(6)), seconds(23), 8.176 * 2 ** (amount(24) / 1200),
        ]  # fmt: skip


def _chunks(data: mmap.mmap) -> dict[str, memoryview]:
    """Return the content of every chunk of the file by its name; those of the three lists are in one table."""
    view = memoryview(data)
    found = {}
    position = 12
    while position + 8 <= len(view):
        name = bytes(view[position : position + 4]).decode("latin-1")
        size = int.from_bytes(view[position + 4 : position + 8], "little")
        if name == "LIST":
            position += 12
            continue
        found[name] = view[position + 8 : position + 8 + size]
        position += 8 + size + size % 2
    return found


def _intersection(one: int | None, other: int | None) -> tuple[int, int]:
    spans = [(amount & 0xFF, amount >> 8 & 0xFF) for amount in (one, other) if amount is not None]
    return max([0, *(low for low, _ in spans)]), min([127, *(high for _, high in spans)])


_BLOCK = 32
"""Samples for which envelope, filter and pitch are computed at once; levels are interpolated in between."""
_SILENT = 1e-3
"""Level at which a released note ends."""
_EXTRA = ("begin_s", "hold_s_of_note", "step", "left", "right", "part")
_COLUMN = {name: index for index, name in enumerate(COLUMNS)}
_WIDTH = len(COLUMNS) + len(_EXTRA)
_OPEN_HAT, _HATS = 46, (42, 44, 46)
_DRUM_TAIL_S = 1.5


@dataclasses.dataclass(frozen=True)
class Note:
    """One note: onset and length in seconds from the start of the sound, MIDI note number, velocity (1-127)."""

    start_s: float
    duration_s: float
    pitch: int
    velocity: int


@dataclasses.dataclass
class Part:
    """What one instrument plays, and how it stands in the mix.

    Attributes:
        role: "drums", "bass", "chords", "pad" or "lead".
        bank: Bank of the SoundFont; 128 for drums.
        program: General MIDI program, counted from 0.
        notes: In order of their onsets.
        gain_db: Loudness relative to the other parts.
        pan: -1 (left) to 1 (right).
        width: How much of the stereo picture of the samples is kept, 0 to 1; at 0 one channel of stereo samples plays.
        reverb: Share sent to the reverberation.
        drive: Saturation, 0 for none; from 0.8 on through a loudspeaker cabinet.
        cutoff_cents: Upper bound of the low pass filter, in the cents of the SoundFont standard.
        softness_cents: How much the filter falls from the loudest to the softest note.
        detune_cents: Deviation from the pitch.
        vibrato_cents: Vibrato of long notes; 0 leaves that of the font.
        attack_s: The least time in which notes swell.
    """

    role: str
    bank: int
    program: int
    notes: list[Note]
    gain_db: float = 0.0
    pan: float = 0.0
    width: float = 0.0
    reverb: float = 0.15
    drive: float = 0.0
    cutoff_cents: float = 13500.0
    softness_cents: float = 1200.0
    detune_cents: float = 0.0
    vibrato_cents: float = 0.0
    attack_s: float = 0.0


def render_parts(font: SoundFont, parts: list[Part], length_s: float, rate_hz: int) -> npt.NDArray[np.float32]:
    """Play parts; returns one stereo track for each, (parts, 2, samples), not normalised."""
    tracks = np.zeros((len(parts), 2, round(length_s * rate_hz)), np.float32)
    rows = [_voices(font, part, index, rate_hz) for index, part in enumerate(parts)]
    voices = np.concatenate([part for part in rows if len(part)] or [np.zeros((0, _WIDTH))])
    _play(font.samples, voices, tracks, float(rate_hz))
    return tracks


def _voices(font: SoundFont, part: Part, index: int, rate_hz: int) -> npt.NDArray[np.float64]:
    """Return what each sounding zone of each note plays, (voices, columns)."""
    preset = font.preset(part.bank, part.program)
    rows = []
    is_drum = part.bank == DRUM_BANK
    hats = sorted(note.start_s for note in part.notes if note.pitch in _HATS) if is_drum else []
    for note in part.notes:
        zones = preset.sounding(note.pitch, note.velocity)
        if part.width == 0:
            zones = _one_side(zones)
        duration_s = note.duration_s
        if is_drum:
            duration_s = _DRUM_TAIL_S
            if note.pitch == _OPEN_HAT:  # the two cymbals of the hi-hat close
                duration_s = next((hat - note.start_s for hat in hats if hat > note.start_s + 0.01), duration_s)
        row = np.empty((len(zones), _WIDTH))
        row[:, : len(COLUMNS)] = zones
        cents = (note.pitch - zones[:, _COLUMN["root"]]) * zones[:, _COLUMN["scale_cents"]] + zones[
            :, _COLUMN["tune_cents"]
        ]
        level = (note.velocity / 127) ** 2 * zones[:, _COLUMN["gain"]] / 32768
        angle = (np.clip(part.pan + part.width * zones[:, _COLUMN["pan"]], -1, 1) + 1) * np.pi / 4
        begin = len(COLUMNS)
        row[:, begin] = note.start_s
        row[:, begin + 1] = duration_s
        row[:, begin + 2] = 2 ** ((cents + part.detune_cents) / 1200) * zones[:, _COLUMN["rate_hz"]] / rate_hz
        row[:, begin + 3] = level * np.cos(angle)
        row[:, begin + 4] = level * np.sin(angle)
        row[:, begin + 5] = index
        rows.append(row)
        # Softer notes are duller, and a part may be duller or brighter than the font has it.
        softness = (1 - note.velocity / 127) * part.softness_cents
        cutoff = row[:, _COLUMN["cutoff_cents"]]
        row[:, _COLUMN["cutoff_cents"]] = np.minimum(np.minimum(cutoff, part.cutoff_cents) - softness, 13500)
        if part.vibrato_cents:
            row[:, _COLUMN["vibrato_cents"]] = part.vibrato_cents
            row[:, _COLUMN["vibrato_delay_s"]] = 0.25
            row[:, _COLUMN["vibrato_hz"]] = 5.4
        if part.attack_s:
            row[:, _COLUMN["attack_s"]] = np.maximum(row[:, _COLUMN["attack_s"]], part.attack_s)
    return np.concatenate(rows) if rows else np.zeros((0, _WIDTH))


def _one_side(zones: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return the zones without the right channels of stereo samples, which cost as much as the left ones."""
    pan = zones[:, _COLUMN["pan"]]
    return zones[pan < 0.9] if (pan < -0.9).any() else zones


@numba.njit(cache=True)  # type: ignore[untyped-decorator]
def _envelope(time_s: float, off_s: float, voice: Any) -> float:
    """Return the level of the volume envelope: delay, linear attack, hold, then decibels that fall evenly."""
    delay, attack, hold, decay, sustain, release = voice[11], voice[12], voice[13], voice[14], voice[15], voice[16]
    held_s = min(time_s, off_s) - delay
    if held_s < 0:
        return 0.0
    if held_s < attack:
        level = held_s / attack
    elif held_s < attack + hold:
        level = 1.0
    else:
        fallen = sustain
        if decay > 0:
            fallen = min(sustain, 100 * (held_s - attack - hold) / decay)
        level = 10 ** (-fallen / 20)
    if time_s > off_s:
        level *= 10 ** (-5 * (time_s - off_s) / max(release, 0.02))
    return level


@numba.njit(cache=True)  # type: ignore[untyped-decorator]
def _low_pass(time_s: float, voice: Any, rate_hz: float) -> Any:
    """Return the coefficients b0 = b2, b1, a1, a2 of a low pass of second order whose cutoff follows the modulation envelope.

    R. Bristow-Johnson, "Cookbook formulae for audio EQ biquad filter coefficients".
    """
    cutoff_cents, resonance_db, envelope_cents, attack, decay, sustain = voice[17:23]
    if envelope_cents != 0:
        reached = sustain
        if time_s < attack:
            reached = time_s / attack
        elif decay > 0:
            reached = max(sustain, 1 - (time_s - attack) / decay)
        cutoff_cents += envelope_cents * reached
    omega = 2 * np.pi * min(440 * 2 ** ((cutoff_cents - 6900) / 1200), 0.45 * rate_hz) / rate_hz
    alpha = np.sin(omega) / (2 * 0.7071 * 10 ** (resonance_db / 20))
    scale = 1 / (1 + alpha)
    b1 = (1 - np.cos(omega)) * scale
    return np.float32(b1 / 2), np.float32(b1), np.float32(-2 * np.cos(omega) * scale), np.float32((1 - alpha) * scale)


@numba.njit(cache=True, fastmath=True, error_model="numpy")  # type: ignore[untyped-decorator]
def _play(samples: Any, voices: Any, tracks: Any, rate_hz: float) -> None:
    """Add every voice to the track of its part."""
    total = tracks.shape[2]
    first_extra = 26
    piece = np.empty(_BLOCK, np.float32)
    half, two, three_halves, five_halves = np.float32(0.5), np.float32(2), np.float32(1.5), np.float32(2.5)
    one, zero = np.float32(1), np.float32(0)
    for index in range(voices.shape[0]):
        voice = voices[index]
        begin_s, off_s, step = voice[first_extra], voice[first_extra + 1], voice[first_extra + 2]
        left, right = np.float32(voice[first_extra + 3]), np.float32(voice[first_extra + 4])
        track = tracks[int(voice[first_extra + 5])]
        left_track, right_track = track[0], track[1]
        loop_end, loop_length = voice[3], voice[3] - voice[2]
        is_looped = voice[4] > 0 and loop_length > 1
        last = voice[1] - 3
        position = voice[0]
        # A filter above what can be heard is left out.
        highest = 6900 + 1200 * np.log2(0.42 * rate_hz / 440)
        is_filtered = voice[17] < highest or voice[19] < 0
        b0, b1, a1, a2, s1, s2 = one, zero, zero, zero, zero, zero
        at = round(begin_s * rate_hz)
        level = 0.0
        elapsed = 0
        while at < total:
            time_s = (elapsed + _BLOCK) / rate_hz
            target = _envelope(time_s, off_s, voice)
            if time_s > off_s and target < _SILENT:
                target = 0.0
            speed = step
            if voice[23] != 0 and time_s > voice[24]:
                speed *= 2 ** (voice[23] * np.sin(2 * np.pi * voice[25] * (time_s - voice[24])) / 1200)
            if is_filtered and (elapsed == 0 or voice[19] != 0):
                b0, b1, a1, a2 = _low_pass(time_s, voice, rate_hz)
            slope = (target - level) / _BLOCK
            done = 0
            while done < _BLOCK:
                if is_looped and position >= loop_end:
                    position -= loop_length
                # As many samples at once as neither loop nor end nor the end of the track interrupts.
                stop = loop_end if is_looped else last
                count = min(_BLOCK - done, int(np.ceil((stop - position) / speed)), total - at)
                if count <= 0:
                    break
                for ahead in range(count):
                    place = position + ahead * speed
                    whole = np.int64(place)
                    share = np.float32(place - whole)
                    # Interpolation by Hermite's cubic through four samples.
                    before, here = np.float32(samples[whole - 1]), np.float32(samples[whole])
                    after, later = np.float32(samples[whole + 1]), np.float32(samples[whole + 2])
                    c1 = half * (after - before)
                    c2 = before - five_halves * here + two * after - half * later
                    c3 = half * (later - before) + three_halves * (here - after)
                    piece[ahead] = ((c3 * share + c2) * share + c1) * share + here
                if is_filtered:
                    for ahead in range(count):
                        value = piece[ahead]
                        out = b0 * value + s1
                        s1 = b1 * value - a1 * out + s2
                        s2 = b0 * value - a2 * out
                        piece[ahead] = out
                for ahead in range(count):
                    value = piece[ahead] * np.float32(level + slope * (ahead + 1))
                    left_track[at + ahead] += value * left
                    right_track[at + ahead] += value * right
                level += slope * count
                at += count
                done += count
                position += count * speed
            elapsed += _BLOCK
            if done < _BLOCK or (time_s > off_s and target == 0.0):
                break
