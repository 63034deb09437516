"""`python -m benchmarks.codec_examples out=DIR [pictures=DIR] [as_shipped=false]`: hear and see what the codecs do.

For each of a few clips, as WAV files of equal loudness: the original sound, the image of the original Riffusion decoded by its
own recipe, the same image decoded here, `hifi`, and `hifi_stereo`; beside each its spectrogram. The recipe as shipped takes
half a minute a clip; as_shipped=false takes today's torchaudio instead.
"""

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch

from benchmarks.clips import RATE_HZ, Clip, make_clips
from benchmarks.original import OriginalCodec
from riffusion_train.audio.codec.codec import make_codec
from riffusion_train.audio.compare import compare_sounds
from riffusion_train.audio.io.write import write_audio
from riffusion_train.audio.plots import draw_spectrogram, stack, write_image
from riffusion_train.config.spectrogram import load_preset
from riffusion_train.runtime.errors import EXIT_DONE, EXIT_INPUT, InputError

NAMES = ("energetic_electronic_2", "calm_acoustic_1", "rendered piano", "vowels", "noise bursts")
PICTURED = ("rendered piano", "noise bursts")
_PEAK = 0.9
_PICTURED_S = 2.5
_COLOURS = 48


def main(argv: Sequence[str] | None = None) -> int:
    """Write the examples. Returns the exit code: 0 done, 2 wrong input."""
    words = list(sys.argv[1:] if argv is None else argv)
    options = dict(word.split("=", 1) for word in words if "=" in word)
    if "out" not in options or len(options) != len(words) or set(options) - {"out", "pictures", "as_shipped"}:
        print(f"usage: {__doc__.splitlines()[0][1:].rpartition(':')[0]}", file=sys.stderr)
        return EXIT_INPUT
    try:
        write_examples(Path(options["out"]), as_shipped=options.get("as_shipped", "true") == "true")
        if "pictures" in options:
            write_pictures(Path(options["pictures"]))
    except InputError as error:
        print(f"codec_examples: {error}", file=sys.stderr)
        return EXIT_INPUT
    return EXIT_DONE


def write_examples(out: Path, *, as_shipped: bool = True, names: Sequence[str] = NAMES) -> None:
    """Write the sounds and a spectrogram of each into a folder; a line on stdout names what was written.

    Args:
        out: The folder.
        as_shipped: Use the original's own mel inversion, which takes half a minute a clip.
        names: Which clips of the set.
    """
    torch.manual_seed(0)
    out.mkdir(parents=True, exist_ok=True)
    for clip in make_clips(names=names):
        stem = clip.name.replace(" ", "_")
        versions = list(_versions(clip, as_shipped))
        # One gain for the original and levels matched to it: louder always sounds better.
        gain = _PEAK / max(float(np.abs(wav).max()) for _, wav in versions)
        for place, (name, wav) in enumerate(versions):
            path = out / f"{stem}-{place}-{name}.wav"
            write_audio(path, wav * gain, RATE_HZ)
            write_image(path.with_suffix(".png"), draw_spectrogram(wav, RATE_HZ, f"{clip.name}: {name}"))
            print(f"wrote {path}")


def write_pictures(folder: Path) -> None:
    """Write the pictures of the page: each clip before, by the original's recipe, by `riffusion_v1`, and by `hifi`."""
    torch.manual_seed(0)
    folder.mkdir(parents=True, exist_ok=True)
    shown = {
        "original": "the sound", "riffusion-original-recipe": "original Riffusion: its image, its decoder",
        "riffusion_v1": "riffusion_v1: the same image, decoded here", "hifi": "hifi: an image of the same size",
    }  # fmt: skip
    for clip in make_clips(names=PICTURED):
        panels = [
            draw_spectrogram(wav[:, : round(_PICTURED_S * RATE_HZ)].mean(0, keepdims=True), RATE_HZ, shown[name])
            for name, wav in _versions(clip, as_shipped=False)
            if name in shown
        ]
        write_image(folder / f"{clip.name.replace(' ', '-')}.png", stack(panels), _COLOURS)


def _versions(clip: Clip, as_shipped: bool) -> Iterator[tuple[str, np.ndarray]]:
    """Yield names and sounds, all brought to the loudness of the clip."""
    yield "original", clip.wav
    original = OriginalCodec()
    name = "riffusion-as-shipped" if as_shipped else "riffusion-original-recipe"
    yield name, _levelled(clip.mono, original.decode(original.encode(clip.mono), as_shipped=as_shipped))
    for preset in ("riffusion_v1", "hifi", "hifi_stereo"):
        codec = make_codec(load_preset(preset))
        reference = clip.wav if preset.endswith("stereo") else clip.mono
        encoded = codec.encode(reference)
        yield preset, _levelled(reference, codec.decode(encoded.image, encoded.max_value))


def _levelled(reference: np.ndarray, wav: np.ndarray) -> np.ndarray:
    gain_db = compare_sounds(reference, RATE_HZ, wav, RATE_HZ).gain_db
    return np.asarray(wav * np.float32(10 ** (gain_db / 20)), np.float32)


if __name__ == "__main__":
    sys.exit(main())
