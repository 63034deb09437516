from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from riffusion_train.sampling.clip import new_stem
from riffusion_train.sampling.modes.base import TextRequest
from riffusion_train.sampling.modes.long import LongRequest


def write(folder: Path, request: TextRequest | LongRequest) -> str:
    with new_stem(folder, request) as stem:
        stem.with_name(f"{stem.name}.wav").write_bytes(b"")
        return stem.name


def test_names_carry_number_mode_prompt_and_seed(tmp_path: Path) -> None:
    assert write(tmp_path / "new", TextRequest(prompt="Slow piano, rain", seed=3)) == "0000-text-slow-piano-rain-seed3"
    assert write(tmp_path / "new", LongRequest(prompt="", seed=4)) == "0001-long-empty-seed4"
    (tmp_path / "new" / "12345-of-version-0.1.0-seed0.wav").touch()
    (tmp_path / "new" / "99-song.wav").touch()
    assert write(tmp_path / "new", TextRequest(prompt="x", seed=0)).startswith("12346-")


def test_a_clip_that_fails_leaves_nothing_and_its_number_is_free(tmp_path: Path) -> None:
    try:
        with new_stem(tmp_path, TextRequest(prompt="x")):
            raise ValueError
    except ValueError:
        assert not list(tmp_path.iterdir())
    assert write(tmp_path, TextRequest(prompt="x")).startswith("0000-")


def test_clips_written_at_the_same_time_have_different_numbers(tmp_path: Path) -> None:
    request = TextRequest(prompt="the same", seed=1)
    with ThreadPoolExecutor(8) as pool:
        names = list(pool.map(lambda _: write(tmp_path, request), range(100)))
    assert sorted(names) == [f"{number:04d}-text-the-same-seed1" for number in range(100)]
    assert len(list(tmp_path.iterdir())) == 100
