"""Caches under kills, full disks and damage: a child process fills, and the parent reads what is left."""

import os
import pickle
import resource
import signal
import zlib
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from support.nano import NANO_SPECTROGRAM
from support.processes import in_child

from riffusion_train.dataset.cache import CACHE_DIR, KEY_BYTES, ROWS_PER_GROUP, CacheKind, RowCache
from riffusion_train.dataset.layout import DatasetFolder
from riffusion_train.runtime.errors import InputError
from riffusion_train.runtime.files import safetensors_header

KIND = CacheKind(name="things", contents="things", network="network", key="network", option="cache_things")
COUNT, ROW = 43, (2, 3)


def keys(numbers: Iterable[int]) -> np.ndarray:
    return np.array([list(number.to_bytes(KEY_BYTES, "little")) for number in numbers], np.uint8)


def cache(
    folder: Path, *, network: str = "n", things: Sequence[int] = range(COUNT), shape: tuple[int, ...] = ROW
) -> RowCache:
    """Return the cache of some things, of which each is its own key."""
    opened = DatasetFolder(folder, NANO_SPECTROGRAM, {"fingerprint": "d" * 64})
    options = {"network": network * 32, "shape": shape, "name_row": lambda row: f"thing {row}"}
    return RowCache(opened, KIND, keys=keys(things), **options)  # type: ignore[arg-type]


def encode(rows: Iterable[int]) -> torch.Tensor:
    return torch.stack([torch.arange(6.0).reshape(ROW) + 10 * row for row in rows])


def fill(file: RowCache, *, world_size: int = 1, encode: Callable[[list[int]], torch.Tensor] = encode) -> list[int]:
    """Fill a cache as so many processes do, one after the other; return the rows that were computed."""
    computed: list[int] = []

    def counted(rows: list[int]) -> torch.Tensor:
        computed.extend(rows)
        return encode(rows)

    file.allocate()
    for rank in range(world_size):
        file.fill(file.missing(rank=rank, world_size=world_size), counted, lambda done: None)
    return computed


def whole(folder: Path, **options: object) -> RowCache:
    folder.mkdir(exist_ok=True)
    file = cache(folder, **options)  # type: ignore[arg-type]
    fill(file)
    file.finish()
    return file


@pytest.mark.parametrize("world_size", [1, 2, 3, 9])
def test_the_file_is_the_same_bit_for_bit_whoever_fills_it(tmp_path: Path, world_size: int) -> None:
    file = cache(tmp_path)
    assert sorted(fill(file, world_size=world_size)) == list(range(COUNT))
    assert not file.path.exists()
    file.finish()
    rows = file.open()
    assert len(rows) == COUNT
    assert all(np.array_equal(rows[index], encode(range(index, index + 1))[0]) for index in range(COUNT))
    assert file.path.read_bytes() == whole(tmp_path / "alone").path.read_bytes()
    assert [path.name for path in file.path.parent.iterdir()] == [file.path.name]


def test_any_safetensors_reader_reads_the_rows(tmp_path: Path) -> None:
    assert torch.equal(load_file(whole(tmp_path).path)["rows"], encode(range(COUNT)))


def test_an_open_cache_travels_to_another_process(tmp_path: Path) -> None:
    rows = whole(tmp_path).open()
    first = rows[5]
    assert np.array_equal(pickle.loads(pickle.dumps(rows))[5], first)


@pytest.mark.parametrize("num_bytes", [0, 1, 191, 192, 193, 200, 224, 225, 500, 900, 1050, 1203, 1204])
@pytest.mark.parametrize("world_size", [1, 2])
def test_a_filling_killed_at_any_byte_continues_without_computing_again_what_is_written(
    tmp_path: Path, num_bytes: int, world_size: int
) -> None:
    file = cache(tmp_path)
    left, write = num_bytes, os.pwrite

    def write_until_killed(handle: int, content: memoryview, offset: int) -> int:
        nonlocal left
        write(handle, content[:left], offset)
        if len(content) > left:
            os.kill(os.getpid(), signal.SIGKILL)
        left -= len(content)
        return len(content)

    def fill_and_be_killed() -> None:
        os.pwrite = write_until_killed  # type: ignore[assignment]
        fill(file)

    assert in_child(fill_and_be_killed) == (-signal.SIGKILL if num_bytes < COUNT * 28 else 0)
    assert not file.path.exists()
    group_bytes = ROWS_PER_GROUP * 28  # of rows and their checks
    standing = num_bytes // group_bytes * ROWS_PER_GROUP if num_bytes < COUNT * 28 else COUNT
    assert sorted(fill(file, world_size=world_size)) == list(range(standing, COUNT))
    file.finish()
    assert file.path.read_bytes() == whole(tmp_path / "alone").path.read_bytes()


