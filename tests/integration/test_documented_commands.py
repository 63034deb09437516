"""Every `riffusion` command of README.md and docs/ is understood, and is run unless the list below says why it is not.

The commands of one block of code run in order, in a copy of a folder that holds what they name: songs, a dataset, a run, and a
model of nano size. Names and keys are as documented; sizes are replaced (`SMALLER`).
"""

import dataclasses
import re
import shlex
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
from support.nano import NANO_MODEL, train_config, write_dataset
from support.sampling import write_melody, write_nano_model

from riffusion_train.audio.read import read_audio
from riffusion_train.audio.write import write_audio
from riffusion_train.cli.main import VERBS, main
from riffusion_train.config.model import ExportFormat, LoraLayout
from riffusion_train.export.write import export_run, import_model
from riffusion_train.runtime.errors import EXIT_DONE
from riffusion_train.training.run import run_training

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]

NOT_RUN = {
    r"push_to_hub=": "needs an account on the hub; tests/unit/export/test_card.py has a hub of its own",
    r"^play\b": "serves until it is stopped; test_play_command.py",
    r"^train .*--multirun": "starts a process for each run; test_sweep.py",
    r"^accelerate ": "starts a process for each GPU; test_launch.py",
    r"^evaluate run": "needs fifty held-out slices; test_evaluate_run.py",
    r"checkpoint=judged": "of a run that was judged; test_evaluate_run.py",
    r"validation=judge": "needs fifty held-out slices; test_validation_judge.py",
    r"scores=scores": "of a model that was scored; tests/unit/export/test_card.py",
    r"experiment=laptop_": "trains for hours, or the packaged model; test_compose.py and test_packaged_model.py",
    r"^sample --prompt|^doctor laptop": "of the model that comes with the package; test_packaged_model.py",
    r"runs/laptop |score scored": "of the packaged model's own run, which trains for hours; test_packaged_model.py",
    r"spectrogram=laptop": "of music for the packaged model, or of a corpus that is composed first; test_prepare.py",
    r"^demo": "takes minutes; test_demo.py",
    r"notes=about.md|prompts=prompts.txt": "of a text of the user's; test_packaged_model.py",
    r"path_template=": "needs files that are named so; test_prepare_captions.py",
    r"run=runs/further": "goes on from adapters of Stable Diffusion 1.5; test_adapters.py",
    r"--config-dir mypresets": "trains Stable Diffusion 1.5; test_compose.py",
    r"audio=corpus": "of a corpus that is composed first; tests/unit/data_prep/corpus",
    r"engine=ray": "needs a Ray cluster; test_prepare_on_ray.py",
    r"out=s3:": "of a store; test_prepare_store.py",
    r"dataset=\[?(folder|user/name|s3:)": "of the hub or a store, or beside them; test_store.py and test_caches.py",
    r"captioner=http": "needs a chat endpoint; test_prepare_captioner.py",
    r"^prepare page": "needs the manifest of a prepared dataset; test_prepare_page.py",
    r"real=dataset audio=songs": "needs the files that the dataset was made of; test_evaluate_score.py",
    r"^prepare merge": "needs the parts of eight machines; test_prepare_parts.py",
    r"certificate=": "needs a certificate; tests/unit/audio/test_manifest.py",
    r"pick=": "asks which one to keep; test_sample_modes.py",
    r"allow_pickle=true": "needs the published checkpoint of 2022; test_sd15_files.py",
}
"""Patterns of documented commands that are not run here, and why. They are parsed all the same."""

SMALL_RUN = [*NANO_MODEL, "method=lora", "max_train_steps=3", "train_batch_size=1", "num_threads=1", "tracker=files"]
SMALLER = {
    "model=sd15": [],
    "experiment=sd15_lora_12gb": SMALL_RUN,
    "experiment=tiny_cpu": SMALL_RUN,
    "experiment=sd15_lcm_lora": [
        "experiment=sd15_lcm_lora",
        "method.lora_rank=2",
        *SMALL_RUN[-3:],
        "max_train_steps=3",
    ],
    "spectrogram=hifi": ["spectrogram=tiny"],
    "checkpoint=500": ["checkpoint=2"],
    "duration=3min": ["duration=31s"],
    "num_clips=200": ["num_clips=2"],
    "$SLURM_ARRAY_TASK_ID/8": ["1/8"],
}
"""What stands for arguments that would take a large model or a long time."""

