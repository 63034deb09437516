import errno
import json
import os
from pathlib import Path

import pytest

from riffusion_train.runtime.files import (
    json_text,
    link_or_copy,
    open_atomically,
    remove_partials,
    slug,
    write_atomically,
    write_json,
    written_beside,
)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("sync", [False, True])
def test_a_file_appears_whole_and_takes_the_place_of_the_old_one(tmp_path: Path, sync: bool):
    write_atomically(tmp_path / "a.txt", b"old", sync=sync)
    with open_atomically(tmp_path / "a.txt", sync=sync) as file:
        file.write(b"new")
        assert (tmp_path / "a.txt").read_bytes() == b"old"
    assert (tmp_path / "a.txt").read_bytes() == b"new"
    assert names(tmp_path) == ["a.txt"]


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path):
    (tmp_path / "a.txt").write_text("old")
    with pytest.raises(KeyboardInterrupt), open_atomically(tmp_path / "a.txt") as file:
        file.write(b"half")
        raise KeyboardInterrupt
    assert (tmp_path / "a.txt").read_text() == "old"
    assert names(tmp_path) == ["a.txt"]


def test_an_error_names_the_target_and_not_the_file_beside_it(tmp_path: Path):
    with pytest.raises(FileNotFoundError) as caught:
        write_atomically(tmp_path / "none" / "a.txt", b"")
    assert caught.value.filename == str(tmp_path / "none" / "a.txt")
    with pytest.raises(OSError, match="No space") as full, written_beside(tmp_path / "b.txt"):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    assert full.value.filename == str(tmp_path / "b.txt")


def test_an_error_about_another_file_names_that_file(tmp_path: Path):
    with pytest.raises(FileNotFoundError) as caught, written_beside(tmp_path / "b.txt"):
        (tmp_path / "source.txt").read_bytes()
    assert caught.value.filename == str(tmp_path / "source.txt")


@pytest.mark.parametrize("sync", [False, True])
def test_a_folder_appears_whole(tmp_path: Path, sync: bool):
    with written_beside(tmp_path / "model", sync=sync) as partial:
        (partial / "inner").mkdir(parents=True)
        (partial / "inner" / "a.txt").write_text("a")
        assert not (tmp_path / "model").exists()
    assert (tmp_path / "model" / "inner" / "a.txt").read_text() == "a"
    assert names(tmp_path) == ["model"]


def test_a_folder_replaces_another_only_where_that_is_asked_for(tmp_path: Path):
    for content, replace in (("first", False), ("second", True)):
        with written_beside(tmp_path / "model", replace=replace) as partial:
            partial.mkdir()
            (partial / "a.txt").write_text(content)
    with pytest.raises(FileExistsError), written_beside(tmp_path / "model") as partial:
        partial.mkdir()
    assert (tmp_path / "model" / "a.txt").read_text() == "second"
    assert names(tmp_path) == ["model"]


def test_parents_are_made_and_removed_again_on_an_error(tmp_path: Path):
    target = tmp_path / "a" / "b" / "c.txt"
    with pytest.raises(ValueError, match="stop"), written_beside(target, parents=True) as partial:
        partial.write_text("half")
        raise ValueError("stop")
    assert names(tmp_path) == []
    with written_beside(target, parents=True) as partial:
        partial.write_text("whole")
    assert target.read_text() == "whole"


def test_what_a_killed_process_left_is_cleared_away(tmp_path: Path):
    (tmp_path / "inner").mkdir()
    for path in (tmp_path / ".a.txt.1-ab.partial", tmp_path / "inner" / ".b.2-cd.partial", tmp_path / "rows.partial"):
        path.write_text("half")
    (tmp_path / ".model.3-ef.partial").mkdir()
    remove_partials(tmp_path)
    assert names(tmp_path) == ["inner", "rows.partial"]
    remove_partials(tmp_path, recursive=True)
    assert names(tmp_path / "inner") == []


def test_json_has_one_final_newline_and_keeps_what_it_is_told_to(tmp_path: Path):
    data = {"b": "é", "a": [1.5]}
    write_json(tmp_path / "a.json", data)
    assert (tmp_path / "a.json").read_bytes() == '{\n  "b": "é",\n  "a": [\n    1.5\n  ]\n}\n'.encode()
    assert json_text(data, indent=None, ascii_only=True, sort_keys=True) == '{"a": [1.5], "b": "\\u00e9"}\n'
    with pytest.raises(ValueError, match="JSON"):
        write_json(tmp_path / "a.json", float("nan"), allow_nan=False)
    assert json.loads((tmp_path / "a.json").read_text(encoding="utf-8")) == data


def test_a_linked_file_has_the_content_and_does_not_replace_another(tmp_path: Path):
    (tmp_path / "a.txt").write_text("a")
    link_or_copy(tmp_path / "a.txt", tmp_path / "b.txt")
    (tmp_path / "c.txt").write_text("c")
    link_or_copy(tmp_path / "a.txt", tmp_path / "c.txt")
    assert [(tmp_path / name).read_text() for name in ("b.txt", "c.txt")] == ["a", "c"]


def test_a_slug_is_short_and_fits_a_file_name():
    assert slug("Jazz, with a  Piano!", 40) == "jazz-with-a-piano"
    assert slug("Jazz, with a Piano", 6) == "jazz-w"
    assert slug("Jazz, with", 5) == "jazz"
    assert slug("Čaj 日本", 40) == "čaj-日本"
    assert slug("Caj 日本", 40, ascii_only=True) == "caj"
    assert slug("?!", 40) == ""
