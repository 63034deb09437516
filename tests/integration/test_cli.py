import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from support.nano import train_arguments, write_dataset
from support.processes import start_command

from riffusion_train import __version__
from riffusion_train.cli.main import VERBS, main
from riffusion_train.runtime.errors import EXIT_DONE, EXIT_INPUT

ROOT = Path(__file__).parents[2]


def run(*words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "riffusion_train", *words]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


WITHOUT_TORCH = [
    ["--help"],
    ["train", "--help"],
    ["train", "dataset=d", "modle=tiny"],
    ["train", "dataset=nowhere"],
    ["train", "dataset=memory://bucket/dataset"],
    ["train", "dataset=d", "run=s3://bucket/run"],
    ["train", "--multirun", "dataset=nowhere", "seed=0,1"],
]


def test_help_and_config_errors_do_not_import_torch() -> None:
    code = f"""if True:
        import sys
        from riffusion_train.cli.main import main
        for words in {WITHOUT_TORCH!r}:
            main(words)
            assert "torch" not in sys.modules, words"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (["dataset=nowhere"], "nowhere: no such dataset folder; make it with"),
        (
            ["dataset=memory://bucket/dataset"],
            "dataset=memory://bucket/dataset: it has no stats.json; give the address",
        ),
        (["dataset=d", "run=s3://bucket/run"], "run=s3://bucket/run: is a URL"),
        (["dataset=nowhere", "check=true"], "nowhere: no such dataset folder"),
        (["dataset=nowhere", "--multirun", "seed=0,1"], "nowhere: no such dataset folder"),
    ],
)
def test_folders_that_cannot_be_used_are_refused_and_nothing_is_made(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    words: list[str],
    problem: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["train", *words]) == EXIT_INPUT
    assert problem in capsys.readouterr().err
    assert not any(tmp_path.iterdir())


def test_help_lists_every_verb_and_every_verb_has_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == EXIT_DONE
    shown = capsys.readouterr().out
    assert all(verb in shown for verb in VERBS)
    for verb in VERBS:
        assert main([verb, "--help"]) == EXIT_DONE
        assert f"usage: riffusion {verb}" in capsys.readouterr().out


def test_the_help_of_a_key_says_what_it_means(capsys: pytest.CaptureFixture[str]) -> None:
    main(["train", "--help"])
    shown = capsys.readouterr().out
    assert "method=distill|full|lora|vae" in shown
    assert "objective.snr_gamma=null\n      Min-SNR weighting" in shown


def test_the_version_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == EXIT_DONE
    assert capsys.readouterr().out == f"riffusion-train {__version__}\n"


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        ([], ""),
        (["trian"], "unknown verb 'trian'; choose from: prepare, train"),
        (["train", "dataset=nowhere"], "nowhere: no such dataset folder"),
        (["export", "run=nowhere", "out=o"], "nowhere: not a run folder"),
    ],
)
def test_wrong_arguments_are_one_line_and_exit_code_two(
    words: list[str], complaint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words) == EXIT_INPUT
    message = capsys.readouterr().err
    assert complaint in message
    assert message.count("\n") <= 1


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["sample", "nowhere", "--prompt", "a", "out=o"], "nowhere: no such file or folder, and not a hub id"),
        (["sample", "user/model", "out=o"], "no prompt: give --prompt TEXT"),
        (["sample", "user/model", "out=o", "--prompt", "a", "mode=long", "duration=soon"], "is no time"),
        (["sample", "user/model", "out=o", "--prompt", "a", "num_variations=0"], "must be at least 1"),
        (["sample", "user/model", "out=o", "--prompt", "a", "duration=3"], "duration= goes with mode="),
        (["evaluate", "grid", "nowhere", "--prompt", "a", "out=o"], "nowhere: no such file or folder"),
        (["evaluate", "grid", "user/model", "--prompt", "a", "out=o", "seeds=x"], "is no seed"),
        (["import", "nowhere", "out=o"], "nowhere: no such file or folder"),
        (["export", "run=nowhere", "out=o"], "nowhere: not a run folder"),
        (["play", "nowhere"], "nowhere: no such file or folder"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_what_is_wrong_is_said_before_torch_is_imported(
    words: list[str],
    complaint: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    _forbid_torch(monkeypatch)
    assert main(words) == EXIT_INPUT
    assert complaint in capsys.readouterr().err


def test_the_end_of_a_command_names_its_files_and_the_next_step(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_folder, model = tmp_path / "my run", tmp_path / "model"
    assert (
        main(["train", *train_arguments(write_dataset(tmp_path / "d"), run_folder, "max_train_steps=1")]) == EXIT_DONE
    )
    shown = capsys.readouterr().out.splitlines()
    assert shown[-2:] == [
        f"trained: {run_folder}; its model is in {run_folder / 'final'}",
        f"next: riffusion export run='{run_folder}' out=model",
    ]
    assert main(["export", f"run={run_folder}", f"out={model}"]) == EXIT_DONE
    assert capsys.readouterr().out.splitlines()[-1] == f"next: riffusion sample {model} --prompt TEXT out=clips"
    lora = tmp_path / "style.safetensors"
    assert main(["import", str(model), f"out={lora}", "format=single_file"]) == EXIT_DONE
    assert capsys.readouterr().out.splitlines()[-1] == f"next: riffusion sample {lora} --prompt TEXT out=clips"


URL = "s3://bucket/x"


@pytest.mark.parametrize(
    "words",
    [
        ["sample", "m", "--prompt", "a", f"out={URL}"],
        ["sample", "m", "--prompt", "a", "out=o", "mode=audio", "--audio", URL],
        ["sample", URL, "--prompt", "a", "out=o"],
        ["sample", "seeds", URL],
        ["evaluate", "grid", "m", "--prompt", "a", f"out={URL}"],
        ["export", "run=r", f"out={URL}"],
        ["export", f"run={URL}", "out=o"],
        ["import", "m", f"out={URL}"],
        ["import", URL, "out=o"],
        ["demo", f"out={URL}"],
        ["play", URL],
        ["doctor", URL],
        ["prepare", "merge", "part", f"out={URL}"],
        ["spectrogram", "encode", "a.wav", URL],
        ["train", "-m", "dataset=d", "seed=0,1", f"run={URL}"],
    ],
    ids=lambda words: " ".join(words),
)
def test_a_url_where_only_folders_work_is_refused_at_once(
    words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    _forbid_torch(monkeypatch)
    assert main(words) == EXIT_INPUT
    assert f"{URL}: is a URL, and only a file or folder of this machine works here" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("words", ["train --help", "--help"])
def test_a_reader_that_leaves_early_is_no_fault(words: str) -> None:
    # With `true` the pipe is closed before anything is written.
    reader = "head -1" if words != "--help" else "true"
    command = f"(sleep 0.2; exec {sys.executable} -m riffusion_train {words}) | {reader}; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_full_disk_is_one_line_and_leaves_the_last_checkpoint(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", disk], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("a small file system cannot be mounted here")
    try:
        words = train_arguments(
            write_dataset(tmp_path / "dataset"), disk / "run", "max_train_steps=16", "checkpointing_steps=1"
        )
        words += ["method.train_text_encoder=true"]
        first = start_command(["train", *words, "checkpoints_total_limit=5"], tmp_path / "first")
        first.join(120)
        assert first.exitcode == EXIT_INPUT, (tmp_path / "first").read_text()
        assert "no space left on the disk" in (tmp_path / "first").read_text().splitlines()[-1]
        whole = sorted(path.name for path in (disk / "run" / "checkpoints").glob("step-*"))
        assert whole
        subprocess.run(["mount", "-o", "remount,size=200m", disk], check=True)
        again = start_command(["train", *words, "checkpoints_total_limit=2", "resume=auto"], tmp_path / "again")
        again.join(120)
        assert again.exitcode == EXIT_DONE, (tmp_path / "again").read_text()
    finally:
        subprocess.run(["umount", disk], check=True)


def test_the_wheel_holds_presets_page_vocabulary_and_taggers(tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", tmp_path], cwd=ROOT, check=True)
    names = zipfile.ZipFile(next(tmp_path.glob("*.whl"))).namelist()
    presets = [path.relative_to(ROOT) for path in (ROOT / "conf").rglob("*.yaml")]
    assert {f"riffusion_train/{preset}" for preset in presets} <= set(names)
    assert "riffusion_train/demo/static/page.html" in names
    assert {"riffusion_train/player/static/page.html", "riffusion_train/player/static/worklet.js"} <= set(names)
    assert "riffusion_train/runtime/vocabulary/bpe_simple_vocab_16e6.txt.gz" in names
    weights = [f"riffusion_train/listening/weights/{name}" for name in ("musicnn_mtt.safetensors", "LICENSE")]
    assert {*weights, "riffusion_train/listening/weights/musicnn_msd.safetensors"} <= set(names)
    assert any(name.endswith("licenses/riffusion_train/listening/weights/LICENSE") for name in names)
    assert "riffusion_train/py.typed" in names
    assert not [name for name in names if name.startswith("tests")]


def test_help_answers_within_a_second() -> None:
    """Of one core: what else the machine does is not measured."""

    def core_seconds() -> float:
        before = os.times()
        assert run("--help").returncode == EXIT_DONE
        after = os.times()
        return after.children_user + after.children_system - before.children_user - before.children_system

    assert any(core_seconds() < 1.0 for _ in range(5))


def _forbid_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the modules that import torch fail to import."""
    for module in ("riffusion_train.sampling.modes", "riffusion_train.sampling.sampler", "diffusers"):
        monkeypatch.setitem(sys.modules, module, None)
