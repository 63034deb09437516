import json
from pathlib import Path

import pytest
from PIL import Image
from support.hub import StandInHub, serving

from riffusion_train.config.export import ExportFormat, LoraLayout
from riffusion_train.export.summary import licence_of
from riffusion_train.export.write import export_run
from riffusion_train.runtime.errors import InputError


@pytest.fixture(scope="module")
def exported(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("card") / "mine"
    export_run(run, out)
    return out


def test_the_card_says_what_the_model_was_made_from(exported: Path, run: Path) -> None:
    card = (exported / "README.md").read_text()
    assert "# mine" in card
    assert "full, 4 steps of 4 slices, learning rate 0.001" in card
    assert json.loads((run / "manifest.json").read_text())["dataset"]["fingerprint"] in card
    assert "slices: 12 train, 3 validation" in card
    assert "v_prediction" in card
    assert "`schedule=cosine`" in card
    assert "nano: 32 bands" in card


def test_the_card_shows_the_curve_and_plays_the_previews(exported: Path) -> None:
    card = (exported / "README.md").read_text()
    for name in ("previews/00.png", "previews/00.wav", "loss.png"):
        assert f"({name})" in card
        assert (exported / name).stat().st_size > 0
    assert '<audio controls src="previews/00.wav">' in card
    with Image.open(exported / "loss.png") as curve:
        assert len(set(curve.convert("RGB").getdata())) > 3


def test_every_reader_is_shown_how_to_use_it(exported: Path, lora_run: Path, tmp_path: Path) -> None:
    card = (exported / "README.md").read_text()
    assert "riffusion sample mine --prompt" in card
    assert 'StableDiffusionPipeline.from_pretrained("mine")' in card
    assert "models/Stable-diffusion" in card
    assert "choose v-prediction" in card
    # The package is not on PyPI: neither a link nor an install line may lead there.
    assert "pypi.org" not in card and "pip install riffusion-train" not in card
    export_run(lora_run, tmp_path / "adapters", kind=ExportFormat.lora)
    card = (tmp_path / "adapters" / "README.md").read_text()
    assert 'pipe.load_lora_weights("adapters")' in card
    assert "<lora:adapters:1>" in card
    assert "riffusion import adapters base=" in card


def test_the_licence_of_the_base_carries_over(tmp_path: Path) -> None:
    assert licence_of("random weights, seed 0", sd15=True) == "other"
    assert licence_of("runwayml/stable-diffusion-v1-5", sd15=True) == "creativeml-openrail-m"
    (tmp_path / "base").mkdir()
    assert licence_of(str(tmp_path / "base"), sd15=True) == "creativeml-openrail-m"
    assert licence_of(str(tmp_path / "base"), sd15=False) == "other"
    (tmp_path / "base" / "README.md").write_text("---\nlicense: apache-2.0\n---\n")
    assert licence_of(str(tmp_path / "base"), sd15=True) == "apache-2.0"
    (tmp_path / "run" / "final").mkdir(parents=True)
    (tmp_path / "run" / "manifest.json").write_text(json.dumps({"base_model": {"source": "random weights, seed 4"}}))
    assert licence_of(str(tmp_path / "run" / "final"), sd15=True) == "other"


@pytest.fixture
def token(monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub.constants

    monkeypatch.setenv("HF_TOKEN", "hf_not_a_real_one")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_DISABLE_XET", True)


def test_a_folder_is_uploaded_whole(run: Path, tmp_path: Path, token: None) -> None:
    with serving(StandInHub()) as hub:
        export_run(run, tmp_path / "m", push_to_hub="me/mine", private=True, endpoint=hub.endpoint)
    assert hub.created[0]["name"] == "mine"
    assert hub.created[0].get("private") is True or hub.created[0].get("visibility") == "private"
    on_disk = {str(path.relative_to(tmp_path / "m")): path for path in (tmp_path / "m").rglob("*") if path.is_file()}
    assert set(hub.files) == set(on_disk)
    assert all(hub.files[name] == path.read_bytes() for name, path in on_disk.items())
    assert b"# me/mine" in hub.files["README.md"]


def test_a_single_file_is_uploaded_with_card_and_codec(lora_run: Path, tmp_path: Path, token: None) -> None:
    path = tmp_path / "l.safetensors"
    with serving(StandInHub()) as hub:
        export_run(
            lora_run,
            path,
            kind=ExportFormat.lora,
            layout=LoraLayout.kohya,
            push_to_hub="me/mine",
            endpoint=hub.endpoint,
        )
    assert hub.files["l.safetensors"] == path.read_bytes()
    assert {"README.md", "spectrogram.json"} <= set(hub.files)
    assert [file.name for file in tmp_path.iterdir()] == ["l.safetensors"]


def test_a_hub_that_refuses_is_one_line_and_the_export_stays(lora_run: Path, tmp_path: Path, token: None) -> None:
    hub = StandInHub()
    hub.refuses = True
    with serving(hub), pytest.raises(InputError, match=r"push_to_hub=me/mine: .*the exported files stay") as error:
        export_run(lora_run, tmp_path / "l", kind=ExportFormat.lora, push_to_hub="me/mine", endpoint=hub.endpoint)
    assert "\n" not in str(error.value)
    assert (tmp_path / "l" / "README.md").is_file()