@pytest.mark.parametrize("num_bytes", [0, 5, 100])
def test_a_kill_while_making_room_begins_anew(tmp_path: Path, num_bytes: int) -> None:
    file = cache(tmp_path)
    file.allocate()
    file.partial.write_bytes(file.partial.read_bytes()[:num_bytes])
    assert len(fill(file)) == COUNT


@pytest.mark.parametrize("rows", [0, 3.5, 8, 20.25, 42.9])
def test_a_disk_that_fills_up_is_one_line_and_leaves_nothing_that_looks_whole(tmp_path: Path, rows: float) -> None:
    file = cache(tmp_path)
    file.allocate()
    room = file.num_bytes - 24 * COUNT + int(24 * rows)

    def fill_with_little_room() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (room, room))
        try:
            fill(file)
        except InputError as error:
            (tmp_path / "said").write_text(str(error)[:room])

    assert in_child(fill_with_little_room) == 0
    said = (tmp_path / "said").read_text()
    assert said.startswith(f"{tmp_path / CACHE_DIR}: file too large while filling or reading the cache of the things")
    assert "\n" not in said
    assert not file.path.exists()
    assert min(fill(file)) == int(rows) // ROWS_PER_GROUP * ROWS_PER_GROUP


def test_a_cache_larger_than_the_disk_is_refused_before_anything_is_computed(tmp_path: Path) -> None:
    file = cache(tmp_path, shape=(2, 10**13))
    with pytest.raises(
        InputError, match=r"the cache takes .* GiB, and .* are free; free some, or take cache_things=false"
    ):
        file.allocate()
    assert not any(file.path.parent.iterdir())


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / CACHE_DIR).write_text("a file where the folder should be")
    with pytest.raises(InputError, match=r"\.cache: file exists .* or take cache_things=false"):
        cache(tmp_path).allocate()


def test_numbers_that_are_not_finite_name_their_row_and_what_is_written_is_kept(tmp_path: Path) -> None:
    def broken(rows: list[int]) -> torch.Tensor:
        found = encode(rows)
        found[[row == 21 for row in rows]] = torch.inf
        return found

    file = cache(tmp_path)
    with pytest.raises(InputError, match="the network gives no finite things for thing 21; leave it out"):
        fill(file, encode=broken)
    assert fill(file) == list(range(16, COUNT))


@pytest.mark.parametrize("things", [range(COUNT + 20), [50, *range(COUNT - 1, -1, -1), 5], range(3, 9)])
def test_a_dataset_that_changed_uses_every_row_that_is_there(tmp_path: Path, things: Sequence[int]) -> None:
    whole(tmp_path)
    changed = cache(tmp_path, things=things)
    changed.plan(changed.find_missing())
    new = [row for row, thing in enumerate(things) if thing >= COUNT]
    assert changed.num_kept == len({thing for thing in things if thing < COUNT})
    if new:
        assert fill(changed, encode=lambda rows: encode([things[row] for row in rows])) == new
        changed.finish()
    rows = changed.open()
    assert len(rows) == len(things)
    assert all(np.array_equal(rows[row], encode([thing])[0]) for row, thing in enumerate(things))
    assert changed.find_missing() == []
    assert changed.unused() is None


def test_equal_things_share_a_row(tmp_path: Path) -> None:
    file = cache(tmp_path, things=[1, 2, 1, 1, 3])
    file.plan(file.find_missing())
    assert fill(file, encode=lambda rows: encode([file.keys[row][0] for row in rows])) == [0, 1, 4]
    file.finish()
    assert [float(row[0, 1]) for row in file.open()] == [11, 21, 11, 11, 31]


def test_what_a_stopped_job_computed_for_a_smaller_dataset_is_used(tmp_path: Path) -> None:
    begun = cache(tmp_path)
    begun.allocate()
    begun.fill(begun.missing(rank=0, world_size=2), encode, lambda done: None)
    done = {row for group in begun.groups(rank=0, world_size=2) for row in group}
    grown = cache(tmp_path, things=range(COUNT + 5))
    assert done.isdisjoint(fill(grown)[: -ROWS_PER_GROUP - 5])
    grown.finish()
    rows = grown.open()
    assert all(np.array_equal(rows[row], encode([row])[0]) for row in range(COUNT + 5))
    assert str(begun.partial) in str(grown.unused())


