import dataclasses
import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

import pytest
import yaml
from huggingface_hub import ModelCard
from PIL import Image
from support.hub import StandInHub, serving

from riffusion_train.config.model import ExportFormat, ExportWeights, LoraLayout
from riffusion_train.export.card import Card, Form, card_of
from riffusion_train.export.describe import describe
from riffusion_train.export.summary import base_name, licence_of, summarise
from riffusion_train.export.write import export_run
from riffusion_train.runtime.errors import InputError
from riffusion_train.training.run_model import open_run_model


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
    assert "A1111, Forge and ComfyUI load models of Stable Diffusion 1.5's size only" in card
    assert "models/Stable-diffusion" not in card
    # The package is not on PyPI: neither a link nor an install line may lead there.
    assert "pypi.org" not in card and "pip install riffusion-train" not in card
    export_run(lora_run, tmp_path / "adapters", kind=ExportFormat.lora)
    card = (tmp_path / "adapters" / "README.md").read_text()
    assert "from diffusers import StableDiffusionPipeline" in card
    assert 'from_pretrained("BASE", safety_checker=None)  # BASE is your copy of the base model: random weights' in card
    assert 'pipe.load_lora_weights("adapters", weight_name="adapters.safetensors")' in card
    assert "riffusion sample BASE --lora adapters --prompt" in card
    export_run(lora_run, tmp_path / "theirs", kind=ExportFormat.lora, layout=LoraLayout.diffusers)
    assert 'pipe.load_lora_weights("theirs")' in (tmp_path / "theirs" / "README.md").read_text()


def test_a_model_of_the_size_of_sd15_is_shown_in_other_programs(exported: Path, run: Path) -> None:
    model = open_run_model(run, "final", ExportWeights.ema)
    single = card_of(model, summarise(model), Form("m.safetensors", ExportFormat.single_file, "m.safetensors"))
    assert '.from_single_file("m.safetensors", config="FOLDER")' in _text(single)
    card = _text(dataclasses.replace(single, sd15=True))
    assert "Put `m.safetensors` into `models/Stable-diffusion`." in card
    assert "keep it together with the `.yaml` of that name" in card
    form = Form("adapters", ExportFormat.lora, "adapters.safetensors")
    card = _text(dataclasses.replace(single, sd15=True, form=form, base="me/mine"))
    assert "<lora:adapters:1>" in card
    assert 'from_pretrained("me/mine", safety_checker=None)' in card


def _text(card: Card) -> str:
    with tempfile.TemporaryDirectory() as folder:
        card.write(Path(folder))
        return (Path(folder) / "README.md").read_text()


def _front(path: Path) -> dict[str, Any]:
    loaded = yaml.safe_load(path.read_text().split("---\n")[1])
    assert isinstance(loaded, dict)
    return loaded


def test_the_hub_reads_what_a_model_is(exported: Path, run: Path, lora_run: Path, tmp_path: Path) -> None:
    front = _front(exported / "README.md")
    assert (front["license"], front["language"], front["pipeline_tag"]) == ("other", "en", "text-to-audio")
    assert front["widget"][0]["output"]["url"] == "previews/00.png"
    assert "base_model" not in front  # random weights are none
    assert not {"stable-diffusion", "spectrogram"} - set(front["tags"])
    model = open_run_model(run, "final", ExportWeights.ema)
    card = card_of(model, summarise(model), Form("l.safetensors", ExportFormat.lora, "l.safetensors"))
    known = dataclasses.replace(card, base="a/b", dataset="me/tunes", loss=("validation loss", 0.25))
    (tmp_path / "card").mkdir()
    known.write(tmp_path / "card")
    front = _front(tmp_path / "card" / "README.md")
    assert (front["base_model"], front["base_model_relation"], front["datasets"]) == ("a/b", "adapter", ["me/tunes"])
    assert front["instance_prompt"] == front["widget"][0]["text"]
    parsed = ModelCard((tmp_path / "card" / "README.md").read_text()).data
    assert (parsed.eval_results[0].metric_value, parsed.base_model_relation) == (0.25, "adapter")


def _write_scores(path: Path, step: int = 4, **about: Any) -> Path:
    row = {"unit": "", "ours_min": None, "ours_max": None, "reference": None, "note": ""}
    rows = [
        {**row, "what": "kid", "ours": 0.0213, "ours_min": 0.0181, "ours_max": 0.0249, "reference": 0.0004},
        {**row, "what": "fad", "ours": 12.0, "note": "below 1,000 clips compare only sets of the same size"},
        {**row, "what": "agreement", "ours": 0.71, "reference": 0.5},
        {**row, "what": "key", "ours": None, "needed": 8},
        {**row, "what": "copies", "ours": 0.02, "reference": 0.01},
        {**row, "what": "loudness_lufs", "ours": -14.0},
    ]
    about = {"num_clips": 96, "num_real": 324, "embedder": "musicnn", **about}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"rows": rows, "about": about, "step": step}), encoding="utf-8")
    return path


