"""Convert SD 1.5 at full size to a single file and back: `python real_size.py FOLDER` prints figures as JSON."""

import dataclasses
import filecmp
import json
import math
import sys
import time
from pathlib import Path

import torch

from riffusion_train.config.model import ModelConfig, ModelName
from riffusion_train.config.spectrogram import load_preset
from riffusion_train.model.components import build_tokenizer
from riffusion_train.model.diffusers_folder import write_model
from riffusion_train.model.loading import make_components, open_model
from riffusion_train.model.single_file import open_single_file, write_single_file
from riffusion_train.model.weights import LazyModel, LazyTensor, open_tensors
from riffusion_train.training.tracking import peak_memory_bytes

_NOISE = 1_000_003
"""Number of random values; a prime, so that no two rows of a weight are equal."""


def random_model() -> LazyModel:
    """Return SD 1.5 with random half-precision weights that are made when they are read."""
    with torch.device("meta"):
        skeleton = make_components(ModelConfig(name=ModelName.random), seed=0)
    skeleton = dataclasses.replace(skeleton, tokenizer=build_tokenizer(), spectrogram=load_preset("riffusion_v1"))

    noise = torch.rand(_NOISE, generator=torch.Generator().manual_seed(0)).half()

    def random_tensor(shape: tuple[int, ...], index: int) -> LazyTensor:
        size = math.prod(shape)
        return LazyTensor(
            shape, torch.float16, lambda: noise.roll(index).repeat(-(-size // _NOISE))[:size].reshape(shape)
        )

    tensors = {
        part: {
            name: random_tensor(tuple(weight.shape), index)
            for index, (name, weight) in enumerate(module.state_dict().items())
        }
        for part, module in skeleton.modules.items()
    }
    return LazyModel(skeleton, tensors)


def main(folder: Path) -> dict[str, object]:
    """Write the model, convert it there and back, and compare the files byte by byte."""
    start, cpu_start = time.perf_counter(), time.process_time()
    write_model(folder / "before", random_model())
    written, cpu_written = time.perf_counter(), time.process_time()
    write_single_file(folder / "model.safetensors", open_model(str(folder / "before")))
    write_model(folder / "after", open_single_file(folder / "model.safetensors"))
    done, cpu_done = time.perf_counter(), time.process_time()
    weights = sorted(path.relative_to(folder / "before") for path in (folder / "before").rglob("*.safetensors"))
    tensors, _ = open_tensors(folder / "model.safetensors")
    return {
        "seconds": round(done - start, 1),
        "conversion_seconds": round(done - written, 1),
        "cpu_seconds": round(cpu_done - cpu_start, 1),
        "conversion_cpu_seconds": round(cpu_done - cpu_written, 1),
        "peak_gib": round(peak_memory_bytes(torch.device("cpu")) / 2**30, 2),
        "file_bytes": (folder / "model.safetensors").stat().st_size,
        "keys": sorted(tensors),
        "identical": [
            filecmp.cmp(folder / "before" / path, folder / "after" / path, shallow=False) for path in weights
        ],
    }


if __name__ == "__main__":
    print(json.dumps(main(Path(sys.argv[1]))))
