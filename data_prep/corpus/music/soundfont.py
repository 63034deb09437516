"""Reading a SoundFont 2 file for playing: which samples a note of a program sounds, and with which envelope and filter.

The file is mapped into memory, not read, so that a font of 148 MB costs each process only the samples it plays. The names are
those of the SoundFont 2.04 specification, section 8.1.
"""

import dataclasses
import mmap
from pathlib import Path

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
