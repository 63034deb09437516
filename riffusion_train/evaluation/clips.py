"""The clips to score: a folder of sounds with their captions, whoever made them, or clips sampled from a model for it."""

import csv
import dataclasses
import hashlib
import io
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from riffusion_train.audio.read import read_audio
from riffusion_train.audio.write import FORMATS
from riffusion_train.config.model import ExportWeights
from riffusion_train.config.sample import SamplerConfig, sampler_options
from riffusion_train.dataset.order import spread
from riffusion_train.evaluation.grid import GridModel, find_models, option_arguments, save_whole
from riffusion_train.listening.heard import HeardClip, Unit, stamp
from riffusion_train.runtime.errors import InputError, StoppedError, one_line
from riffusion_train.runtime.files import slug
from riffusion_train.runtime.hub import check_source, looks_like_hub_id, model_place
from riffusion_train.runtime.progress import ProgressReport
from riffusion_train.training.run_folder import CHECKPOINT_DIR, RunFolder

SOUND_SUFFIXES = frozenset(FORMATS) | {".aif", ".aiff", ".m4a", ".mp4", ".oga", ".wma", ".w64", ".mka", ".webm"}
"""Names of files that are taken for sounds; what is in them is judged when they are read."""
TABLES = ("captions.csv", "metadata.csv", "metadata.jsonl")
_FILE_COLUMNS = ("file", "file_name", "filename", "path", "audio")
_CAPTION_COLUMNS = ("caption", "captions", "text", "prompt", "description")
_SLUG_LENGTH = 40


@dataclasses.dataclass(frozen=True)
class ClipFile:
    """A clip on disk."""

    name: str
    """Path of its sound below the folder that was given, with forward slashes."""
    audio: Path
    image: Path | None
    """Its spectrogram image, if there is one beside the sound."""
    captions: tuple[str, ...]
    """What it should sound like; its prompt, for a clip that our sampler made."""
    model: str | None = None
    """The model that made it, if its record says so."""


def is_model(source: str) -> bool:
    """Whether a command's argument is a model, a run or a checkpoint rather than a folder of sounds."""
    path = Path(model_place(source)).expanduser()
    if path.is_dir():
        run = RunFolder(path)
        is_checkpoint = path.parent.name == CHECKPOINT_DIR and path.name.startswith("step-")
        return run.config_file.is_file() or (path / "model_index.json").is_file() or is_checkpoint
    return path.is_file() or looks_like_hub_id(source)


def check_clips(source: str) -> None:
    """Check that there is something at a path that can be scored; nothing is read.

    Raises:
        InputError: If there is not.
    """
    path = Path(source).expanduser()
    if path.is_file() and path.suffix.lower() in SOUND_SUFFIXES:
        raise InputError(f"{path}: is one sound, and scores need a set of them; name its folder")
    if not is_model(source) and not path.is_dir():
        raise InputError(f"{path}: no such folder of clips, and not a model (folder, file, run or hub id)")


def find_clips(folder: Path, leave_out: Path | None = None) -> list[ClipFile]:
    """Return the clips of a folder and of the folders in it, in the order of their names.

    A clip's captions are, in this order: the prompt of our own `.json` beside it; the lines of a `.txt` beside it; its rows in
    the folder's `captions.csv`, `metadata.csv` or `metadata.jsonl`. Hidden files and folders are left out.

    Args:
        folder: The folder.
        leave_out: A folder whose files do not count: that of the scores, which may lie in the folder of the clips.

    Raises:
        InputError: If there are no sounds, or a table cannot be read.
    """
    sounds = sorted(path for path in folder.rglob("*") if path.suffix.lower() in SOUND_SUFFIXES and path.is_file())
    sounds = [path for path in sounds if not any(part.startswith(".") for part in path.relative_to(folder).parts)]
    if leave_out is not None:
        sounds = [path for path in sounds if not path.resolve().is_relative_to(leave_out.resolve())]
    if not sounds:
        raise InputError(f"{folder}: holds no sounds ({', '.join(sorted(FORMATS))}); name a folder that sample wrote")
    table = _read_tables(folder)
    clips = []
    for audio in sounds:
        name = audio.relative_to(folder).as_posix()
        image = audio.with_suffix(".png")
        prompt, model = _record(audio)
        captions = (prompt,) if prompt else _sidecar(audio) or table.get(name) or table.get(audio.name) or ()
        clips.append(ClipFile(name, audio, image if image.is_file() else None, tuple(captions), model))
    return clips


