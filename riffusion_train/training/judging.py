"""The judge while training: clips of held-out captions, sampled from the averaged weights, and their figures."""

import functools

from riffusion_train.config.sample import clip_options
from riffusion_train.config.train import Monitor, ValidationConfig
from riffusion_train.dataset.cache import CACHE_DIR
from riffusion_train.dataset.order import spread
from riffusion_train.dataset.spectrograms import SpectrogramDataset
from riffusion_train.listening.captions import frequent_words
from riffusion_train.listening.distances import TooFewClipsError
from riffusion_train.listening.embedder import make_embedder
from riffusion_train.listening.heard import hear_units
from riffusion_train.listening.judge import Judge, JudgedClip, Reference, Scores
from riffusion_train.listening.real import DecodedSlices, grey, training_slices
from riffusion_train.model.components import Components
from riffusion_train.runtime.errors import InputError
from riffusion_train.training.distribution import Distribution
from riffusion_train.training.previews import sampler_of
from riffusion_train.training.validation import AGREEMENT, COPIES, KID

_METRICS = {"kid": KID, "agreement": AGREEMENT, "copies": COPIES}
"""Figures of the judge, and their names in `metrics.jsonl`."""
_BATCH_SIZE = 4
_RESAMPLES = 50
"""Intervals are not used here; the median of so many shuffled orders is the control."""


class TrainingJudge:
    """Samples the same clips again and again while a model is trained, and judges them. The first rank does the work.

    Args:
        config: Numbers of clips, and how they are sampled.
        components: The model in training.
        trained: The training split, in which copies are searched.
        held_out: The validation split, whose captions are the prompts and whose sounds the clips are compared with.
        distribution: Every rank gets the figures of the first one.

    Raises:
        InputError: If the held-out captions cannot be used.
    """

    def __init__(
        self,
        config: ValidationConfig,
        components: Components,
        trained: SpectrogramDataset,
        held_out: SpectrogramDataset,
        distribution: Distribution,
    ) -> None:
        self._config, self._components, self._distribution = config, components, distribution
        self._trained, self._held_out = trained, held_out
        self._rows = spread(len(held_out), config.num_real)
        self.prompts = held_out_prompts(held_out, config.num_clips)
        if not self.prompts:
            raise InputError(
                f"{held_out.folder.path}: its held-out slices have no captions to sample clips from; prepare the audio with "
                "captions, or take validation.num_clips=0"
            )
        if config.monitor is Monitor.agreement:
            self._require_words()

    def __call__(self, step: int) -> dict[str, float]:
        """Return the figures of the model as it is now, those that can be computed. Called by all ranks together.

        Raises:
            InputError: If the first rank cannot hear a clip, or a slice.
        """
        model, figures = self._distribution.whole_model(self._components), dict[str, float]()

        def judge() -> None:
            if self._distribution.is_main:
                figures.update(metrics_of(self.scores(model)))

        self._distribution.run_together(judge)
        return self._distribution.from_main(lambda: figures)

    def scores(self, model: Components) -> Scores:
        """Sample the clips from a model and judge them."""
        requests = [(prompt, "", number) for number, prompt in enumerate(self.prompts)]
        options = {
            **clip_options(self._config),
            "guidance_scale": self._config.guidance_scale,
            "unet_batch_size": _BATCH_SIZE,
        }
        with sampler_of(model, self._distribution.device, options) as sampler:
            clips = [
                JudgedClip(f"{number:03d}", (clip.audio, clip.rate_hz), prompt, grey(clip.image))
                for number, (prompt, clip) in enumerate(
                    zip(self.prompts, sampler.generate(requests, batch_size=_BATCH_SIZE), strict=True)
                )
            ]
        return self._judge.score(clips)

    def _require_words(self) -> None:
        """Refuse captions from which no agreement can be learnt, before anything is computed."""
        try:
            frequent_words([self._held_out.captions(row) for row in self._rows])
        except TooFewClipsError as error:
            raise InputError(
                f"{self._held_out.folder.path}: validation.monitor=agreement: {error}; prepare it again with a larger "
                "validation_ratio, or take validation.monitor=kid"
            ) from None

    @functools.cached_property
    def _judge(self) -> Judge:
        """Hear the real clips, once for all runs on the dataset, and prepare the search for copies."""
        embedder = make_embedder("musicnn")
        # In the clips' own quality, so that what the search for the phase leaves is no difference between them.
        decoded = DecodedSlices(self._held_out, self._rows, self._config.quality, str(self._distribution.device))
        cache = self._held_out.folder.path / CACHE_DIR
        heard = hear_units(decoded.units(), embedder, None, cache, "listening to the held-out slices")
        searched = spread(len(self._trained), self._config.num_searched)
        slices = training_slices(self._trained, searched, None) if searched else None
        reference = Reference(heard.heard, heard.captions, heard.tracks, slices)
        return Judge(reference, embedder, resamples=_RESAMPLES)


def held_out_prompts(held_out: SpectrogramDataset, num_prompts: int) -> list[str]:
    """Return prompts: the distinct captions of a split, spread evenly, and again from the first where there are too few."""
    distinct = list(dict.fromkeys(caption for caption in held_out.all_captions() if caption))
    if not distinct:
        return []
    chosen = [distinct[index] for index in spread(len(distinct), num_prompts)]
    return [chosen[number % len(chosen)] for number in range(num_prompts)]


def metrics_of(scores: Scores) -> dict[str, float]:
    """Return the figures that training goes by, by their names in `metrics.jsonl`; those left out are not in it."""
    rows = ((key, scores.row(what).value) for what, key in _METRICS.items())
    return {key: value for key, value in rows if value is not None}
