import subprocess
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from support.models import nano_components

from riffusion_train.cli.main import main
from riffusion_train.model.diffusers_folder import write_model
from riffusion_train.model.weights import as_lazy_model
from riffusion_train.runtime.errors import EXIT_DONE, EXIT_INPUT


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model") / "model"
    write_model(path, as_lazy_model(nano_components()))
    return path


def test_a_model_goes_to_a_single_file_that_doctor_describes(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "m.safetensors"
    assert main(["import", str(model), f"out={file}", "format=single_file", "dtype=bf16"]) == EXIT_DONE
    assert main(["doctor", str(file)]) == EXIT_DONE
    shown = capsys.readouterr().out
    assert "one file in the LDM layout" in shown
    assert "bfloat16" in shown
    assert "sampler  yes" in shown


def test_doctor_alone_describes_this_machine(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor"]) == EXIT_DONE
    shown = capsys.readouterr().out
    assert "diffusers" in shown
    assert "what to change:" in shown


def test_bad_input_is_one_line_exit_code_two_and_nothing_half_written(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    good = tmp_path / "good.safetensors"
    assert main(["import", str(model), f"out={good}", "format=single_file"]) == EXIT_DONE
    (tmp_path / "cut.safetensors").write_bytes(good.read_bytes()[:-100])
    torch.save({"a": torch.zeros(1)}, tmp_path / "pickle.safetensors")
    torch.save({"a": torch.zeros(1)}, tmp_path / "model.ckpt")
    save_file({"conditioner.embedders.0.x": torch.zeros(1)}, tmp_path / "xl.safetensors")
    save_file({"cond_stage_model.model.x": torch.zeros(1)}, tmp_path / "sd2.safetensors")
    adapter = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn2_to_k"
    save_file(
        {f"{adapter}.lora_down.weight": torch.zeros(2, 2048), f"{adapter}.lora_up.weight": torch.zeros(16, 2)},
        tmp_path / "lora.safetensors",
    )
    before = sorted(tmp_path.iterdir())
    capsys.readouterr()
    for words, complaint in (
        (["cut.safetensors"], "not a whole safetensors file"),
        (["pickle.safetensors"], "a pickle under that name"),
        (["model.ckpt"], "allow_pickle=true"),
        (["xl.safetensors"], "this is Stable Diffusion XL"),
        (["sd2.safetensors"], "this is Stable Diffusion 2.x"),
        (["lora.safetensors", f"base={model}"], "was trained on another base"),
    ):
        assert main(["import", str(tmp_path / words[0]), f"out={tmp_path / 'deep' / 'out'}", *words[1:]]) == EXIT_INPUT
        message = capsys.readouterr().err
        assert complaint in message
        assert message.count("\n") == 1
    assert main(["import", str(model), f"out={good}", "format=single_file"]) == EXIT_INPUT
    assert "exists already" in capsys.readouterr().err
    assert sorted(tmp_path.iterdir()) == before


def test_a_full_disk_is_one_line_and_leaves_nothing(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    small = ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", disk]
    if subprocess.run(small, capture_output=True, check=False).returncode:
        pytest.skip("a small file system cannot be mounted here")
    try:
        for words in ([f"out={disk / 'm'}"], [f"out={disk / 'm.safetensors'}", "format=single_file"]):
            assert main(["import", str(model), *words]) == EXIT_INPUT
            message = capsys.readouterr().err
            assert "no space left on the disk" in message
            assert message.count("\n") == 1
            assert not list(disk.iterdir())
    finally:
        subprocess.run(["umount", disk], check=True)