def test_the_scores_of_the_exported_checkpoint_stand_on_its_card(run: Path, tmp_path: Path) -> None:
    shutil.copytree(run, tmp_path / "run")
    _write_scores(tmp_path / "run" / "scores" / "final.json")
    _write_scores(tmp_path / "run" / "scores" / "step-000002.json", step=2, num_clips=7)
    export_run(tmp_path / "run", tmp_path / "mine")
    card = (tmp_path / "mine" / "README.md").read_text()
    assert "96 clips were compared with 324 real ones" in card
    assert "| KID | **0.0213** | 0.0181 to 0.0249 | 0.0004 (other real music) |" in card
    assert "| Agreement with captions | **71 %** | – | 50 % (shuffled captions) |" in card
    assert "| Copies | **2.0 %** |" in card and "| FAD |" not in card and "| Key |" not in card
    assert card.index("## How good it is") < card.index("## How it sounds")
    results = {one.metric_type: one for one in ModelCard(card).data.eval_results}
    assert {name: one.metric_value for name, one in results.items() if name != "loss"} == {
        "kid": 0.0213,
        "agreement": 0.71,
        "copies": 0.02,
    }
    assert (results["kid"].metric_name, results["kid"].task_type) == ("KID (musicnn)", "text-to-audio")
    assert json.loads((tmp_path / "mine" / "training.json").read_text())["scores"]["kid"] == 0.0213
    assert "scores   kid 0.0213, agreement 0.71, copies 0.02" in describe(str(tmp_path / "mine")).lines()
    export_run(tmp_path / "run", tmp_path / "raw", weights=ExportWeights.raw)  # other weights than were scored
    export_run(tmp_path / "run", tmp_path / "early", checkpoint="2")
    assert "How good it is" not in (tmp_path / "raw" / "README.md").read_text()
    _write_scores(tmp_path / "run" / "scores" / "final.json", step=3)  # scored before the run went on
    export_run(tmp_path / "run", tmp_path / "later")
    assert "How good it is" not in (tmp_path / "later" / "README.md").read_text()
    assert "7 clips were compared" in (tmp_path / "early" / "README.md").read_text()


def test_scores_can_be_named_and_bad_ones_are_refused_before_anything_is_written(run: Path, tmp_path: Path) -> None:
    scores = _write_scores(tmp_path / "scored" / "scores.json")
    export_run(run, tmp_path / "mine", scores=scores.parent)
    assert "| KID | **0.0213** |" in (tmp_path / "mine" / "README.md").read_text()
    (tmp_path / "other.json").write_text('{"rows": [{"what": "kid", "ours": null}]}')
    (tmp_path / "broken.json").write_text("[1")
    cases = (("gone.json", "no such file"), ("other.json", "holds no figure"), ("broken.json", "is no file of scores"))
    for name, message in cases:
        with pytest.raises(InputError, match=message):
            export_run(run, tmp_path / "no", scores=tmp_path / name)
    with pytest.raises(InputError, match="without a card"):
        export_run(run, tmp_path / "no.safetensors", kind=ExportFormat.single_file, scores=scores)
    assert not list(tmp_path.glob("no*"))


def test_the_base_is_named_truly(tmp_path: Path) -> None:
    assert base_name("runwayml/stable-diffusion-v1-5") == "runwayml/stable-diffusion-v1-5"
    (tmp_path / "vae" / "final").mkdir(parents=True)
    (tmp_path / "vae" / "manifest.json").write_text(json.dumps({"base_model": {"source": "random weights, seed 4"}}))
    text = "the final model of the run vae, which began from random weights, seed 4"
    assert base_name(str(tmp_path / "vae" / "final")) == text
    assert base_name(str(tmp_path / "gone" / "final")) == "the final model of the run gone"
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "training.json").write_text(json.dumps({"base_model": "a/b"}))
    assert base_name(str(tmp_path / "mine")) == "mine, which began from a/b"


def test_the_licence_of_the_base_carries_over(tmp_path: Path) -> None:
    assert licence_of("random weights, seed 0", sd15=True) == "other"
    assert licence_of("runwayml/stable-diffusion-v1-5", sd15=True) == "creativeml-openrail-m"
    (tmp_path / "base").mkdir()
    assert licence_of(str(tmp_path / "base"), sd15=True) == "creativeml-openrail-m"
    assert licence_of(str(tmp_path / "base"), sd15=False) == "other"
    (tmp_path / "base" / "README.md").write_text("---\nlicense: apache-2.0\n---\n")
    assert licence_of(str(tmp_path / "base"), sd15=True) == "apache-2.0"
    (tmp_path / "run" / "final").mkdir(parents=True)
    base = {"source": "random weights, seed 4", "fingerprints": {}}
    manifest = {"base_model": base, "dataset": {"fingerprint": ""}}
    (tmp_path / "run" / "manifest.json").write_text(json.dumps(manifest))
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
