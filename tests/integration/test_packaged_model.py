"""The model that comes with the package, by its name in every command; and the weights themselves, where they are installed."""

import json
from pathlib import Path

import numpy as np
import pytest
from support.nano import train_config, write_dataset
from support.sampling import write_nano_model

from riffusion_train import Sampler
from riffusion_train.cli.main import main
from riffusion_train.config.compose import compose
from riffusion_train.config.sample import PlayConfig
from riffusion_train.config.spectrogram import load_preset
from riffusion_train.config.train import TrainConfig
from riffusion_train.evaluation.clips import is_model
from riffusion_train.evaluation.grid import find_models
from riffusion_train.model.loading import open_model
from riffusion_train.player.settings import make_settings
from riffusion_train.runtime import hub
from riffusion_train.runtime.errors import EXIT_DONE, EXIT_INPUT
from riffusion_train.training.run import run_training

QUICK = ["num_inference_steps=1", "quality=draft", "device=cpu"]
NOTES = "Trained on bands of noise. Copyright nobody."


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_dataset(tmp_path_factory.mktemp("packaged") / "dataset")


@pytest.fixture(scope="module")
def folder(dataset: Path) -> Path:
    """A trained model, exported as the package's own is."""
    run = run_training(train_config(dataset, dataset.parent / "run", "max_train_steps=2"), ["max_train_steps=2"])
    (dataset.parent / "notes.md").write_text(NOTES)
    out = dataset.parent / "pretrained" / "laptop"
    words = [f"run={run}", f"out={out}", "dtype=fp16", "licence=mit", f"notes={dataset.parent / 'notes.md'}"]
    (dataset.parent / "prompts.txt").write_text("a high band\n\na low band\n")
    words += [
        "recommended.num_inference_steps=2",
        "recommended.guidance_scale=3",
        f"prompts={dataset.parent / 'prompts.txt'}",
    ]
    assert main(["export", *words]) == EXIT_DONE
    return out


@pytest.fixture
def packaged(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(hub, "PRETRAINED_FOLDER", folder.parent)
    (tmp_path / "laptop").mkdir()  # a folder of that name does not stand in the way
    monkeypatch.chdir(tmp_path)
    return folder


def test_the_card_has_the_licence_and_the_notes_and_no_path_of_this_machine(folder: Path) -> None:
    card = (folder / "README.md").read_text()
    assert "license: mit" in card and NOTES in card and "they are under this licence: mit" in card
    texts = [path.read_text() for path in folder.rglob("*") if path.suffix in (".json", ".md")]
    assert str(folder.parents[1]) not in "".join(texts)
    assert json.loads((folder / "training.json").read_text())["licence"] == "mit"


def test_sampling_without_a_model_takes_it_and_records_its_name(packaged: Path) -> None:
    assert main(["sample", "--prompt", "a band", "out=clips", "quality=draft", "device=cpu"]) == EXIT_DONE
    (record,) = (json.loads(path.read_text()) for path in Path("clips").glob("*.json"))
    assert (record["model"], record["num_inference_steps"], record["guidance_scale"]) == ("laptop", 2, 3.0)
    assert record["model_fingerprint"] and str(packaged) not in json.dumps(record)
    clip = next(Path("clips").glob("*.wav"))
    assert main(["sample", "--again", str(clip), "out=again"]) == EXIT_DONE
    assert next(Path("again").glob("*.wav")).read_bytes() == clip.read_bytes()
    sampler = Sampler.load(device="cpu", quality="draft")
    assert sampler.components.source == "laptop"
    assert np.array_equal(sampler.text_to_audio("a band").image, sampler.again(clip).image)


def test_every_command_knows_its_name(packaged: Path, dataset: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "laptop"]) == EXIT_DONE
    assert "float16" in capsys.readouterr().out
    assert is_model("laptop") and not is_model("./laptop")
    (found,) = find_models(["laptop"], "all", "ema")  # type: ignore[arg-type]
    assert (found.name, found.source, found.step) == ("laptop", "laptop", 2)
    assert main(["import", "laptop", "out=copy"]) == EXIT_DONE
    copy, own = open_model("copy").skeleton, open_model("laptop").skeleton
    assert (copy.sampling, copy.prompts) == (own.sampling, own.prompts) and own.prompts


