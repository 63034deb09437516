"""A compiled objective is one graph without breaks, which every later step uses, whatever its batch holds."""

from pathlib import Path

import pytest
import torch
from support.nano import train_config, write_dataset
from torch._dynamo.testing import CompileCounter
from torch._dynamo.utils import counters

from riffusion_train.config.compose import compose
from riffusion_train.config.train import TrainConfig
from riffusion_train.model.loading import make_components
from riffusion_train.runtime.errors import InputError
from riffusion_train.training.method import make_method
from riffusion_train.training.run import TrainingJob, build_job, start_run

WORDS = ["max_train_steps=10", "schedule=constant", "mixed_precision=bf16", "logging_steps=100", "train_batch_size=2"]


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_dataset(tmp_path_factory.mktemp("data") / "dataset")


def train_compiled(dataset: Path, run: Path, *words: str) -> tuple[TrainingJob, CompileCounter]:
    """Train ten steps with a backend that runs a graph as it is, and counts the graphs."""
    torch.compiler.reset()
    counters.clear()
    config = train_config(dataset, run, *WORDS, *words)
    job = build_job(config, [], *start_run(config))
    counter = CompileCounter()
    job.method.compile(job.learning.objective, job.components, backend=counter)
    job.trainer().train()
    return job, counter


@pytest.mark.parametrize(
    "words",
    [
        ["validation.every_steps=5", "objective=min_snr"],
        ["cache_latents=false", "cache_text_embeddings=false", "objective=zero_snr", "gradient_checkpointing=true"],
        ["method=lora", "method.train_text_encoder=true", "method.lora_rank=2"],
        ["method=vae", "method.train_vae_encoder=true", "method.perceptual_weight=0.5"],
        ["method=distill", "method.distill_guidance=[2,8]"],
    ],
    ids=lambda words: " ".join(words),
)
def test_ten_steps_of_other_content_use_one_graph(dataset: Path, tmp_path: Path, words: list[str]) -> None:
    _, counter = train_compiled(dataset, tmp_path / "run", "compile=true", *words)
    assert counter.frame_count == 1
    assert not counters["graph_break"]
    assert counter.op_count > 100


def test_regions_of_the_same_shapes_share_a_graph(dataset: Path, tmp_path: Path) -> None:
    job, counter = train_compiled(dataset, tmp_path / "run", "compile_regions=true", "model.unet_layers_per_block=3")
    blocks = [one for one in job.components.unet.modules() if type(one).__name__ == "ResnetBlock2D"]
    assert 2 <= counter.frame_count < len(blocks)
    assert not counters["graph_break"]


def test_the_38_blocks_of_stable_diffusion_at_its_true_size_are_19_graphs() -> None:
    torch.compiler.reset()
    counters.clear()
    config = compose("train", TrainConfig, ["dataset=none", "model=sd15_random", "compile_regions=true"])
    with torch.device("meta"):  # shapes without numbers
        components = make_components(config.model, seed=0)
        inputs = torch.empty(2, 4, 64, 64), torch.zeros(2, dtype=torch.long), torch.empty(2, 77, 768)
    unet, counter = components.unet.train(), CompileCounter()
    make_method(config).compile(unet, components, backend=counter)
    unet(*inputs)
    assert sum(module._compiled_call_impl is not None for module in unet.modules()) == 38
    assert counter.frame_count == 19
    assert not counters["graph_break"]


def test_a_compiled_run_ends_in_the_weights_of_a_plain_one(dataset: Path, tmp_path: Path) -> None:
    ends = []
    for words in (["compile=true"], ["compile=false"]):
        job, _ = train_compiled(dataset, tmp_path / words[0], "mixed_precision=no", "max_train_steps=3", *words)
        ends.append([weight.detach().clone() for weight in trained(job)])
    for one, other in zip(*ends, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


def trained(job: TrainingJob) -> list[torch.nn.Parameter]:
    return [weight for group in job.learning.optimizer.param_groups for weight in group["params"]]


def test_what_cannot_be_compiled_is_refused(dataset: Path, tmp_path: Path) -> None:
    for words in (["compile_regions=true"], ["method=vae", "method.discriminator_weight=0.5"]):
        with pytest.raises(InputError, match="take compile=false"):
            start_run(train_config(dataset, tmp_path / "run", *WORDS, "compile=true", *words))
