from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from riffusion_train.listening.embedder import Clip, Heard
from riffusion_train.listening.heard import HeardClip, HeardClips, Unit, hear_units
from riffusion_train.runtime.errors import InputError, StoppedError


class Levels:
    """An embedder of one's own: mean, spread and peak of a clip, in two patches, with one tag."""

    name, dim = "levels", 3

    def hear(self, clips: Sequence[Clip]) -> list[Heard]:
        return [self._hear(wav) for wav, _ in clips]

    def _hear(self, wav: np.ndarray) -> Heard:
        halves = np.array_split(wav, 2, axis=1)
        patches = np.array([[one.mean(), one.std(), np.abs(one).max()] for one in halves], np.float32)
        return Heard(patches.mean(axis=0), patches, {"loud": float(patches[:, 2].mean())}, patches[:, 2:])

    def embed_texts(self, texts: Sequence[str]) -> None:
        return None


def make_unit(number: int, loaded: list[int], count: int = 2) -> Unit:
    def load() -> list[HeardClip | str]:
        loaded.append(number)
        rng = np.random.default_rng(number)
        clips: list[HeardClip | str] = [
            HeardClip(
                f"{number}-{one}", f"track {number}", ("a caption",), (rng.normal(0, 0.1, (1, 8000)).astype("f"), 8000)
            )
            for one in range(count)
        ]
        return clips

    return Unit(f"unit {number}", count, load)


def hear(units: Sequence[Unit], cache: Path, source: str | None = None) -> HeardClips:
    return hear_units(units, Levels(), source, cache, "listening")


def equal(first: HeardClips, second: HeardClips) -> bool:
    return (first.names, first.tracks, first.captions, first.sounds) == (
        second.names,
        second.tracks,
        second.captions,
        second.sounds,
    ) and all(
        np.array_equal(a.embedding, b.embedding)
        and np.array_equal(a.patches, b.patches)
        and np.array_equal(a.patch_tags, b.patch_tags)
        and a.tags == pytest.approx(b.tags)
        for a, b in zip(first.heard, second.heard, strict=True)
    )


def test_what_was_heard_is_read_back_and_not_heard_again(tmp_path: Path) -> None:
    loaded: list[int] = []
    first = hear([make_unit(number, loaded) for number in range(3)], tmp_path / "cache")
    again = hear([make_unit(number, loaded) for number in range(4)], tmp_path / "cache")
    assert loaded == [0, 1, 2, 3]
    assert again.embeddings.shape == (8, 3) and len(first.heard) == 6
    assert equal(hear([make_unit(number, loaded) for number in range(3)], tmp_path / "cache"), first)


def test_another_embedder_and_a_damaged_file_are_heard_anew(tmp_path: Path) -> None:
    loaded: list[int] = []
    hear([make_unit(0, loaded)], tmp_path)
    hear([make_unit(0, loaded)], tmp_path, source="other weights")
    assert loaded == [0, 0]
    for file in tmp_path.glob("heard-*"):
        file.write_bytes(file.read_bytes()[:100])
    assert len(hear([make_unit(0, loaded)], tmp_path).heard) == 2
    assert loaded == [0, 0, 0]


def test_what_cannot_be_read_is_listed_and_the_rest_goes_on(tmp_path: Path) -> None:
    def refuse() -> list[HeardClip | str]:
        raise InputError("b.wav: holds no audio")

    def half() -> list[HeardClip | str]:
        return [*make_unit(5, [], 1).load(), "c.wav: the file is empty"]

    for _ in range(2):  # the second time from the cache
        heard = hear([make_unit(0, []), Unit("b", 1, refuse), Unit("c", 2, half)], tmp_path)
        assert heard.failed == ["b.wav: holds no audio", "c.wav: the file is empty"]
        assert heard.names == ["0-0", "0-1", "5-0"]


def test_a_stop_keeps_what_was_heard(tmp_path: Path) -> None:
    loaded: list[int] = []
    units = [make_unit(number, loaded) for number in range(3)]
    with pytest.raises(StoppedError, match="2 of 6 are done; the same command continues"):
        hear_units(units, Levels(), None, tmp_path, "listening", asked_to_stop=lambda: True)
    hear(units, tmp_path)
    assert loaded == [0, 1, 2]


def test_a_cache_that_cannot_be_written_costs_only_time(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert len(hear([make_unit(0, [])], tmp_path / "file" / "cache").heard) == 2
