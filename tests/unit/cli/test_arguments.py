import dataclasses
import enum
from pathlib import Path

import pytest
import yaml

from riffusion_train.cli.arguments import Command, Flag, fill, read_prompts
from riffusion_train.cli.main import main
from riffusion_train.config.sample import GridConfig
from riffusion_train.runtime.errors import EXIT_DONE, EXIT_INPUT, InputError


class Colour(enum.Enum):
    red = "red"
    blue = "blue"


@dataclasses.dataclass
class Options:
    name: str = "a"
    colour: Colour | None = None
    size: int | None = None
    deep: bool = False


GRID = Command(
    name="evaluate grid",
    root=GridConfig,
    usage="MODEL",
    takes_positionals=True,
    flags=(Flag("--prompt", repeats=True), Flag("--loudness", old_name="--level")),
)


@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_prompts_are_read_with_and_without_a_byte_order_mark(mark: str, tmp_path: Path) -> None:
    (tmp_path / "p.txt").write_text(f"{mark}première\n\n  two, three  \n", encoding="utf-8")
    assert read_prompts(["one"], str(tmp_path / "p.txt")) == ["one", "première", "two, three"]
    assert read_prompts(["one"], None) == ["one"]


@pytest.mark.parametrize("verb", [["sample", "m"], ["evaluate", "grid", "m"]])
def test_a_latin_1_file_of_prompts_is_one_line_that_names_the_file_and_the_fix(
    verb: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "p.txt"
    file.write_bytes("première\n".encode("latin-1"))
    assert main([*verb, "--prompts", str(file), f"out={tmp_path / 'out'}"]) == EXIT_INPUT
    message = capsys.readouterr().err
    assert message.count("\n") == 1
    assert f"--prompts {file}: not UTF-8 text; save it as UTF-8" in message


def test_texts_models_and_options_are_told_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("a=b").mkdir()
    parsed = GRID.parse(["--prompt", "seeds=1, (x) 'y'", "a=b", "seeds=2", "user/model", "out=o", "--prompt=z"])
    assert parsed is not None
    assert parsed.positionals == ["a=b", "user/model"]
    assert parsed.flags.prompt == ["seeds=1, (x) 'y'", "z"]
    assert (parsed.config.seeds, parsed.config.out) == ("2", "o")


def test_the_former_name_of_a_flag_is_accepted_with_one_warning(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in (["--level", "1"], ["--level=1"]):
        parsed = GRID.parse(["out=o", *arguments])
        assert parsed is not None
        assert parsed.flags.loudness == "1"
        assert capsys.readouterr().err == "riffusion evaluate grid: --level is now called --loudness\n"
    GRID.parse(["out=o", "--loudness", "1"])
    assert capsys.readouterr().err == ""


def test_an_unknown_flag_is_named_with_the_usage() -> None:
    with pytest.raises(InputError, match="unknown flag --promt; the flags are MODEL"):
        GRID.parse(["--promt", "x", "out=o"])


def test_show_prints_the_config_and_does_nothing_else(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["export", "run=r", f"out={tmp_path / 'm'}", "dtype=fp16", "--show"]) == EXIT_DONE
    shown = yaml.safe_load(capsys.readouterr().out)
    assert (shown["run"], shown["dtype"], shown["format"]) == ("r", "fp16", "diffusers")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("flags", [["--cfg", "job"], ["--cfg=job", "--resolve"], ["-c", "job"], ["--show"]])
def test_the_config_is_shown_with_what_is_still_missing(flags: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "optimizer.lr=3e-5", *flags]) == EXIT_DONE
    shown = yaml.safe_load(capsys.readouterr().out)
    assert (shown["dataset"], shown["optimizer"]["lr"], shown["method"]["name"]) == ("???", 3e-5, "full")
    assert main(["train", "--cfg", "hydra"]) == EXIT_INPUT
    assert "--cfg=hydra is unknown; choose from: job" in capsys.readouterr().err


def test_config_dir_adds_presets(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "optimizer").mkdir()
    (tmp_path / "optimizer" / "mine.yaml").write_text("lr: 0.25\n")
    assert main(["train", "optimizer=mine", "--config-dir", str(tmp_path), "--cfg", "job"]) == EXIT_DONE
    assert yaml.safe_load(capsys.readouterr().out)["optimizer"]["lr"] == 0.25
    assert main(["spectrogram", "inspect", "x.png", "--config-dir", str(tmp_path)]) == EXIT_INPUT


def test_a_missing_key_is_named_with_the_whole_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", "grid", "m", "--prompt", "a"]) == EXIT_INPUT
    assert capsys.readouterr().err == (
        "riffusion evaluate: evaluate grid needs out=…; see riffusion evaluate grid --help\n"
    )


def test_options_become_the_types_of_their_fields() -> None:
    assert fill(Options, ["name=x=y", "colour=blue", "size=7", "deep=true"]) == Options("x=y", Colour.blue, 7, True)
    assert fill(Options, []) == Options()


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("colour=green", "colour=green is unknown; choose from: red, blue"),
        ("size=-1", "size=-1: not a whole number"),
        ("deep=yes", "deep=yes is unknown; choose from: true, false"),
    ],
)
def test_a_value_that_does_not_fit_is_named_with_its_key(option: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        fill(Options, [option])
