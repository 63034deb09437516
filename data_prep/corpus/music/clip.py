"""Clips of composed music, with their captions: clip `i` of seed `s` is the same in every process.

There is one for each whole number. Captions are true, in many words, from two words to two sentences.
"""

import dataclasses
import functools
import hashlib
import io
import itertools
import random
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import soundfile

from data_prep.corpus.exercises import default_soundfont
from data_prep.corpus.music.instruments import INSTRUMENTS, REGISTERS
from data_prep.corpus.music.mix import mix
from data_prep.corpus.music.piece import LEAD_IN_S, Attributes, Piece, addressed_random, compose_piece
from data_prep.corpus.music.soundfont import SoundFont, render_parts
from data_prep.corpus.music.styles import STYLES
from riffusion_train.runtime.errors import InputError

NO_DRUMS: tuple[str, ...] = ("no drums", "without drums", "drumless", "no percussion")

_TEMPO_WORDS: dict[str, tuple[str, ...]] = {
    "slow": ("slow", "slow tempo", "unhurried", "slow-paced"),
    "medium": ("mid-tempo", "medium tempo", "moderate", "walking-pace"),
    "fast": ("fast", "fast-paced", "up-tempo", "quick"),
}

_SHORT: tuple[str, ...] = ("{style}, {lead}", "{mood} {style}", "{lead} {style}", "{tempo} {style}")
_MEDIUM: tuple[str, ...] = (
    "{tempo} {style}, {lead} {role}, {drums}",
    "{mood} {style} with {register} {lead}, {drums}",
    "{style}, {tempo}, {register} {lead} {role}, {drums}",
    "{tempo} {mood} {style} led by {lead}",
    "{lead} {role} in the {register} register, {tempo} {style}, {drums}",
    "{style} at {bpm} bpm, {drums}, {register} {lead}",
)
_LONG: tuple[str, ...] = (
    "{a_mood} {tempo} {style} piece in {key}, {register} {lead} {role} over {accompaniment}, {drums}, {bpm} bpm",
    "{a_mood} {style} track. {Lead} plays the {register} {role} over {accompaniment}, {tempo}, {drums}.",
    "{Style} in {key} at {bpm} bpm: {lead} {role}, {accompaniment}, {drums}. It feels {mood}.",
    "{Tempo} {style} with {register} {lead} and {accompaniment}. {Drums}, {key}, {bpm} bpm, {mood}.",
)


def prompt_of(piece: Piece) -> str:
    """Return the canonical caption: canonical words for tempo, style, register, lead and drums."""
    attributes = piece.attributes
    drums = NO_DRUMS[0] if attributes.drums == "none" else piece.drum_words[0]
    tempo, register = _TEMPO_WORDS[attributes.tempo][0], REGISTERS[attributes.register][1][0]
    return f"{tempo} {STYLES[attributes.style].words[0]}, {register} {attributes.lead} {attributes.role}, {drums}"


def captions_of(piece: Piece, rng: random.Random) -> list[str]:
    """Return the canonical caption of a piece, a short one, one of a line, and a long one, with random words."""
    return [prompt_of(piece), *(_fill(rng.choice(templates), piece, rng) for templates in (_SHORT, _MEDIUM, _LONG))]


def _fill(template: str, piece: Piece, rng: random.Random) -> str:
    attributes = piece.attributes
    style = STYLES[attributes.style]
    register = rng.choice(REGISTERS[attributes.register][1])
    mode = attributes.mode if rng.random() < 0.5 else attributes.key.rsplit(" ", 1)[1]
    words = {
        "style": rng.choice(style.words),
        "lead": rng.choice(INSTRUMENTS[attributes.lead].words),
        "role": rng.choice({"melody": ("melody", "tune", "theme"), "arpeggio": ("arpeggio", "arpeggios", "broken chords")}
                           [attributes.role]),
        "register": register,
        "drums": rng.choice(NO_DRUMS if attributes.drums == "none" else piece.drum_words),
        "tempo": rng.choice(_TEMPO_WORDS[attributes.tempo]),
        "mood": attributes.mood,
        "key": f"{attributes.key.rsplit(' ', 1)[0]} {mode}",
        "bpm": str(attributes.bpm),
        "accompaniment": _accompaniment(piece, rng),
    }  # fmt: skip
    words["a_mood"] = _article(words["mood"])
    words |= {
        name.capitalize(): words[name][0].upper() + words[name][1:] for name in ("lead", "style", "tempo", "drums")
    }
    text = template.format(**words)
    return (
        text.replace(" over nothing else", " alone")
        .replace(" and nothing else", " alone")
        .replace(", nothing else", ", solo")
    )


def _accompaniment(piece: Piece, rng: random.Random) -> str:
    attributes = piece.attributes
    names = [
        name
        for name in dict.fromkeys((attributes.chords, attributes.bass, attributes.pad))
        if name not in ("none", attributes.lead)
    ]
    if not names:
        return "nothing else"
    words = [rng.choice(INSTRUMENTS[name].words) for name in names]
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"


def _article(word: str) -> str:
    return f"{'An' if word[0] in 'aeiou' else 'A'} {word}"


RATE_HZ = 32000
"""Enough for images up to 16 kHz; a third faster than 44.1 kHz."""
CLIP_S = 5.94
FLUID = Path("/usr/share/sounds/sf2/FluidR3_GM.sf2")
"""Where Debian's package `fluid-soundfont-gm` puts its font (MIT)."""


@dataclasses.dataclass(frozen=True)
class ComposedClip:
    """One clip.

    Attributes:
        wav: Sound, (2, samples), from -1 to 1.
        rate_hz: Sample rate.
        captions: What is true of it, in several wordings; the first is the canonical one.
        attributes: What is true of it, as columns.
    """

    wav: npt.NDArray[np.float32]
    rate_hz: int
    captions: list[str]
    attributes: Attributes


