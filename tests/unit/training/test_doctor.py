from pathlib import Path

import pytest
import torch

from riffusion_train.training import doctor
from riffusion_train.training.doctor import examine, storage_folders, trains_in


def test_the_machine_is_described_with_what_works_on_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "compiled"))
    rows = examine().rows
    assert {"torch", "peft", "machine", "torchaudio", "bitsandbytes", "ray", "disk here", "hub cache"} <= rows.keys()
    assert "LoRA" in rows["peft"]
    assert "filter banks" in rows["torchaudio"]
    assert rows["compile cache"].startswith(str(tmp_path / "compiled"))
    assert "HF_HUB_OFFLINE" in rows["hub"]


def test_an_extension_that_cannot_load_comes_with_the_command_that_fixes_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "extension_error", lambda: "libcudart.so.13: cannot open shared object file")
    monkeypatch.setattr(torch.version, "cuda", None)
    found = examine()
    assert "its extension is for another build than torch" in found.rows["torchaudio"]
    assert any("torch torchaudio --index-url https://download.pytorch.org/whl/cpu" in fix for fix in found.fixes)
    monkeypatch.setattr(torch.version, "cuda", "12.8")
    assert any("pytorch.org/whl/cu128" in fix for fix in examine().fixes)
    monkeypatch.setattr(doctor, "extension_error", lambda: None)
    assert not any("torchaudio" in fix for fix in examine().fixes)


@pytest.mark.skipif(torch.accelerator.is_available(), reason="there is a GPU")
def test_without_a_gpu_it_says_what_trains_here_all_the_same() -> None:
    found = examine()
    assert found.rows["cpu"] == "the only device, trains in fp32, bf16"
    assert any("experiment=tiny_cpu" in fix or "CUDA build of torch" in fix for fix in found.fixes)


def test_a_full_disk_is_something_to_change(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "_free_gib", lambda path: 3.0)
    assert sum("3 GiB free" in fix for fix in examine().fixes) == len(storage_folders())


def test_a_package_that_is_missing_comes_with_the_command_that_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    found = examine()
    rows = found.rows
    assert rows["trackio"] == "not installed; for tracker=trackio: pip install trackio"
    assert rows["bitsandbytes"].endswith("pip install bitsandbytes")
    assert found.lines()[-len(found.fixes) - 1] == "what to change:"


def test_a_dtype_is_tried_and_not_looked_up(monkeypatch: pytest.MonkeyPatch) -> None:
    cpu = torch.device("cpu")
    assert trains_in(cpu, torch.float32)
    assert trains_in(cpu, torch.bfloat16)

    def missing(*tensors: torch.Tensor) -> torch.Tensor:
        raise RuntimeError("not implemented for 'BFloat16'")

    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", missing)
    assert not trains_in(cpu, torch.bfloat16)