@pytest.mark.parametrize(("fingerprint", "used"), [("d", True), ("e", False)])
def test_a_file_of_version_0_1_0_is_used_if_it_is_of_this_dataset(tmp_path: Path, fingerprint: str, used: bool) -> None:
    """It has no keys, and its metadata say which dataset its rows are of."""
    rows = encode(range(COUNT)).numpy()
    checks = np.array([zlib.crc32(row) for row in rows], np.uint32)
    path = tmp_path / CACHE_DIR / f"things-{fingerprint * 16}-{'n' * 16}.safetensors"
    path.parent.mkdir()
    metadata = {"contents": "things", "dataset": fingerprint * 64, "network": "n" * 32, "schema_version": "1"}
    header = {"checks": ("U32", (COUNT,), checks.nbytes), "rows": ("F32", rows.shape, rows.nbytes)}
    path.write_bytes(safetensors_header(header, metadata) + checks.tobytes() + rows.tobytes())
    file = cache(tmp_path)
    assert file.find_missing() == ([] if used else list(range(COUNT)))
    assert (file.unused() is None) == used
    if used:
        assert all(np.array_equal(file.open()[row], rows[row]) for row in range(COUNT))


def test_caches_of_two_networks_stand_side_by_side(tmp_path: Path) -> None:
    first, second = whole(tmp_path, network="1"), cache(tmp_path, network="2")
    assert second.find_missing() == list(range(COUNT))
    assert str(first.path) in (second.unused() or "")
    assert first.unused() is None
    assert whole(tmp_path, network="2").path != first.path


def cut(file: RowCache) -> None:
    file.path.write_bytes(file.path.read_bytes()[:-1])


def emptied(file: RowCache) -> None:
    file.path.write_bytes(b"")


def overwritten(file: RowCache) -> None:
    file.path.write_bytes(b"x" * file.num_bytes)


def one_bit_turned(file: RowCache) -> None:
    content = bytearray(file.path.read_bytes())
    content[-1] ^= 1
    file.path.write_bytes(content)


@pytest.mark.parametrize(
    ("damage", "problem"),
    [
        (cut, "is of another size than written"),
        (emptied, "is not a cache, or a damaged one"),
        (overwritten, "is not a cache, or a damaged one"),
        (one_bit_turned, "its row 42 is damaged"),
    ],
)
def test_a_damaged_file_is_refused_by_name(tmp_path: Path, damage: Callable[[RowCache], None], problem: str) -> None:
    file = whole(tmp_path)
    damage(file)
    with pytest.raises(InputError, match=problem) as refused:
        file.open()
    assert str(refused.value).startswith(f"{file.path}: ")
    assert "delete" in str(refused.value)


def test_damage_that_opening_does_not_see_is_refused_when_the_row_is_read(tmp_path: Path) -> None:
    file = whole(tmp_path, things=range(1000))
    content = bytearray(file.path.read_bytes())
    content[file.num_bytes - 24] ^= 1  # the last row; every fifteenth or so is looked at
    file.path.write_bytes(content)
    rows = file.open()
    assert rows[998].shape == ROW
    with pytest.raises(InputError, match="its row 999 is damaged; delete the file"):
        rows[999]


@pytest.mark.parametrize("change", [{"network": "m"}, {"shape": (3, 2)}, {"things": range(100, 100 + COUNT)}])
def test_a_file_of_another_content_is_not_used_whatever_its_name(tmp_path: Path, change: dict[str, object]) -> None:
    file = whole(tmp_path)
    other = {"network": "n", "shape": ROW, **change}
    made = cache(tmp_path / "other", **other)  # type: ignore[arg-type]
    made.folder.path.mkdir()
    fill(made, encode=lambda rows: encode(rows).reshape(-1, *made.shape[1:]))
    made.partial.replace(file.path)
    assert file.find_missing() == list(range(COUNT))
    with pytest.raises(InputError, match="a file of the cache is gone"):
        file.open()


def test_a_job_that_comes_second_takes_the_file_that_another_finished(tmp_path: Path) -> None:
    first, second = cache(tmp_path), cache(tmp_path)
    fill(first)
    assert fill(second) == []
    first.finish()
    second.finish()
    assert len(second.open()) == COUNT
