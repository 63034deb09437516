import json
import re
import shlex
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.nano import train_config, write_dataset
from support.sampling import write_model_without_codec

from riffusion_train.audio.read import read_audio
from riffusion_train.cli.main import main
from riffusion_train.export.write import export_run
from riffusion_train.runtime.errors import EXIT_DONE, EXIT_INPUT
from riffusion_train.training.run import run_training

QUICK = ["num_inference_steps=1", "device=cpu"]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of four steps with checkpoints at 2 and 4, and its model."""
    folder = tmp_path_factory.mktemp("grid")
    arguments = ["max_train_steps=4", "checkpointing_steps=2"]
    run = run_training(train_config(write_dataset(folder / "dataset"), folder / "run", *arguments), [])
    export_run(run, folder / "model")
    return folder


def evaluate(*arguments: str) -> int:
    return main(["evaluate", "grid", *arguments, *QUICK])


def site(folder: Path) -> Any:
    return json.loads((folder / "site.json").read_text(encoding="utf-8"))


def names(folder: Path) -> list[str]:
    return [version["name"] for version in site(folder)["versions"]]


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    capsys.readouterr()
    assert evaluate(*arguments) == EXIT_INPUT
    lines = [line for line in capsys.readouterr().err.splitlines() if not line.startswith("reading models")]
    assert len(lines) == 1
    return lines[0].removeprefix("riffusion evaluate: ")


def test_a_run_becomes_a_page_of_its_checkpoints(world: Path, tmp_path: Path) -> None:
    assert evaluate(str(world / "run"), "--prompt", "band 3", "--prompt", "a line", f"out={tmp_path}", "seeds=0-1") == 0
    assert names(tmp_path) == ["step 2", "step 4"]  # the final model is step 4
    assert len(site(tmp_path)["cells"]) == 8
    assert (tmp_path / "index.html").is_file()


def test_the_command_of_a_clip_makes_the_same_clip(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = [
        str(world / "run"),
        str(world / "dataset" / ".." / "raw"),
        "--prompt",
        'it\'s, (a) "band"',
        "--negative",
        "hiss",
    ]
    export_run(world / "run", world / "raw", checkpoint="2")
    assert evaluate(*arguments, f"out={tmp_path}", "checkpoints=4", "seeds=5", "guidance_scale=3") == EXIT_DONE
    monkeypatch.chdir(tmp_path)
    for cell in site(tmp_path)["cells"]:
        before, _ = read_audio(tmp_path / cell["audio"])
        again = tmp_path / "again"
        program, verb, *rest = shlex.split(cell["command"].replace("out=clips", f"out={again}"))
        assert program == "riffusion" and main([verb, *rest, "device=cpu"]) == EXIT_DONE
        made = list(again.rglob("*.wav"))
        assert len(made) == 1
        assert np.array_equal(read_audio(made[0])[0], before)
        shutil.rmtree(again)


def test_the_same_command_again_makes_nothing(world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = [str(world / "run"), "--prompt", "band 3", f"out={tmp_path}", "checkpoints=newest"]
    assert evaluate(*arguments) == EXIT_DONE
    capsys.readouterr()
    assert evaluate(*arguments) == EXIT_DONE
    assert "made: 0 clips, 1 already there" in capsys.readouterr().out


def test_runs_and_models_stand_side_by_side_and_equal_ones_once(
    world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [str(world / "run"), str(world / "run" / "checkpoints" / "step-000002"), str(world / "model")]
    assert evaluate(*arguments, "--prompt", "band 3", f"out={tmp_path}", "checkpoints=final") == EXIT_DONE
    assert names(tmp_path) == ["run · step 4 (final)", "step-000002 · step 2"]
    assert re.search(r"model \(model\) is the same model as .*run .*; it is shown once", capsys.readouterr().out)


def test_prompts_come_from_a_file_as_well(world: Path, tmp_path: Path) -> None:
    (tmp_path / "prompts.txt").write_text("\ufeffband 1\n\n  a line, number 2  \nband 1\n", encoding="utf-8")
    arguments = [str(world / "model"), "--prompts", str(tmp_path / "prompts.txt"), f"out={tmp_path / 'site'}"]
    assert evaluate(*arguments) == EXIT_DONE
    assert [cell["settings"]["prompt"] for cell in site(tmp_path / "site")["cells"]] == ["band 1", "a line, number 2"]
    assert site(tmp_path / "site")["versions"][0]["step"] == 4


def test_a_model_that_does_not_say_its_codec_is_said_to_be_assumed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_model_without_codec(tmp_path / "silent")
    assert (
        evaluate(
            str(tmp_path / "silent"),
            "--prompt",
            "x",
            f"out={tmp_path / 'site'}",
            "quality=draft",
            "num_inference_steps=1",
        )
        == EXIT_DONE
    )
    assert "silent has no spectrogram.json; riffusion_v1 is assumed" in capsys.readouterr().err
    assert site(tmp_path / "site")["cells"][0]["settings"]["assumed_spectrogram"] is True


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--prompt", "x"], "no model: riffusion evaluate grid MODEL|RUN … --prompt TEXT … out=DIR"),
        (["RUN"], "no prompt: give --prompt TEXT, or --prompts FILE with one prompt a line"),
        (["RUN", "--prompts", "EMPTY"], "EMPTY: holds no prompt; write one a line"),
        (["RUN", "--prompts", "BINARY"], "BINARY: not UTF-8 text; save it as UTF-8, one prompt a line"),
        (["RUN", "--prompts", "nowhere.txt"], "--prompts nowhere.txt: no such file"),
        (["nowhere", "--prompt", "x"], "nowhere: no such file or folder, and not a hub id (user/name)"),
        (["RUN", "--prompt", "x", "checkpoints=3"], "checkpoint=3: RUN has no such checkpoint; it has: 2, 4"),
        (["RUN", "--prompt", "x", "checkpoints=best"], "checkpoint=best: RUN kept none"),
        (
            ["RUN", "--prompt", "x", "checkpoints=[]"],
            "checkpoints=: names none; give all, final, newest, best, judged, or steps",
        ),
        (["RUN", "--prompt", "x", "seeds=1,x"], "seeds=1,x: 'x' is no seed; write numbers from 0 with commas, or 0-3"),
        (["RUN", "--prompt", "x", "seeds=3-1"], "seeds=3-1: '3-1' is no range of seeds; write the smaller first"),
        (["RUN", "--prompt", "x", "sede=1"], "unknown key 'sede'; did you mean 'seeds'?"),
        (["RUN", "--prompt", "x", "--seeds", "1"], "unknown flag --seeds; the flags are MODEL|RUN"),
    ],
)
def test_bad_arguments_are_one_line_that_names_the_fix(
    world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    (tmp_path / "EMPTY").write_text("\n \n")
    (tmp_path / "BINARY").write_bytes(b"\xff\xfe\x00x")
    paths = {"RUN": str(world / "run"), "EMPTY": str(tmp_path / "EMPTY"), "BINARY": str(tmp_path / "BINARY")}
    complaint = refused(capsys, *(paths.get(one, one) for one in arguments), f"out={tmp_path / 'site'}")
    for name, path in paths.items():
        message = message.replace(name, path) if "MODEL|" not in message else message
    assert message in complaint
    assert not (tmp_path / "site").exists()


def test_a_run_without_a_checkpoint_says_so(world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copytree(world / "run", tmp_path / "run", ignore=shutil.ignore_patterns("checkpoints", "final"))
    complaint = refused(capsys, str(tmp_path / "run"), "--prompt", "x", f"out={tmp_path / 'site'}")
    assert "has no checkpoint yet" in complaint


@pytest.mark.parametrize("arguments", [[], ["grip"], ["out=x"]])
def test_evaluate_names_its_actions(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", *arguments]) == EXIT_INPUT
    assert "choose from: grid" in capsys.readouterr().err


def test_help_lists_actions_and_keys(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", "--help"]) == EXIT_DONE
    assert main(["evaluate", "grid", "--help"]) == EXIT_DONE
    out = capsys.readouterr().out
    assert "prompts × checkpoints × seeds" in out and "checkpoints=all" in out and "--prompts FILE" in out
