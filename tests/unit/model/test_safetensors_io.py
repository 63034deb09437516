import weakref
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from riffusion_train.model.weights import LazyTensor, in_memory, open_tensors, write_tensors
from riffusion_train.runtime.errors import InputError

TENSORS = {
    "matrix": torch.randn(3, 5),
    "half": torch.randn(7).half(),
    "brain": torch.randn(2, 2, 2).bfloat16(),
    "ids": torch.arange(77)[None],
    "alpha": torch.tensor(16.0),
    "transposed": torch.randn(4, 6).t(),
    "empty": torch.zeros(0, 3),
}


def test_safetensors_itself_reads_back_every_value(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    write_tensors(path, {name: in_memory(tensor) for name, tensor in TENSORS.items()}, metadata={"codec": "é"})
    read = load_file(path)
    assert set(read) == set(TENSORS)
    for name, tensor in TENSORS.items():
        assert read[name].dtype == tensor.dtype
        assert torch.equal(read[name], tensor)
    with safe_open(path, framework="pt") as file:
        assert file.metadata() == {"codec": "é"}


def test_only_floating_point_numbers_are_converted(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    write_tensors(path, {name: in_memory(tensor) for name, tensor in TENSORS.items()}, dtype=torch.bfloat16)
    read = load_file(path)
    assert {tensor.dtype for name, tensor in read.items() if name != "ids"} == {torch.bfloat16}
    assert read["ids"].dtype == torch.int64
    assert torch.equal(read["matrix"], TENSORS["matrix"].bfloat16())


def test_tensors_are_read_one_after_the_other(tmp_path: Path) -> None:
    read: list[weakref.ref[torch.Tensor]] = []
    alive = []

    def load() -> torch.Tensor:
        tensor = torch.ones(8)
        read.append(weakref.ref(tensor))
        alive.append(sum(reference() is not None for reference in read))
        return tensor

    write_tensors(tmp_path / "a.safetensors", {str(i): LazyTensor((8,), torch.float32, load) for i in range(6)})
    assert len(read) == 6
    assert max(alive) <= 2


def test_a_weight_too_large_for_half_precision_is_refused_and_nothing_is_left(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    with pytest.raises(InputError, match=r"the weight big is too large .* dtype=bf16"):
        write_tensors(path, {"big": in_memory(torch.tensor([1e6]))}, dtype=torch.float16)
    assert not path.exists()


def test_damaged_files_are_one_line(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    save_file({"a": torch.zeros(100)}, path)
    whole = path.read_bytes()
    torch.save({"a": torch.zeros(2)}, tmp_path / "pickle.safetensors")
    for content, complaint in (
        (whole[:-1], "not a whole safetensors file"),
        (whole[:20], "not a whole safetensors file"),
        (b"", "not a whole safetensors file"),
        ((tmp_path / "pickle.safetensors").read_bytes(), "it is a pickle under that name"),
    ):
        path.write_bytes(content)
        with pytest.raises(InputError, match=complaint) as error:
            open_tensors(path)
        assert "\n" not in str(error.value)
