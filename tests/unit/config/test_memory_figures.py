"""The memory of each preset is stated in several texts; the table in docs/training.md decides."""

import re
from pathlib import Path

import pytest

from riffusion_train.config.compose import compose, conf_dir
from riffusion_train.config.train import MethodName, TrainConfig

ROOT = Path(__file__).parents[3]
GUIDE = ROOT / "docs" / "training.md"
PRESETS = ("sd15_lora_8gb", "sd15_lora_12gb", "sd15_full", "riffusion_v1_continue")

# The parts that docs/training.md lists, in GiB.
FP32_WEIGHTS = 3.5
TRAINED = {MethodName.full: 12.8, MethodName.lora: 0.1}
COPIES = {MethodName.full: 1.6, MethodName.lora: 1.5}
ACTIVATIONS_PER_IMAGE = {MethodName.full: 1.16, MethodName.lora: 1.06}
CHECKPOINTED_ACTIVATIONS_PER_IMAGE = 0.17
CUDA = 0.7


def figures(text: str) -> list[float]:
    return [float(figure) for figure in re.findall(r"(\d+(?:\.\d+)?) GiB", text)]


def stated(text: str, preset: str) -> list[float]:
    """Every figure on a line that names the preset; such a line names no other one."""
    lines = [line for line in text.splitlines() if re.search(rf"\b{preset}\b", line) and figures(line)]
    for line in lines:
        assert not [other for other in PRESETS if other != preset and re.search(rf"\b{other}\b", line)], line
    return [figure for line in lines for figure in figures(line)]


def table(preset: str) -> list[float]:
    (row,) = re.findall(rf"^\| `{preset}` \|.*$", GUIDE.read_text(encoding="utf-8"), re.MULTILINE)
    return figures(row.split("|")[3])


def estimate(config: TrainConfig, *, gradient_checkpointing: bool) -> float:
    method = config.method.name
    per_image = CHECKPOINTED_ACTIVATIONS_PER_IMAGE if gradient_checkpointing else ACTIVATIONS_PER_IMAGE[method]
    total = FP32_WEIGHTS + TRAINED[method] + COPIES[method] + config.train_batch_size * per_image + CUDA
    return float(f"{total:.2g}")


@pytest.mark.parametrize("preset", PRESETS)
def test_the_table_holds_the_sum_of_the_parts(preset: str) -> None:
    config = compose("train", TrainConfig, ["dataset=d", f"experiment={preset}"])
    first, *others = table(preset)
    assert first == estimate(config, gradient_checkpointing=config.gradient_checkpointing)
    assert set(others) <= {estimate(config, gradient_checkpointing=False)}


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("text", ["README.md", "docs/training.md"])
def test_a_text_states_the_memory_that_the_table_states(text: str, preset: str) -> None:
    assert set(stated((ROOT / text).read_text(encoding="utf-8"), preset)) <= set(table(preset))


@pytest.mark.parametrize("preset", PRESETS)
def test_a_preset_states_the_memory_that_the_table_states(preset: str) -> None:
    lines = (conf_dir() / "experiment" / f"{preset}.yaml").read_text(encoding="utf-8").splitlines()
    comments = " ".join(line for line in lines if line.startswith("#"))
    assert figures(comments)
    assert set(figures(comments)) <= set(table(preset))


@pytest.mark.parametrize("preset", ["sd15_lora_8gb", "sd15_lora_12gb", "sd15_full"])
def test_the_readme_states_the_memory_of_a_preset(preset: str) -> None:
    assert stated((ROOT / "README.md").read_text(encoding="utf-8"), preset)