QUICK = {
    "sample": ["num_inference_steps=1", "quality=draft", "num_threads=1"],
    "evaluate grid": ["num_inference_steps=1", "quality=draft"],
    "evaluate score": ["num_inference_steps=1", "quality=draft", "real_quality=draft"],
    "import lora": ["base=model"],
}
"""What is added to commands that begin so: less work, and the base of the adapters, which are not of Stable Diffusion 1.5."""

_FENCE = re.compile(r"^ *```(\w*)\n(.*?)^ *```$", re.MULTILINE | re.DOTALL)
_COMMAND = re.compile(rf"(?:^|\s)(?:riffusion|-m riffusion_train) +((?:{'|'.join(VERBS)})\b.*)$")
_INLINE = re.compile(rf"`riffusion ((?:{'|'.join(VERBS)})\s[^`]+)`")


@dataclasses.dataclass(frozen=True)
class Block:
    """A block of code in a page, and the arguments of the commands in it."""

    page: str
    number: int
    commands: tuple[tuple[str, ...], ...]

    def __str__(self) -> str:
        return f"{self.page}-{self.number}"


def blocks() -> Iterator[Block]:
    for page in PAGES:
        for number, (language, code) in enumerate(_FENCE.findall(page.read_text(encoding="utf-8"))):
            lines = re.sub(r"\\\n\s*", " ", code).splitlines() if language in ("", "bash", "sh") else []
            found = [(line, _COMMAND.search(line)) for line in lines]
            commands = [_split(match[1], line) for line, match in found if match]
            if commands:
                yield Block(page.stem, number, tuple(commands))


def _split(command: str, line: str) -> tuple[str, ...]:
    """Return the arguments of a command, behind the name of what launches it, if there is one."""
    launcher = ("accelerate",) if line.lstrip().startswith("accelerate ") else ()
    return (*launcher, *(part for part in shlex.split(command, comments=True) if part != "…"))


BLOCKS = list(blocks())
COMMANDS = {f"{block} {shlex.join(one)}": list(one) for block in BLOCKS for one in block.commands}


def why_not_run(arguments: tuple[str, ...]) -> str | None:
    command = " ".join(arguments)
    return next((reason for pattern, reason in NOT_RUN.items() if re.search(pattern, command)), None)


def test_there_are_commands_and_no_reason_is_left_over() -> None:
    assert len(COMMANDS) > 40
    commands = [" ".join(arguments) for arguments in COMMANDS.values()]
    assert [pattern for pattern in NOT_RUN if not any(re.search(pattern, command) for command in commands)] == []
    arguments = {argument for command in COMMANDS.values() for argument in command}
    assert [old for old in SMALLER if not any(old in argument for argument in arguments)] == []


