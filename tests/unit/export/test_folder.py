import json
from pathlib import Path

import pytest
from support.worlds import NANO_SPECTROGRAM, train_config, write_dataset

from riffusion_train.config.errors import InputError
from riffusion_train.export import folder as folder_module
from riffusion_train.export.folder import export_diffusers
from riffusion_train.model.components import fingerprint, load_components
from riffusion_train.training.setup import run_training


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    world = tmp_path_factory.mktemp("export")
    dataset = write_dataset(world / "dataset")
    return run_training(train_config(dataset, world / "run", "max_train_steps=3", "objective.snr_gamma=5"), [])


def test_an_export_is_the_final_model_with_its_codec_and_card(run: Path, tmp_path: Path) -> None:
    export_diffusers(run, tmp_path / "models" / "mine")
    exported, final = load_components(str(tmp_path / "models" / "mine")), load_components(str(run / "final"))
    assert {name: fingerprint(module) for name, module in exported.modules.items()} == {
        name: fingerprint(module) for name, module in final.modules.items()
    }
    assert exported.spectrogram == NANO_SPECTROGRAM
    card = (tmp_path / "models" / "mine" / "README.md").read_text()
    assert "# mine" in card
    assert "3 steps of 4 slices" in card
    assert json.loads((run / "manifest.json").read_text())["dataset"]["fingerprint"] in card


def test_the_exported_scheduler_says_what_was_trained(tmp_path: Path) -> None:
    words = ["max_train_steps=1", "objective.prediction_type=v_prediction"]
    run = run_training(train_config(write_dataset(tmp_path / "dataset"), tmp_path / "run", *words), [])
    export_diffusers(run, tmp_path / "model")
    assert load_components(str(tmp_path / "model")).scheduler.config.prediction_type == "v_prediction"


def test_what_is_there_is_not_written_over(run: Path, tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    with pytest.raises(InputError, match="exists already"):
        export_diffusers(run, tmp_path / "model")


def test_an_unfinished_run_is_refused(run: Path, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.yaml").write_text((run / "config.yaml").read_text())
    with pytest.raises(InputError, match="not finished"):
        export_diffusers(tmp_path / "run", tmp_path / "model")


def test_a_failed_export_leaves_nothing(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full_disk(*arguments: object, **options: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(folder_module, "write_card", full_disk)
    with pytest.raises(OSError, match="No space left"):
        export_diffusers(run, tmp_path / "model")
    assert not list(tmp_path.iterdir())
