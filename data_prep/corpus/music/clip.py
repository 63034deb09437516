"""Clips of composed music: clip `i` of seed `s` is the same in every process, and there is one for each whole number."""

import dataclasses
import functools
import hashlib
import io
import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import soundfile

from data_prep.corpus.music.captions import captions_of
from data_prep.corpus.music.mix import mix
from data_prep.corpus.music.piece import LEAD_IN_S, Attributes, addressed_random, compose_piece
from data_prep.corpus.music.soundfont import SoundFont
from data_prep.corpus.music.styles import STYLES
from data_prep.corpus.music.voices import render_parts
from data_prep.corpus.render import default_soundfont
from riffusion_train.runtime.errors import InputError

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