@pytest.mark.parametrize("command", COMMANDS)
def test_a_documented_command_is_understood(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mypresets" / "optimizer").mkdir(parents=True)
    (tmp_path / "mypresets" / "optimizer" / "gentle.yaml").write_text("lr: 3.0e-6\n")
    arguments = [one for one in COMMANDS[command] if one != "accelerate"]
    if arguments[0] == "doctor":
        arguments = [*arguments, "--help"]  # it has no keys
    elif "--multirun" in arguments:
        # Every run of a sweep is composed alone; here the first of each list of values, and the lower end of an interval.
        flags = {"--multirun", "--launcher", "submitit", "--submitit", "timeout_min=600", "gpus_per_node=1"}
        flags |= {"--sweeper", "optuna", "--trials", "20"}
        lowest = [
            re.sub(r"=.*interval\(([^,]+),.*", r"=\1", one).split(",")[0] for one in arguments[1:] if one not in flags
        ]
        arguments = ["train", "dataset=x", *lowest, "--show"]
    else:
        arguments = [*arguments, "--show"]
    assert main(arguments) == EXIT_DONE, capsys.readouterr().err


def test_commands_within_the_text_name_no_key_or_flag_that_does_not_exist(capsys: pytest.CaptureFixture[str]) -> None:
    inline = {
        " ".join(one.split()) for page in PAGES for one in _INLINE.findall(_FENCE.sub("", page.read_text("utf-8")))
    }
    assert len(inline) > 5
    for command in sorted(inline):
        arguments = [one for one in shlex.split(command) if one != "…"]
        if arguments[0] == "doctor" or "--help" in arguments or "…" in command.split()[1:2]:
            continue
        code = main([*arguments, "--show"])
        error = capsys.readouterr().err
        # What a sentence leaves out may be missing; what it names must exist.
        assert code == EXIT_DONE or "unknown" not in error, f"{command}: {error}"


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the commands name."""
    folder = tmp_path_factory.mktemp("documented")
    for name in ("songs", "clips"):
        (folder / name).mkdir()
    for number in range(2):
        write_melody(folder / "songs" / f"{number}.wav", 6.0, seed=number)
    rows = ["file,caption,genre,style,instrument,bpm,key", "0.wav,,dub,slow,organ,90,A minor", "1.wav,low hum,,,,,"]
    (folder / "songs" / "captions.csv").write_text("\n".join(rows) + "\n")
    shutil.copytree(folder / "songs", folder / "clips", dirs_exist_ok=True)
    for name in ("song.wav", "riff.wav", "a.wav", "b.wav", "mine.wav"):
        write_melody(folder / name, 4.0, seed=len(name))
    for name in ("song.flac", "song.mp3"):
        write_audio(folder / name, *read_audio(folder / "song.wav"))
    rising = np.tile(np.arange(64, dtype=np.uint8) * 4, (64, 1))
    for name in ("a.png", "b.png", "mask.png"):
        PIL.Image.fromarray(rising).save(folder / name)
    (folder / "prompts.txt").write_text("slow piano\nchurch bells\n")
    write_nano_model(folder / "model")
    write_nano_model(folder / "clip_model")
    write_dataset(folder / "dataset")
    words = [
        "method=lora",
        "method.lora_alpha=8",
        "max_train_steps=4",
        "checkpointing_steps=2",
        "checkpoints_total_limit=9",
    ]
    run = run_training(train_config(folder / "dataset", folder / "runs" / "mine", *words), words)
    shutil.copytree(run, folder / "runs" / "other")
    export_run(run, folder / "style.safetensors", kind=ExportFormat.lora, layout=LoraLayout.kohya)
    export_run(run, folder / "lora", kind=ExportFormat.lora, layout=LoraLayout.diffusers)
    import_model(str(folder / "model"), folder / "sd15.safetensors", kind=ExportFormat.single_file)
    return folder


@pytest.mark.parametrize("block", [one for one in BLOCKS if not all(map(why_not_run, one.commands))], ids=str)
def test_the_documented_commands_of_a_block_run_one_after_another(
    block: Block, prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "folder"
    shutil.copytree(prepared, folder)
    monkeypatch.chdir(folder)
    made: set[str] = set()
    for arguments in block.commands:
        if why_not_run(arguments) is not None:
            continue
        command = _smaller(arguments)
        for out in (one.partition("=")[2] for one in command if one.startswith(("out=", "run="))):
            if command[0] != "export" or not out.startswith("runs/"):
                _make_room(folder / out, made)
        assert main(command) == EXIT_DONE, f"{shlex.join(command)}\n{capsys.readouterr().err}"


def _make_room(out: Path, made: set[str]) -> None:
    """Remove what was prepared where a command writes, but nothing that an earlier command of the block made."""
    if str(out) not in made and out.exists():
        shutil.rmtree(out) if out.is_dir() else out.unlink()
    made.add(str(out))


def _smaller(arguments: tuple[str, ...]) -> list[str]:
    command: list[str] = []
    for argument in arguments:
        old = next((old for old in SMALLER if old in argument), None)
        if old is None:
            command.append(argument)
        else:
            command += [argument.replace(old, new) if old.startswith("$") else new for new in SMALLER[old]]
    if command[:2] == ["sample", "seeds"]:
        return command
    return command + next((more for begin, more in QUICK.items() if " ".join(command).startswith(begin)), [])
