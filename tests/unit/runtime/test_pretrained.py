"""The names of models that come with the package."""

from pathlib import Path

import pytest

from riffusion_train.export.summary import base_name
from riffusion_train.runtime import hub
from riffusion_train.runtime.errors import InputError
from riffusion_train.runtime.hub import check_source, has_pretrained, model_place
from riffusion_train.training.run_folder import whole_path


@pytest.fixture
def packaged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "pretrained" / "laptop"
    folder.mkdir(parents=True)
    (folder / "model_index.json").write_text("{}")
    monkeypatch.setattr(hub, "PRETRAINED_FOLDER", folder.parent)
    return folder


def test_a_name_stands_for_its_folder_before_a_folder_of_that_name(
    packaged: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "here" / "laptop").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "here")
    assert has_pretrained() and model_place("laptop") == str(packaged)
    assert model_place("./laptop") == "./laptop" and model_place(Path("other")) == "other"
    check_source("laptop")
    # What goes into records and cards is the name, not where the package is on this machine.
    assert whole_path("laptop") == base_name("laptop") == "laptop"
    assert whole_path("./laptop") == str(tmp_path / "here" / "laptop")


def test_a_name_without_weights_is_refused_in_one_line(packaged: Path) -> None:
    (packaged / "model_index.json").unlink()
    assert not has_pretrained()
    with pytest.raises(InputError, match=r"laptop: the weights of this model are not in this installation") as error:
        check_source("laptop")
    assert "\n" not in str(error.value)
    with pytest.raises(InputError, match=r"desktop: no such file or folder, and not a hub id"):
        check_source("desktop")
