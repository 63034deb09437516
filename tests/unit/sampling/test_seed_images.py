from pathlib import Path

import numpy as np
import pytest
from support.nano import NANO_SPECTROGRAM
from support.sampling import write_melody

from riffusion_train.audio.codec import make_codec
from riffusion_train.audio.image_file import load_image
from riffusion_train.cli.main import main
from riffusion_train.sampling.sources import SEED_IMAGES, load_seed_image

CODEC = make_codec(NANO_SPECTROGRAM)


@pytest.mark.parametrize("name", SEED_IMAGES)
def test_each_seed_image_is_a_loop_with_something_in_it(name: str) -> None:
    image = load_seed_image(name, CODEC)
    assert image.shape == (32, 32)
    assert image.std() > 10
    twice = np.concatenate([image, image], axis=1).astype(int)
    steps = np.abs(np.diff(twice, axis=1)).mean(axis=0)
    assert steps[31] <= steps.max()


def test_seed_images_differ_and_come_out_the_same_again() -> None:
    images = {name: load_seed_image(name, CODEC) for name in SEED_IMAGES}
    assert len({image.tobytes() for image in images.values()}) == len(images)
    assert all(np.array_equal(image, load_seed_image(name, CODEC)) for name, image in images.items())


def test_any_sound_makes_one_and_a_short_one_is_repeated(tmp_path: Path) -> None:
    sound = write_melody(tmp_path / "short.wav", 0.4)
    assert load_seed_image(str(sound), CODEC).shape == (32, 32)


def test_the_command_writes_images_that_can_be_walked_from(tmp_path: Path) -> None:
    assert main(["sample", "seeds", str(tmp_path), "preset=tiny"]) == 0
    assert {path.stem for path in tmp_path.glob("*.png")} == set(SEED_IMAGES)
    assert load_image(tmp_path / "beats.png").config.name == "tiny"
    assert sum(path.stat().st_size for path in tmp_path.glob("*.png")) < 200_000
    sound = write_melody(tmp_path / "mine.wav", 2.0)
    assert main(["sample", "seeds", str(tmp_path / "own"), str(sound), "preset=tiny"]) == 0
    assert (tmp_path / "own" / "mine.png").is_file()
