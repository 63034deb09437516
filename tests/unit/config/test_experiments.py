import re
from pathlib import Path

import pytest

from riffusion_train.config.compose import compose, conf_dir, group_options
from riffusion_train.config.train import MethodName, MixedPrecision, TrainConfig

OFFERED = (
    *("sd15_full", "sd15_vae_decoder", "sd15_lora_12gb", "sd15_lora_8gb", "riffusion_v1_continue", "tiny_cpu"),
    *("laptop_finetune", "laptop_lora"),
)
ROOT = Path(__file__).parents[3]


def comment(name: str) -> str:
    lines = (conf_dir() / "experiment" / f"{name}.yaml").read_text().splitlines()
    return " ".join(line.lstrip("# ") for line in lines if line.startswith("#"))


@pytest.mark.parametrize("name", OFFERED)
def test_a_preset_says_its_memory_and_time_and_how_it_is_known(name: str) -> None:
    for what, unit in (("Memory", r"(GiB|GB)"), ("Time", r"(minutes?|hours?|seconds?)")):
        assert re.search(rf"{what} \((measured|estimated)[^)]*\): [^.]*\d.*{unit}", comment(name)), comment(name)


@pytest.mark.parametrize("name", OFFERED)
def test_the_guide_lists_every_preset(name: str) -> None:
    assert f"| `{name}` |" in (ROOT / "docs" / "training.md").read_text()


def test_every_preset_that_a_text_names_is_there() -> None:
    texts = [ROOT / "README.md", *(ROOT / "docs").glob("*.md"), *(ROOT / "launch").iterdir()]
    named = {name for text in texts for name in re.findall(r"experiment=(\w+)", text.read_text())}
    assert named <= set(group_options("experiment")), named


def test_presets_are_what_their_names_say() -> None:
    config = {name: compose("train", TrainConfig, ["dataset=d", f"experiment={name}"]) for name in OFFERED}
    assert config["sd15_full"].method.name is MethodName.full
    assert config["riffusion_v1_continue"].model.path == "riffusion/riffusion-model-v1"
    assert config["tiny_cpu"].mixed_precision is MixedPrecision.no
    larger, smaller = config["sd15_lora_12gb"], config["sd15_lora_8gb"]
    assert larger.method.name is smaller.method.name is MethodName.lora
    assert not larger.gradient_checkpointing and smaller.gradient_checkpointing
    # The same steps are made of smaller passes.
    assert larger.train_batch_size == smaller.train_batch_size * smaller.gradient_accumulation_steps