def _record(audio: Path) -> tuple[str, str | None]:
    """Return the prompt of our own record beside a sound, and its model; empty where there is no such record."""
    try:
        record = json.loads(audio.with_suffix(".json").read_text(encoding="utf-8"))
        return str(record["prompt"]).strip(), record.get("model_fingerprint") or record.get("model")
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return "", None


def _sidecar(audio: Path) -> tuple[str, ...]:
    sidecar = audio.with_suffix(".txt")
    if not sidecar.is_file():
        return ()
    try:
        lines = sidecar.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError:
        raise InputError(f"{sidecar}: not UTF-8 text; save it as UTF-8") from None
    return tuple(line.strip() for line in lines if line.strip())


def _read_tables(folder: Path) -> dict[str, list[str]]:
    """Return the captions of each file that a table in the folder lists."""
    path = next((folder / name for name in TABLES if (folder / name).is_file()), None)
    if path is None:
        return {}
    try:
        text = path.read_text(encoding="utf-8-sig")
        if path.suffix == ".jsonl":
            rows: list[dict[str, Any]] = [json.loads(line) for line in text.splitlines() if line.strip()]
        else:
            rows = list(csv.DictReader(io.StringIO(text, newline="")))
        names = {name for row in rows for name in row}
    except (UnicodeDecodeError, ValueError, TypeError, csv.Error):
        raise InputError(f"{path}: cannot be read as a table; write UTF-8 with the columns file and caption") from None
    file_column = next((name for name in _FILE_COLUMNS if name in names), None)
    caption_column = next((name for name in _CAPTION_COLUMNS if name in names), None)
    if file_column is None or caption_column is None:
        raise InputError(f"{path}: has no columns with files and captions; name them file and caption")
    captions: dict[str, list[str]] = {}
    for row in rows:
        value = row.get(caption_column) or []
        texts = [str(one).strip() for one in (value if isinstance(value, list) else [value])]
        captions.setdefault(str(row.get(file_column)), []).extend(filter(None, texts))
    return captions


def open_model(source: str, checkpoint: str, weights: ExportWeights) -> GridModel:
    """Open the one model to sample from; its weights are read when it is used.

    Raises:
        InputError: If it cannot be opened.
    """
    check_source(source)
    return find_models([source], checkpoint, weights)[0]


