"""Scores of generated clips: how near to real music, whether they follow their captions, copies, sound."""

import dataclasses
import statistics
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from riffusion_train.audio.codec import SpectrogramCodec, make_codec
from riffusion_train.audio.image_file import load_image
from riffusion_train.audio.read import read_audio, resample
from riffusion_train.config.sample import EmbedderName, ScoreConfig
from riffusion_train.config.spectrogram import Quality
from riffusion_train.dataset.order import spread
from riffusion_train.dataset.spectrograms import SpectrogramDataset
from riffusion_train.evaluation import report
from riffusion_train.evaluation.clips import (
    ClipFile,
    check_clips,
    choose_captions,
    clip_units,
    find_clips,
    is_model,
    open_model,
    sample_clips,
    sound_units,
)
from riffusion_train.evaluation.results import (
    Evaluation,
    ScoredClip,
    rows_of_scores,
    rows_of_sounds,
    write_scores,
)
from riffusion_train.listening.embedder import make_embedder
from riffusion_train.listening.heard import HeardClips, Unit, hear_units, sound_warnings
from riffusion_train.listening.judge import Judge, JudgedClip, Reference, Scores
from riffusion_train.listening.real import (
    DecodedSlices,
    OriginalSlices,
    grey,
    is_dataset,
    open_split,
    training_slices,
)
from riffusion_train.runtime.errors import InputError, member
from riffusion_train.runtime.progress import ProgressReport
from riffusion_train.sampling.pipeline import best_device

CLIPS_DIR = "clips"
CACHE_DIR = ".cache"
"""Of a dataset folder, where training keeps its caches too; else of the folder of the scores."""
_EMBEDDER_S = 3.0
"""Music that the embedder needs to hear at once."""
_DISTANCES = ("kid", "kad", "fad", "fad_infinity", "density", "coverage")
ORIGINAL = ", against the original sound"


def evaluate(
    clips: str | Path,
    *,
    real: str | Path,
    out: str | Path,
    command: str = "",
    asked_to_stop: Callable[[], bool] = lambda: False,
    **options: Any,
) -> Evaluation:
    """Score generated clips against real ones; writes `scores.json` and the page `index.html`.

    Args:
        clips: A folder of sounds, with captions beside; or a model, from which clips are sampled into `out/clips`.
        real: A dataset folder, whose validation split is taken, or a folder of real sounds.
        out: The folder to write. Clips and cached work that are there already are used.
        command: The command that does the same, for the record.
        asked_to_stop: Called between pieces of work; True stops.
        options: The other keys of `riffusion evaluate score`, by their names; values of enums may be texts.

    Returns:
        The figures, and the scores of each clip.

    Raises:
        InputError: If something cannot be read, or there is nothing to compare.
        StoppedError: If asked to stop; the next call continues.
    """
    known = {field.name: field for field in dataclasses.fields(ScoreConfig)}
    unknown = next((name for name in options if name not in known), None)
    if unknown is not None:
        raise InputError(
            f"evaluate: there is no option {unknown}=; the options are those of riffusion evaluate score --help"
        )
    config = ScoreConfig(real=str(real), out=str(out), **options)
    config.embedder = member("embedder", config.embedder, EmbedderName)
    config.real_quality = member("real_quality", config.real_quality, Quality)
    return Scoring(str(clips), config, command, asked_to_stop).run()


