import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from riffusion_train.cli.completion import candidates
from riffusion_train.cli.main import VERBS, main
from riffusion_train.cli.train import SWEEP_FLAGS, _sweep_parser
from riffusion_train.runtime.errors import EXIT_DONE, EXIT_INPUT


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("riffusion tr", ["train"]),
        ("riffusion completion ", ["--help", "bash", "fish", "zsh"]),
        ("riffusion evaluate ", ["--help", "grid", "run", "score"]),
        ("riffusion spectrogram de", ["decode"]),
        ("riffusion train optimizer.l", ["optimizer.lr="]),
        ("riffusion train dataset='a b' method=", ["method=distill", "method=full", "method=lora", "method=vae"]),
        ("riffusion train experiment=sd15_lora", ["experiment=sd15_lora_12gb", "experiment=sd15_lora_8gb"]),
        ("riffusion train ++mixed_precision=f", ["++mixed_precision=fp16"]),
        ("riffusion train check=t", ["check=true"]),
        ("riffusion train --multi", ["--multirun"]),
        ("riffusion train --sweeper ", []),
        ("riffusion train --cfg ", ["job"]),
        ("riffusion sample m --prompt 'half a pro", []),
        ("riffusion sample m --prompt ", []),
        ("riffusion sample m mode=lo", ["mode=long", "mode=loop"]),
        ("riffusion sample seeds f pre", ["preset="]),
        ("riffusion sample m out=cl", []),
        ("riffusion evaluate grid m --neg", ["--negative"]),
        ("riffusion import m format=l", ["format=lora"]),
        ("riffusion spectrogram decode a.png quality=", ["quality=best", "quality=draft", "quality=normal"]),
        ("riffusion nonsense ", []),
    ],
)
def test_what_can_stand_at_the_end_of_the_line(line: str, found: list[str]) -> None:
    assert candidates(line) == found


def test_every_verb_is_completed() -> None:
    assert set(VERBS) < set(candidates("riffusion "))
    for verb in VERBS:
        assert verb == "doctor" or candidates(f"riffusion {verb} ")


def test_presets_of_ones_own_are_completed(tmp_path: Path) -> None:
    (tmp_path / "optimizer").mkdir()
    (tmp_path / "optimizer" / "mine.yaml").touch()
    assert candidates(f"riffusion train --config-dir {tmp_path} optimizer=m") == ["optimizer=mine"]


def test_the_flags_of_a_sweep_are_those_of_its_parser() -> None:
    assert {f for f in _sweep_parser()._option_string_actions if f.startswith("--")} == set(SWEEP_FLAGS)


def test_completing_does_not_import_torch() -> None:
    code = """if True:
        import sys
        from riffusion_train.cli.main import VERBS, main
        for verb in VERBS:
            main(["completion", "line", f"riffusion {verb} "])
        sys.exit("torch" in sys.modules)"""
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, timeout=60, check=False).returncode == 0


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_a_script_is_printed_that_the_shell_can_read(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["completion", shell]) == EXIT_DONE
    script = capsys.readouterr().out
    assert "riffusion completion line" in script
    if shutil.which(shell):
        checked = subprocess.run([shell, "-n"], input=script, text=True, capture_output=True, check=False)
        assert (checked.returncode, checked.stderr) == (0, "")


def test_another_shell_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["completion", "ksh"]) == EXIT_INPUT
    assert "shell=ksh is unknown; choose from: bash, zsh, fish" in capsys.readouterr().err


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
@pytest.mark.parametrize(
    ("line", "replies"),
    [
        ("riffusion pla", "play\n"),
        ("riffusion train optimizer=adamw_", "adamw_8bit\n"),
        ("riffusion train optimizer.weight", "optimizer.weight_decay=\n"),
    ],
)
def test_bash_completes(tmp_path: Path, line: str, replies: str) -> None:
    command = tmp_path / "riffusion"
    command.write_text(f'#!/bin/sh\nexec {sys.executable} -m riffusion_train "$@"\n')
    command.chmod(0o755)
    script = f"""eval "$(riffusion completion bash)"
        compopt() {{ :; }}
        COMP_LINE='{line}' COMP_POINT={len(line)} _riffusion; printf '%s\\n' "${{COMPREPLY[@]}}" """
    root = str(Path(__file__).parents[3])
    environment = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}", "PYTHONPATH": root}
    done = subprocess.run(["bash", "-c", script], env=environment, capture_output=True, text=True, check=False)
    assert done.stdout == replies
