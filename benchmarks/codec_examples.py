"""`python -m benchmarks.codec_examples out=DIR [pictures=DIR] [as_shipped=false]`: write clips of each codec to listen to.

For each of a few clips, as WAV files of equal loudness with their spectrograms: the original sound, the image of the original
Riffusion decoded by its own recipe, the same image decoded here, `hifi`, and `hifi_stereo`. The recipe as shipped takes half a
minute per clip; as_shipped=false uses today's torchaudio instead. `pictures=` also writes the figures of docs/codec.md.
"""

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch

from benchmarks.clips import RATE_HZ, Clip, make_clips
from benchmarks.command import arguments_of, exit_code, parse_arguments
from benchmarks.original import OriginalCodec
from riffusion_train.audio.codec import make_codec
from riffusion_train.audio.compare import compare_sounds
from riffusion_train.audio.plots import draw_spectrogram, stack, write_image
from riffusion_train.audio.write import write_audio
from riffusion_train.config.spectrogram import load_preset
from riffusion_train.runtime.errors import InputError

NAMES = ("energetic_electronic_2", "calm_acoustic_1", "rendered piano", "vowels", "noise bursts")
FIGURE_NAMES = ("rendered piano", "noise bursts")
_PEAK = 0.9
_FIGURE_S = 2.5
_FIGURE_COLOURS = 48


def main(argv: Sequence[str] | None = None) -> int:
    """Write the examples. Returns the exit code: 0 done, 2 invalid input."""

    def work() -> None:
        usage = "out=DIR, pictures=DIR or as_shipped=false"
        values = parse_arguments(arguments_of(argv), usage, keys=("out", "pictures", "as_shipped")).values
        if "out" not in values:
            raise InputError("the output folder is missing; give out=DIR")
        write_examples(Path(values["out"]), as_shipped=values.get("as_shipped", "true") == "true")
        if "pictures" in values:
            write_figures(Path(values["pictures"]))

    return exit_code("codec_examples", work)


def write_examples(out: Path, *, as_shipped: bool = True, names: Sequence[str] = NAMES) -> None:
    """Write the sounds and a spectrogram of each into a folder, and print the name of each file.

    Args:
        out: The folder.
        as_shipped: Use the original's own mel inversion, which takes half a minute per clip.
        names: Which clips of the set.
    """
    torch.manual_seed(0)
    out.mkdir(parents=True, exist_ok=True)
    for clip in make_clips(names=names):
        stem = clip.name.replace(" ", "_")
        versions = list(_versions(clip, as_shipped))
        # One gain for all versions of a clip, whose levels match already: louder always sounds better.
        gain = _PEAK / max(float(np.abs(wav).max()) for _, wav in versions)
        for position, (name, wav) in enumerate(versions):
            path = out / f"{stem}-{position}-{name}.wav"
            write_audio(path, wav * gain, RATE_HZ)
            write_image(path.with_suffix(".png"), draw_spectrogram(wav, RATE_HZ, f"{clip.name}: {name}"))
            print(f"wrote {path}")


def write_figures(folder: Path) -> None:
    """Write the figures of docs/codec.md: each clip, and its versions by the original's recipe, `riffusion_v1` and `hifi`."""
    torch.manual_seed(0)
    folder.mkdir(parents=True, exist_ok=True)
    titles = {
        "original": "the sound", "riffusion-original-recipe": "original Riffusion: its image, its decoder",
        "riffusion_v1": "riffusion_v1: the same image, decoded here", "hifi": "hifi: an image of the same size",
    }  # fmt: skip
    for clip in make_clips(names=FIGURE_NAMES):
        panels = [
            draw_spectrogram(wav[:, : round(_FIGURE_S * RATE_HZ)].mean(0, keepdims=True), RATE_HZ, titles[name])
            for name, wav in _versions(clip, as_shipped=False)
            if name in titles
        ]
        write_image(folder / f"{clip.name.replace(' ', '-')}.png", stack(panels), _FIGURE_COLOURS)


def _versions(clip: Clip, as_shipped: bool) -> Iterator[tuple[str, np.ndarray]]:
    """Yield names and sounds, all at the loudness of the clip."""
    yield "original", clip.wav
    original = OriginalCodec()
    name = "riffusion-as-shipped" if as_shipped else "riffusion-original-recipe"
    yield name, _match_level(clip.mono, original.decode(original.encode(clip.mono), as_shipped=as_shipped))
    for preset in ("riffusion_v1", "hifi", "hifi_stereo"):
        codec = make_codec(load_preset(preset))
        reference = clip.wav if preset.endswith("stereo") else clip.mono
        encoded = codec.encode(reference)
        yield preset, _match_level(reference, codec.decode(encoded.image, encoded.max_value))


def _match_level(reference: np.ndarray, wav: np.ndarray) -> np.ndarray:
    gain_db = compare_sounds(reference, RATE_HZ, wav, RATE_HZ).gain_db
    return np.asarray(wav * np.float32(10 ** (gain_db / 20)), np.float32)


if __name__ == "__main__":
    sys.exit(main())
