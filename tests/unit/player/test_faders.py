import json
from pathlib import Path

import pytest
from support.models import nano_components, nano_lora
from support.sampling import write_nano_model

from riffusion_train.model.diffusers_folder import SUMMARY_KEY
from riffusion_train.model.lora import write_kohya_lora
from riffusion_train.player.faders import distilled_among, load_faders
from riffusion_train.runtime.errors import InputError


def write_lora(path: Path, summary: dict[str, object]) -> Path:
    write_kohya_lora(path, nano_lora(nano_components()), extra={SUMMARY_KEY: json.dumps(summary)})
    return path


def test_lora_files_become_faders_with_their_strengths_under_their_names(tmp_path: Path):
    file = write_lora(tmp_path / "dub.safetensors", {"dataset_fingerprint": "abc"})
    faders = load_faders(nano_components(), [f"{file}:0.5", str(file)])
    assert [(one.name, one.scale) for one in faders.loras] == [("dub", 0.5), ("dub-2", 1.0)]
    assert faders.datasets == ["abc", "abc"]
    faders.check(["dub", "dub-2"])
    with pytest.raises(InputError, match="no LoRA 'jazz'; choose from: dub, dub-2"):
        faders.check(["jazz"])


def test_a_lora_that_is_not_there_is_named(tmp_path: Path):
    with pytest.raises(InputError, match="no such file"):
        load_faders(nano_components(), [str(tmp_path / "nothing.safetensors")])
    assert load_faders(nano_components(), []) is None


def test_a_distilled_lora_is_to_be_merged(tmp_path: Path):
    model = write_nano_model(tmp_path / "model")
    plain = str(write_lora(tmp_path / "plain.safetensors", {}))
    distilled = str(
        write_lora(tmp_path / "quick.safetensors", {"sampling": {"scheduler": "lcm", "num_inference_steps": 4}})
    )
    assert distilled_among(str(model), [plain, f"{distilled}:0.8"]) == [f"{distilled}:0.8"]
