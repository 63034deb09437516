"""Scores of the clips of a grid, one by one, for its page: caption match, realness, copies, sound."""

import hashlib
import json
import statistics
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from riffusion_train.audio.codec import make_codec
from riffusion_train.audio.read import read_audio
from riffusion_train.config.spectrogram import Quality
from riffusion_train.dataset.order import spread
from riffusion_train.dataset.spectrograms import SpectrogramDataset
from riffusion_train.evaluation.clips import ClipFile, clip_units
from riffusion_train.evaluation.grid import Grid
from riffusion_train.evaluation.results import SCORES_FILE, ResultRow, ScoredClip
from riffusion_train.evaluation.score import CACHE_DIR, clip_image
from riffusion_train.listening.captions import CaptionModel
from riffusion_train.listening.embedder import Embedder, make_embedder
from riffusion_train.listening.heard import HeardClips, hear_units
from riffusion_train.listening.judge import Judge, JudgedClip, Reference
from riffusion_train.listening.real import DecodedSlices, is_dataset, open_split, training_slices
from riffusion_train.runtime.errors import InputError
from riffusion_train.runtime.progress import ProgressReport
from riffusion_train.runtime.provenance import write_rows
from riffusion_train.sampling.pipeline import best_device

_SCHEMA = 1
_OTHER_CAPTIONS = 200
"""Held-out captions that a clip's own one is compared with, at most."""
_AVERAGED = {"caption_match": "share of other captions", "realness": "share of real clips"}


class GridScoring:
    """Scores the clips of a grid against a dataset, and writes `scores.json` beside them.

    Each clip is judged by itself, so that clips that are added later change nothing: its own caption against held-out ones,
    its distance to real clips, its nearest training slice. A clip that `scores.json` holds is not judged again.

    Args:
        real: A dataset folder: its validation split is the real music, its training split is searched for copies.
        num_real: Real clips to compare with at most.
        num_slices: Training slices to search at most; None searches them all.
        device: Where to decode the real clips; None takes the best there is.

    Raises:
        InputError: If it is no dataset, or has no validation split.
    """

    def __init__(
        self, real: str | Path, *, num_real: int = 1000, num_slices: int | None = None, device: str | None = None
    ) -> None:
        self._real = Path(real).expanduser()
        if not self._real.is_dir() or not is_dataset(self._real):
            raise InputError(f"real={real}: is no dataset folder; name the folder that prepare wrote")
        for key, value in (("num_real", num_real), ("num_slices", num_slices)):
            if value is not None and value < 1:
                raise InputError(f"{key}={value}: must be at least 1")
        self._held_out = open_split(self._real, "validation")
        self._trained = open_split(self._real, "train") if self._held_out.folder.num_slices("train") else None
        self._num_real, self._num_slices = num_real, num_slices
        self._device = device or best_device()
        self._embedder: Embedder = make_embedder("musicnn", None, self._device)

    def score(self, grid: Grid, asked_to_stop: Callable[[], bool] = lambda: False) -> int:
        """Score the clips of a grid that have no scores yet, and write `scores.json` and the page; return their number.

        Args:
            grid: The grid; its clips have been made.
            asked_to_stop: Called between pieces of work; True stops.

        Raises:
            StoppedError: If asked to stop; the next call continues.
        """
        versions, files = {}, []
        for clip in grid.made():
            audio = grid.folder / f"{clip.stem}.{grid.audio_format}"
            name = audio.relative_to(grid.folder).as_posix()
            captions = (clip.prompt,) if clip.prompt.strip() else ()
            files.append(ClipFile(name, audio, audio.with_suffix(".png"), captions))
            versions[name] = clip.model.name
        key = self._key()
        known = _known(grid.folder / SCORES_FILE, key)
        new = [file for file in files if file.name not in known]
        warnings: list[str] = []
        if new:
            for scored in self._judge(new, grid.folder / CACHE_DIR, warnings, asked_to_stop):
                known[scored.file.name] = scored.as_json()
        clips = [known[file.name] for file in files if file.name in known]
        about = {"real": str(self._real), "embedder": self._embedder.name, "num_clips": len(clips), "key": key}
        rows = [row.as_json() for row in _rows(clips, versions)]
        more = {"about": about, "warnings": warnings, "clips": clips}
        write_rows(grid.folder / SCORES_FILE, grid.command, rows, more=more, indent=1)
        grid.write_page()
        return len(new)

    def _key(self) -> str:
        """Return a hash of all that decides the scores, besides the clips."""
        fingerprint = self._held_out.folder.fingerprint
        deciding = [_SCHEMA, fingerprint, self._embedder.name, self._num_real, self._num_slices]
        return hashlib.blake2b(json.dumps(deciding).encode(), digest_size=8).hexdigest()

    def _judge(
        self, files: Sequence[ClipFile], cache: Path, warnings: list[str], asked_to_stop: Callable[[], bool]
    ) -> list[ScoredClip]:
        def hear(units: Any, folder: Path, title: str) -> HeardClips:
            heard = hear_units(units, self._embedder, None, folder, title, asked_to_stop=asked_to_stop)
            warnings.extend(heard.failed)
            return heard

        generated = hear(clip_units(files), cache, "listening to the clips")
        rows = spread(len(self._held_out), self._num_real)
        decoded = DecodedSlices(self._held_out, rows, Quality.normal, self._device)
        real = hear(decoded.units(), self._real / CACHE_DIR, "listening to the real clips")
        by_name = {file.name: file for file in files}
        readable = [by_name[name] for name in generated.names]
        slices, codec = None, None
        if self._trained is not None:
            # Without embeddings: the flag comes from the images, and no training slice has to be heard.
            searched = spread(len(self._trained), self._num_slices)
            slices = training_slices(self._trained, searched, None)
            codec = make_codec(self._trained.folder.spectrogram)
        clips = []
        for file, heard in zip(readable, generated.heard, strict=True):
            sound = read_audio(file.audio)
            image = None if codec is None else clip_image(file, sound, codec)
            clips.append(JudgedClip(file.name, sound, file.captions[0] if file.captions else None, image, heard))
        with ProgressReport("judging", len(clips)) as progress:
            judge = Judge(
                Reference(real.heard, real.captions, real.tracks, slices),
                self._embedder,
                progress=lambda done, total: progress.update(done),
            )
            scores = judge.score_clips(clips, caption_matches(clips, judge.caption_model, self._held_out))
        return [
            ScoredClip(file, sound, one) for file, sound, one in zip(readable, generated.sounds, scores, strict=True)
        ]