def test_play_begins_with_a_prompt_of_the_model(packaged: Path) -> None:
    sampler = Sampler.load(device="cpu")
    assert make_settings(PlayConfig(), sampler).prompt == "a high band"
    assert make_settings(PlayConfig(prompt="mine"), sampler).prompt == "mine"


def test_a_run_goes_on_from_it_and_inherits_licence_and_recommendation(packaged: Path, dataset: Path) -> None:
    words = [f"dataset={dataset}", "model=laptop", "tracker=files", "num_threads=1", "train_batch_size=2"]
    for method in ("full", "lora"):
        assert main(["train", *words, f"run={method}", f"method={method}", "max_train_steps=1"]) == EXIT_DONE
        record = Path(method, "manifest.json").read_text() + Path(method, "config.yaml").read_text()
        assert str(packaged) not in record and "path: laptop" in record
        assert main(["export", f"run={method}", f"out={method}-model", "recommended.guidance_scale=4"]) == EXIT_DONE
        summary = json.loads(Path(f"{method}-model", "training.json").read_text())
        assert (summary["base_model"], summary["licence"]) == ("laptop", "mit")
        assert summary["sampling"] == {"num_inference_steps": 2, "guidance_scale": 4.0}
        assert summary["prompts"] == ["a high band", "a low band"]
        assert "The base model's licence carries over: mit" in Path(f"{method}-model", "README.md").read_text()
    assert main(["export", "run=full", "out=other", "licence=cc0-1.0"]) == EXIT_INPUT


def test_a_dataset_of_another_preset_is_refused_with_the_command_that_prepares_it(
    tmp_path: Path, dataset: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_nano_model(tmp_path / "pretrained" / "laptop", load_preset("laptop"))
    monkeypatch.setattr(hub, "PRETRAINED_FOLDER", tmp_path / "pretrained")
    assert main(["train", f"dataset={dataset}", "experiment=laptop_finetune", f"run={tmp_path / 'x'}"]) == EXIT_INPUT
    error = capsys.readouterr().err.splitlines()[-1]
    assert "prepare the audio anew with riffusion prepare audio=… out=… spectrogram=laptop" in error
    assert not (tmp_path / "x").exists()


def test_without_weights_every_command_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], dataset: Path
) -> None:
    monkeypatch.setattr(hub, "PRETRAINED_FOLDER", tmp_path)
    monkeypatch.chdir(tmp_path)
    commands = [
        ["sample", "--prompt", "a", "out=clips"],
        ["play", "port=0"],
        ["doctor", "laptop"],
        ["train", f"dataset={dataset}", "experiment=laptop_finetune", "run=run"],
        ["import", "laptop", "out=copy"],
        ["demo", "base=laptop", "out=demo"],
    ]
    for command in commands:
        assert main(command) == EXIT_INPUT, command
        error = capsys.readouterr().err.splitlines()[-1]
        assert error.startswith(
            f"riffusion {command[0]}: laptop: the weights of this model are not in this installation"
        )
    assert not Path("run").exists()


INSTALLED = pytest.mark.skipif(not hub.has_pretrained(), reason="the weights of laptop are not installed")


@INSTALLED
def test_the_installed_model_makes_clips_and_is_small_enough_to_ship() -> None:
    place = Path(hub.model_place("laptop"))
    assert sum(path.stat().st_size for path in place.rglob("*") if path.is_file()) <= 32e6
    assert "license: mit" in (place / "README.md").read_text() and (place / "training.json").is_file()
    sampler = Sampler.load(device="cpu", num_inference_steps=2, quality="draft")
    clip = sampler.text_to_audio("slow jazz, piano melody", seed=0)
    assert sampler.codec.config == load_preset("laptop")
    assert clip.image.std() > 10 and np.isfinite(clip.audio).all()


@INSTALLED
@pytest.mark.parametrize("name", ["laptop_finetune", "laptop_lora", "laptop_lcm"])
def test_the_presets_that_start_from_it_predict_what_it_predicts(name: str) -> None:
    objective = compose("train", TrainConfig, ["dataset=d", f"experiment={name}"]).objective
    assert objective.prediction_type is None and objective.rescale_betas_zero_snr is None