class Composer:
    """Composes and renders clips.

    Args:
        soundfont: A SoundFont 2 file with General MIDI programs.
        seed: Seed of the whole corpus.
        styles: Names of styles; None for all.
        clip_s: Length of a clip.
        rate_hz: Sample rate.

    Raises:
        InputError: If the font cannot be used or a style does not exist.
    """

    def __init__(
        self, soundfont: Path, seed: int = 0, styles: Sequence[str] | None = None, clip_s: float = CLIP_S,
        rate_hz: int = RATE_HZ,
    ) -> None:  # fmt: skip
        self.font = SoundFont(soundfont)
        self.styles = chosen_styles(styles, None)
        self._seed, self._clip_s, self._rate_hz = seed, clip_s, rate_hz

    def compose(self, index: int) -> ComposedClip:
        """Return clip `index`."""
        length_s = LEAD_IN_S + self._clip_s
        piece = compose_piece(self._seed, index, self.styles, length_s)
        tracks = render_parts(self.font, piece.parts, length_s, self._rate_hz)
        sound = STYLES[piece.attributes.style].sound
        mixed = mix(tracks, piece.parts, sound, addressed_random(self._seed, index, "mix"), self._rate_hz)
        wav = mixed[:, mixed.shape[1] - round(self._clip_s * self._rate_hz) :]
        captions = captions_of(piece, addressed_random(self._seed, index, "captions"))
        return ComposedClip(np.ascontiguousarray(wav), self._rate_hz, captions, piece.attributes)

    def describe(self, index: int) -> tuple[list[str], Attributes]:
        """Return captions and attributes of clip `index` without its sound."""
        piece = compose_piece(self._seed, index, self.styles, LEAD_IN_S + self._clip_s)
        return captions_of(piece, addressed_random(self._seed, index, "captions")), piece.attributes

    def clips(self, start: int = 0, step: int = 1) -> Iterator[ComposedClip]:
        """Return clips without end, from `start` on; `step` processes share them without repeating one."""
        return (self.compose(index) for index in itertools.count(start, step))


@dataclasses.dataclass(frozen=True)
class MusicSource:
    """Composed music as a source of a written corpus; see `corpus.Source`."""

    seed: int
    font_path: Path
    styles: tuple[str, ...]
    clip_s: float
    rate_hz: int

    def settings(self) -> dict[str, object]:
        """Return what determines every clip: the arguments, the font with its hash and licence, and the code."""
        data = self.font_path.read_bytes()
        return {
            "kind": "music",
            "seed": self.seed,
            "soundfont": self.font_path.name,
            "soundfont_sha256": hashlib.sha256(data).hexdigest(),
            "soundfont_licence": _composer(self).font.licence,
            "styles": list(self.styles),
            "clip_s": self.clip_s,
            "rate_hz": self.rate_hz,
            "code_sha256": _code_hash(),
        }

    def check(self) -> None:
        """Nothing but the font is needed, and `settings` has opened it."""

    def render(self, clip: int) -> tuple[bytes, list[str]]:
        """Return a clip as a FLAC file, and its captions."""
        composed = _composer(self).compose(clip)
        file = io.BytesIO()
        soundfile.write(file, composed.wav.T, composed.rate_hz, format="FLAC", subtype="PCM_16", compression_level=0.2)
        return file.getvalue(), composed.captions

    def describe(self, clip: int) -> tuple[list[str], dict[str, Any]]:
        """Return the captions of a clip, and its attributes as columns."""
        captions, attributes = _composer(self).describe(clip)
        return captions, dataclasses.asdict(attributes)


def make_source(
    seed: int,
    soundfont: Path | None,
    styles: Sequence[str] | None,
    exclude_styles: Sequence[str],
    clip_s: float | None,
    rate_hz: int | None,
) -> MusicSource:
    """Return the source of a corpus of music; None stands for the defaults.

    Raises:
        InputError: If a style does not exist, a number is out of range, or the font cannot be used.
    """
    clip_s, rate_hz = clip_s or CLIP_S, rate_hz or RATE_HZ
    if not 1 <= clip_s <= 60:
        raise InputError(f"clip_s={clip_s}: 1 to 60")
    if not 8000 <= rate_hz <= 96000:
        raise InputError(f"rate_hz={rate_hz}: 8000 to 96000")
    font_path = soundfont or (FLUID if FLUID.is_file() else default_soundfont())
    source = MusicSource(seed, font_path, chosen_styles(styles, exclude_styles), clip_s, rate_hz)
    _composer(source)
    return source


@functools.lru_cache(maxsize=1)
def _composer(source: MusicSource) -> Composer:
    return Composer(source.font_path, source.seed, source.styles, source.clip_s, source.rate_hz)


def _code_hash() -> str:
    # Any change of tables or code makes another corpus, which must not be mixed with an old one.
    digest = hashlib.sha256()
    for path in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()


def chosen_styles(styles: Sequence[str] | None, excluded: Sequence[str] | None) -> tuple[str, ...]:
    """Return the styles of a corpus in the order of the table.

    Raises:
        InputError: If one does not exist, or none is left.
    """
    for key, names in (("styles", styles or ()), ("exclude_styles", excluded or ())):
        for name in names:
            if name not in STYLES:
                raise InputError(f"{key}={name}: no such style; there are {', '.join(STYLES)}")
    chosen = tuple(name for name in STYLES if (styles is None or name in styles) and name not in (excluded or ()))
    if not chosen:
        raise InputError("styles, exclude_styles: no style is left")
    return chosen