def caption_matches(
    clips: Sequence[JudgedClip], model: CaptionModel | Exception, held_out: SpectrogramDataset
) -> list[float | None]:
    """Return for each clip the share of held-out captions that fit it less well than its own one; ties count half.

    None for a clip without a caption, or whose caption has no word that the model knows, and where there is no model.

    Args:
        clips: The clips; what was heard in them is known.
        model: What was learnt from the real clips, or why nothing was.
        held_out: The split whose captions are the others.
    """
    others = list(dict.fromkeys(caption for caption in held_out.all_captions() if caption))
    others = [others[index] for index in spread(len(others), _OTHER_CAPTIONS)]
    matches: list[float | None] = []
    for clip in clips:
        own = clip.caption
        different = [caption for caption in others if caption != own]
        if own is None or isinstance(model, Exception) or not different or not model.named([own]).any():
            matches.append(None)
            continue
        assert clip.heard is not None
        fits = model.scores(np.asarray(clip.heard.embedding, np.float64)[None], [own, *different])[0]
        matches.append(float((fits[0] > fits[1:]).mean() + (fits[0] == fits[1:]).mean() / 2))
    return matches


def _known(path: Path, key: str) -> dict[str, dict[str, Any]]:
    """Return the clips that a file of scores holds, by name; none if they were scored against something else."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        return {clip["file"]: clip for clip in data["clips"]} if data["about"]["key"] == key else {}
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def _rows(clips: Sequence[dict[str, Any]], versions: dict[str, str]) -> list[ResultRow]:
    """Return the means of each version, and the share of its clips that are flagged as copies."""
    rows = []
    for version in dict.fromkeys(versions[clip["file"]] for clip in clips):
        mine = [clip for clip in clips if versions[clip["file"]] == version]
        for name, unit in _AVERAGED.items():
            values = [clip[name] for clip in mine if clip[name] is not None]
            if values:
                rows.append(
                    ResultRow(
                        f"{name}, {version}", f"{unit}, mean", statistics.fmean(values), min(values), max(values), None
                    )
                )
        flags = [clip["nearest"]["is_copy"] for clip in mine if clip["nearest"] is not None]
        if flags:
            share = sum(flags) / len(flags)
            rows.append(ResultRow(f"copies, {version}", "share of clips", share, None, None, None))
    return rows