class Scoring:
    """One call of `evaluate score`: reads, hears, judges, writes.

    Args:
        source: The clips or the model.
        config: The options.
        command: The command, for the record.
        asked_to_stop: Called between pieces of work; True stops.

    Raises:
        InputError: If what it needs is not there; nothing has been computed then.
    """

    def __init__(
        self, source: str, config: ScoreConfig, command: str, asked_to_stop: Callable[[], bool] = lambda: False
    ) -> None:
        self._source, self._config, self._command, self._asked_to_stop = source, config, command, asked_to_stop
        self._out, self._real = Path(config.out).expanduser(), Path(config.real).expanduser()
        self._warnings: list[str] = []
        self._check()
        self._held_out = open_split(self._real, "validation") if is_dataset(self._real) else None
        self._trained = self._open_training()
        self._real_files = [] if self._held_out else find_clips(self._real)
        self._device = config.device or best_device()
        self._embedder = make_embedder(config.embedder, config.embedder_source, self._device)

    def run(self) -> Evaluation:
        """Do all of it; see `evaluate`."""
        files = self._find_clips()
        generated = self._hear(clip_units(files), self._out / CACHE_DIR, "listening to the clips")
        by_name = {file.name: file for file in files}
        files = [by_name[name] for name in generated.names]
        if not files:
            raise InputError(f"{self._source}: none of its sounds can be read: {generated.failed[0]}")
        self._note_clips(files, generated)
        compared, originals = self._hear_real(generated)
        slices = self._hear_training()
        judged = self._judged(files, generated)
        scores = self._judge(judged, compared, slices)
        rows = rows_of_scores(scores)
        if originals is not None:
            # Distances alone: captions and copies have nothing to do with the codec.
            bare = [dataclasses.replace(one, image=None, caption=None) for one in judged]
            against = self._judge(bare, originals, None)
            rows += [
                dataclasses.replace(row, what=row.what + ORIGINAL)
                for row in rows_of_scores(against)
                if row.what in _DISTANCES
            ]
        rows += rows_of_sounds(generated.sounds, compared.sounds)
        scored = [
            ScoredClip(file, sound, score)
            for file, sound, score in zip(files, generated.sounds, scores.clips, strict=True)
        ]
        self._out.mkdir(parents=True, exist_ok=True)
        evaluation = Evaluation(self._out, rows, scored, self._warnings, self._about(files, compared))
        write_scores(evaluation, self._command)
        page = report.ScorePage(
            evaluation, self._config.title, self._command, generated, compared, self._trained, self._search_rows
        )
        report.write_page(page)
        return evaluation

    def _check(self) -> None:
        config = self._config
        check_clips(self._source)
        if not self._real.is_dir():
            raise InputError(f"real={self._real}: no such folder; name a dataset folder, or a folder of real sounds")
        if config.audio is not None and not is_dataset(self._real):
            raise InputError(
                f"audio={config.audio}: only goes with a dataset, and real={self._real} is a folder of sounds"
            )
        for key in ("num_clips", "num_real", "batch_size", "num_slices"):
            value = getattr(config, key)
            if value is not None and value < 1:
                raise InputError(f"{key}={value}: must be at least 1")
        if self._out.exists() and not self._out.is_dir():
            raise InputError(f"out={self._out}: is a file; name a folder")
        if self._out.resolve() in (self._real.resolve(), Path(self._source).expanduser().resolve()):
            raise InputError(f"out={self._out}: is the folder of the clips or of the real music; choose another one")

    def _open_training(self) -> SpectrogramDataset | None:
        """Return the split in which copies are searched; None where there is none."""
        if self._held_out is None or not self._config.copies or not self._held_out.folder.num_slices("train"):
            return None
        return open_split(self._real, "train")

    def _find_clips(self) -> list[ClipFile]:
        config = self._config
        if not is_model(self._source):
            return find_clips(Path(self._source).expanduser(), leave_out=self._out)
        if self._held_out is not None:
            captions = [self._held_out.captions(row)[0] for row in range(len(self._held_out))]
        else:
            captions = [file.captions[0] for file in self._real_files if file.captions]
        prompts = choose_captions(captions, config.num_clips)
        model = open_model(self._source, config.checkpoint, config.weights)
        return sample_clips(
            model,
            prompts,
            self._out / CLIPS_DIR,
            config,
            seed=config.seed,
            batch_size=config.batch_size,
            asked_to_stop=self._asked_to_stop,
        )

    def _hear(self, units: Sequence[Unit] | Any, cache: Path, title: str) -> HeardClips:
        heard = hear_units(
            units, self._embedder, self._config.embedder_source, cache, title, asked_to_stop=self._asked_to_stop
        )
        self._warnings += heard.failed
        return heard

    def _note_clips(self, files: Sequence[ClipFile], generated: HeardClips) -> None:
        self._warnings += sound_warnings(generated.sounds, _EMBEDDER_S)
        if uncaptioned := sum(not file.captions for file in files):
            self._warnings.append(
                f"{uncaptioned} of {len(files)} clips have no caption; whether they follow it is judged without them"
            )
        if (models := len({file.model for file in files if file.model})) > 1:
            self._warnings.append(f"the clips are by {models} models, and are scored together; name one model's folder")

    def _hear_real(self, generated: HeardClips) -> tuple[HeardClips, HeardClips | None]:
        """Return the real clips, and the same as they sounded before the codec where `audio=` says where they are."""
        config = self._config
        if self._held_out is None:
            clip_s = statistics.median(sound.duration_s for sound in generated.sounds)
            units = list(sound_units(self._real_files, clip_s, config.num_real))
            heard = self._hear(units, self._out / CACHE_DIR, "listening to the real sounds")
            if not heard.heard:
                raise InputError(
                    f"real={self._real}: none of its sounds can be read: {(heard.failed or ['too short'])[0]}"
                )
            return heard, None
        rows = spread(len(self._held_out), config.num_real)
        cache = self._real / CACHE_DIR
        original = None
        if config.audio is not None:
            cuts = OriginalSlices(self._held_out, rows, Path(config.audio).expanduser())
            original = self._hear(cuts.units(), cache, "listening to the original sound")
            if not original.heard:
                raise InputError(f"audio={config.audio}: {original.failed[0]}")
        decoded = DecodedSlices(self._held_out, rows, config.real_quality, self._device)
        return self._hear(decoded.units(), cache, "listening to the real clips"), original

    @property
    def _search_rows(self) -> list[int]:
        return [] if self._trained is None else spread(len(self._trained), self._config.num_slices)

    def _hear_training(self) -> Any:
        if self._trained is None:
            return None
        if not self._config.hear_slices:
            return training_slices(self._trained, self._search_rows, None)
        # In draft quality: which slice is meant is heard all the same, in a fraction of the time.
        decoded = DecodedSlices(self._trained, self._search_rows, Quality.draft, self._device)
        heard = self._hear(decoded.units(), self._real / CACHE_DIR, "listening to the training slices")
        return training_slices(self._trained, self._search_rows, heard.embeddings)

    def _judged(self, files: Sequence[ClipFile], generated: HeardClips) -> list[JudgedClip]:
        codec = None if self._trained is None else make_codec(self._trained.folder.spectrogram)
        judged = []
        for file, heard in zip(files, generated.heard, strict=True):
            sound = read_audio(file.audio)
            image = None if codec is None else clip_image(file, sound, codec)
            judged.append(JudgedClip(file.name, sound, file.captions[0] if file.captions else None, image, heard))
        return judged

    def _judge(self, clips: Sequence[JudgedClip], real: HeardClips, slices: Any) -> Scores:
        reference = Reference(heard=real.heard, captions=real.captions, tracks=real.tracks, slices=slices)
        with ProgressReport("judging", len(clips)) as progress:
            judge = Judge(
                reference, self._embedder, seed=self._config.seed, progress=lambda done, total: progress.update(done)
            )
            return judge.score(clips)

    def _about(self, files: Sequence[ClipFile], compared: HeardClips) -> dict[str, Any]:
        real = f"{self._real}, validation split, decoded" if self._held_out is not None else str(self._real)
        return {
            "clips": self._source,
            "num_clips": len(files),
            "real": real,
            "num_real": len(compared.heard),
            "real_fingerprint": None if self._held_out is None else self._held_out.folder.fingerprint,
            "slices_searched": len(self._search_rows),
            "embedder": self._embedder.name,
            "embedder_source": self._config.embedder_source,
            "seed": self._config.seed,
        }


def clip_image(
    file: ClipFile, sound: tuple[npt.NDArray[np.float32], int], codec: SpectrogramCodec
) -> npt.NDArray[np.uint8]:
    """Return the image of a clip in the codec of the training slices, in grey, at least as wide as they are.

    The image beside the sound is taken if it has that codec; else the sound is encoded.

    Args:
        file: The clip.
        sound: Its samples and their rate.
        codec: The codec.
    """
    if file.image is not None:
        try:
            loaded = load_image(file.image, use_description=False)
        except InputError:
            loaded = None
        own = None if loaded is None or loaded.config is None else dataclasses.replace(loaded.config, name="")
        is_wide = loaded is not None and loaded.image.shape[1] >= codec.config.width_px
        if loaded is not None and is_wide and own == dataclasses.replace(codec.config, name=""):
            return grey(loaded.image)
    wav = resample(*sound, codec.rate_hz)
    longer = wav.shape[1] > codec.clip_samples
    return grey((codec.encode_long(wav) if longer else codec.encode(wav)).image)