def choose_captions(captions: Sequence[str], count: int) -> list[str]:
    """Return `count` captions, spread evenly over the distinct ones, each used about equally often."""
    distinct = list(dict.fromkeys(captions))
    if not distinct:
        raise InputError("the held-out clips have no captions, so there is nothing to sample; score a folder of clips")
    if count <= len(distinct):
        return [distinct[index * len(distinct) // count] for index in range(count)]
    return [distinct[index % len(distinct)] for index in range(count)]


def sample_clips(
    model: GridModel,
    prompts: Sequence[str],
    folder: Path,
    settings: SamplerConfig,
    *,
    seed: int = 0,
    batch_size: int = 4,
    asked_to_stop: Callable[[], bool] = lambda: False,
) -> list[ClipFile]:
    """Sample one clip from each prompt into a folder; those that are there already are kept.

    Args:
        model: The model.
        prompts: The prompts; clip n has the seed `seed + n`, so that no two start from the same noise.
        folder: Where to write: each clip a `.wav`, `.png` and `.json`, as `riffusion sample` writes them.
        settings: The options of the sampler.
        seed: Seed of the first clip.
        batch_size: Clips denoised together.
        asked_to_stop: Called after each clip; True stops.

    Raises:
        StoppedError: If asked to stop; the next call continues.
        InputError: If the model cannot be used.
    """
    stems = [_stem(model, prompt, seed + number, number, settings) for number, prompt in enumerate(prompts)]
    missing = [number for number, stem in enumerate(stems) if not _exists(folder / stem)]
    done = len(stems) - len(missing)
    with ProgressReport("sample", len(stems), done=done) as progress:
        if missing:
            sampler = model.load(**sampler_options(settings))
            if sampler.codec_notice is not None:
                print(sampler.codec_notice, file=sys.stderr)
            texts = [(prompts[number], "", seed + number) for number in missing]
            for number, clip in zip(missing, sampler.generate(texts, batch_size=batch_size), strict=True):
                save_whole(clip, folder / stems[number], "wav")
                done += 1
                progress.update(done)
                if asked_to_stop():
                    raise StoppedError(f"{done} of {len(stems)} clips are sampled; the same command continues")
    return [
        ClipFile(f"{stem}.wav", folder / f"{stem}.wav", folder / f"{stem}.png", (prompt,))
        for stem, prompt in zip(stems, prompts, strict=True)
    ]


def _stem(model: GridModel, prompt: str, seed: int, number: int, settings: SamplerConfig) -> str:
    """Return the name of a clip's files: a hash of all that decides the clip keeps those of other models and options apart."""
    deciding = json.dumps([model.fingerprint, prompt, seed, option_arguments(settings)])
    digest = hashlib.blake2b(deciding.encode(), digest_size=5).hexdigest()
    return f"{number:04d}-{slug(prompt, _SLUG_LENGTH) or 'empty'}-seed{seed}-{digest}"


def _exists(stem: Path) -> bool:
    """Whether all files of a clip exist; the settings are written last."""
    return all(stem.with_name(f"{stem.name}.{kind}").is_file() for kind in ("wav", "png", "json"))


_UNIT_CLIPS = 16
"""Clips that are heard together, and cached in one file."""
_SHORTEST_S = 0.5
"""What is left of a sound at its end is no clip if it is shorter."""


def sound_units(files: Sequence[ClipFile], clip_s: float, most: int) -> Iterator[Unit]:
    """Yield the work of hearing a folder of real sounds, one file at a time, cut into clips.

    Args:
        files: The sounds, with their captions.
        clip_s: Length of a clip: that of the generated ones, since longer music is more varied than shorter.
        most: Clips at most in all; each file gives about the same number.
    """
    per_file = max(1, -(-most // len(files)))
    for position in spread(len(files), most):
        file = files[position]
        key = json.dumps(["sound", *stamp(file.audio), file.name, file.captions, round(clip_s, 4), per_file])
        yield Unit(key, 1, lambda file=file: _cut_file(file, clip_s, per_file))  # type: ignore[misc]


def clip_units(files: Sequence[ClipFile]) -> Iterator[Unit]:
    """Yield the work of hearing clips whole."""
    for first in range(0, len(files), _UNIT_CLIPS):
        some = files[first : first + _UNIT_CLIPS]
        key = json.dumps(["clips", [[*stamp(file.audio), file.name, file.captions] for file in some]])
        yield Unit(key, len(some), lambda some=some: [_read_whole(file) for file in some])  # type: ignore[misc]


def _read_whole(file: ClipFile) -> HeardClip | str:
    try:
        return HeardClip(file.name, file.name, file.captions, read_audio(file.audio))
    except InputError as error:
        return one_line(error)


def _cut_file(file: ClipFile, clip_s: float, most: int) -> list[HeardClip | str]:
    wav, rate_hz = read_audio(file.audio)
    samples = max(1, round(clip_s * rate_hz))
    starts = list(range(0, max(1, wav.shape[1] - samples + 1), samples))
    clips: list[HeardClip | str] = []
    for position in spread(len(starts), most):
        part = wav[:, starts[position] : starts[position] + samples]
        if part.shape[1] < _SHORTEST_S * rate_hz:
            continue
        name = f"{file.name} at {starts[position] / rate_hz:.2f} s"
        clips.append(HeardClip(name, file.name, file.captions, (np.ascontiguousarray(part), rate_hz)))
    return clips
