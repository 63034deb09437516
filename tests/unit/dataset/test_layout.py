import json
import sys

import pytest

from riffusion_train.dataset import layout
from riffusion_train.runtime.errors import InputError

EXTRA = {"bpm": "int64", "live": "bool", "key": "string", "swing": "float64"}


def test_the_arrow_schema_is_the_one_datasets_would_write_but_for_the_old_name_of_lists():
    theirs = layout.features(EXTRA).arrow_schema
    ours = layout.arrow_schema(EXTRA)
    assert ours.equals(theirs)
    described = json.loads(ours.metadata[b"huggingface"])
    caption = described["info"]["features"]["caption"]
    assert caption["_type"] == "Sequence", "datasets 3 knows no other name"
    caption["_type"] = "List"
    assert described == json.loads(theirs.metadata[b"huggingface"])


def test_datasets_reads_lists_by_their_old_name_and_by_the_one_of_earlier_datasets_of_ours():
    import datasets

    ours = layout.arrow_schema(EXTRA)
    earlier = ours.with_metadata({b"huggingface": ours.metadata[b"huggingface"].replace(b"Sequence", b"List")})
    assert datasets.Features.from_arrow_schema(ours) == layout.features(EXTRA)
    assert datasets.Features.from_arrow_schema(earlier) == layout.features(EXTRA)


def test_folders_that_are_no_dataset_are_refused_with_the_fix(tmp_path):
    for folder, message in ((tmp_path / "nowhere", "no such dataset folder"), (tmp_path, "not a dataset folder")):
        with pytest.raises(InputError, match=f"{message}.*riffusion prepare"):
            layout.open_dataset_folder(folder)
    (tmp_path / ".work").mkdir()
    with pytest.raises(InputError, match="unfinished; run the same riffusion prepare command again"):
        layout.open_dataset_folder(tmp_path)


def test_a_later_schema_and_damaged_statistics_are_refused(tmp_path):
    (tmp_path / "stats.json").write_text('{"schema_version": 99}')
    with pytest.raises(InputError, match="schema version 99"):
        layout.open_dataset_folder(tmp_path)
    (tmp_path / "stats.json").write_text("{")
    with pytest.raises(InputError, match="not the statistics"):
        layout.open_dataset_folder(tmp_path)


def test_reading_the_layout_loads_neither_torch_nor_datasets():
    import subprocess

    code = "import sys, riffusion_train.dataset.layout; print(sorted({'torch', 'datasets'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "[]"
