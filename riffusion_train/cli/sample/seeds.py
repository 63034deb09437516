"""`riffusion sample seeds FOLDER [AUDIO…] [preset=…]`: write seed images to look at, to listen to, and to walk from."""

from collections.abc import Sequence
from pathlib import Path

from riffusion_train.cli.spectrogram.words import DEFAULT_PRESET, preset_of
from riffusion_train.runtime.errors import InputError

USAGE = "usage: riffusion sample seeds FOLDER [AUDIO…] [preset=NAME|PATH]"


def run(words: Sequence[str]) -> None:
    """Write our own seed images, or one of each sound, as PNG files that carry their codec, and as WAV files.

    Raises:
        InputError: If a word or a file cannot be used.
    """
    presets = [word.removeprefix("preset=") for word in words if word.startswith("preset=")]
    files = [Path(word) for word in words if not word.startswith("preset=")]
    if not files or len(presets) > 1:
        raise InputError(USAGE)
    from riffusion_train.audio.codec.codec import EncodedClip, make_codec
    from riffusion_train.audio.codec.image_file import save_image
    from riffusion_train.audio.io.write import write_audio
    from riffusion_train.sampling.seed_images import SEED_IMAGES, make_seed_image, make_seed_image_of_sound

    codec = make_codec(preset_of(presets[0] if presets else DEFAULT_PRESET))
    folder, *sounds = files
    folder.mkdir(parents=True, exist_ok=True)
    images = {path.stem: make_seed_image_of_sound(path, codec) for path in sounds}
    for name, image in (images or {name: make_seed_image(name, codec) for name in SEED_IMAGES}).items():
        save_image(folder / f"{name}.png", EncodedClip(image, 0.0), codec.config)
        write_audio(folder / f"{name}.wav", codec.decode_loop(image), codec.rate_hz)
        print(f"wrote {folder / name}.png and .wav: a loop of {image.shape[1]} columns")
