"""A take: a clip that plays, and the changes that are made to it meanwhile; a pure function of what was asked for, and when.

A change keeps what was heard. The latents of the take are a ring as long as a clip, which repeats with the groove. Up to some
column they are held fast; the others are noised again and denoised under the new settings. The sound of the new columns carries
on the phase of what was heard, and is crossfaded into it where the listener is by then.
"""

import dataclasses

import numpy as np
from torch import Tensor

from riffusion_train.config.spectrogram import Quality
from riffusion_train.player.clips import ClipMaker, Cost
from riffusion_train.player.prompts import PlannedClip, Progress
from riffusion_train.player.segments import Segment, crossfade
from riffusion_train.player.settings import ClipSpec, Settings, Turn
from riffusion_train.sampling.denoise import StepReport
from riffusion_train.sampling.modes.walk import crossfade_columns, crossfade_images

FADE_S = 0.06
"""The crossfade at a change."""
_OPENING_S = 3.0
"""The first clip is made before anybody listens if it takes no longer."""


@dataclasses.dataclass(frozen=True)
class Sound:
    """Samples of a take.

    Attributes:
        wav: float32 (channels, samples).
        start: The first one, counted from the beginning of the take.
        loops: Whether they repeat for ever, in both directions.
    """

    wav: np.ndarray
    start: int
    loops: bool = False

    @property
    def stop(self) -> int:
        """The first sample after them."""
        return self.start + self.wav.shape[1]

    def between(self, start: int, stop: int) -> np.ndarray:
        """Return the samples from `start` to `stop`; silence where there are none."""
        length = self.wav.shape[1]
        if self.loops:
            return self.wav[:, np.arange(start - self.start, stop - self.start) % length]
        first, last = start - self.start, stop - self.start
        inner = self.wav[:, max(first, 0) : max(last, 0)]
        before = min(max(-first, 0), stop - start)
        return np.pad(inner, ((0, 0), (before, stop - start - before - inner.shape[1])))


@dataclasses.dataclass(frozen=True)
class Left:
    """Where a take is left for the next one.

    Attributes:
        take: The take.
        sample: The first sample of the next one, counted from the beginning of this one.
    """

    take: "Take"
    sample: int


@dataclasses.dataclass(frozen=True)
class Take:
    """A clip as it stands after its changes so far.

    Attributes:
        clip: What it was at first.
        turns: Its changes.
        before: The take that it follows; None where the stream begins.
        latents: The newest clip's length of latents, (C, h, width).
        column: The first of their columns, counted from the beginning of the take.
        image: What they show, uint8.
        drawn: The same with the crossfade at the beginning of a take.
        own: Its sound by itself.
        heard: What is heard of it, with its crossfades, and an eighth of a clip beyond its end.
        begin: The sample that its newest part begins with.
        end: Where the next take begins.
    """

    clip: ClipSpec
    turns: tuple[Turn, ...]
    before: Left | None
    latents: Tensor
    column: int
    image: np.ndarray
    drawn: np.ndarray
    own: Sound
    heard: Sound
    begin: int
    end: int

    @property
    def spec(self) -> ClipSpec:
        """The settings of what is heard now."""
        return self.turns[-1].clip if self.turns else self.clip

    def moment(self) -> dict[str, object]:
        """Return the settings that restore its newest part, beside those of the clip itself."""
        values: dict[str, object] = {"phase": self.spec.phase}
        if self.turns:
            values |= {"opening": self.clip, "turns": self.turns}
        if self.before is not None:
            before = self.before.take
            left = None if self.before.sample == before.end else self.before.sample
            values |= {"before": before.clip, "before_turns": before.turns, "before_left": left}
        return values


@dataclasses.dataclass(frozen=True)
class Grid:
    """The measures of a model's takes, in columns of latents, columns of the image, and samples.

    Attributes:
        width: Columns of latents of a clip.
        scale: Columns of the image for one of latents.
        hop: Samples for one column of the image.
        fade: Samples from one take to the next.
        turn_fade: Samples of the crossfade at a change.
        known: Columns of the image whose sound a change carries on.
        around: Columns around these that are heard too.
    """

    width: int
    scale: int
    hop: int
    fade: int
    turn_fade: int
    known: int
    around: int

    @classmethod
    def of(cls, maker: ClipMaker) -> "Grid":
        """Return the measures of a model."""
        pipeline, codec = maker.sampler.pipeline, maker.sampler.codec
        hop = codec.config.hop_length
        fade = crossfade_columns(np.empty((1, codec.config.width_px))) * hop
        known, around = codec.decoder.lead_columns()
        turn_fade = min(round(FADE_S * codec.rate_hz), fade)
        return cls(pipeline.latent_shape[2], pipeline.downsampling, hop, fade, turn_fade, known, around)

    @property
    def column_samples(self) -> int:
        """Samples for one column of latents."""
        return self.scale * self.hop

    @property
    def held(self) -> int:
        """Columns of latents that a change holds fast: a third of a clip, and at least what its sound is carried on from."""
        return max(self.width // 3, -(-(self.known + self.around) // self.scale))

    def column_of(self, take: Take, sample: int) -> int:
        """Return the column of latents from which a change can be drawn that is to be heard at a sample of a take."""
        last = take.column + self.width if take.turns else take.end // self.column_samples
        return min(max(sample // self.column_samples, 0), last)

    def last_sample(self, take: Take) -> int:
        """Return the last sample of a take at which a change can be heard."""
        return take.end - self.turn_fade

    def first_sample(self, take: Take) -> int:
        """Return the first sample of a take at which a change can be heard: a part of its segment is left before it."""
        return take.begin + self.turn_fade


@dataclasses.dataclass(frozen=True)
class Made:
    """A segment, and what it was cut from.

    Attributes:
        segment: The segment.
        take: The take as it stands with it.
        start_sample: Where the take begins in the stream.
        progress: How far the prompts had come.
    """

    segment: Segment
    take: Take
    start_sample: int
    progress: Progress


@dataclasses.dataclass(frozen=True)
class PlannedTurn:
    """A change of what is not heard yet.

    Attributes:
        made: The segment in which it is heard first.
        clip: The settings that are new.
        column: The first column of latents that is new, counted from the beginning of the take.
        anew: Whether another take begins there.
    """

    made: Made
    clip: PlannedClip
    column: int
    anew: bool


def begin(maker: ClipMaker, clip: ClipSpec, before: Left | None, report: StepReport | None = None) -> Take:
    """Begin a take: a clip that begins as the one before it goes on, crossfaded into its own beginning."""
    grid = Grid.of(maker)
    loop = maker.make(clip, report)
    own = Sound(loop.wav, 0, loops=True)
    outgoing, drawn = None, loop.image
    if before is not None:
        outgoing = before.take.heard.between(before.sample, before.sample + grid.fade)
        column = before.sample // grid.hop - before.take.column * grid.scale
        drawn = crossfade_images(np.roll(before.take.image, -column, axis=1), loop.image)
    mixed = crossfade(outgoing, loop.wav, grid.fade, maker.sampler.codec.rate_hz)
    end = loop.wav.shape[1]
    heard = Sound(np.concatenate([mixed, own.between(end, end + grid.fade)], axis=1), 0)
    return Take(clip, (), before, loop.latents, 0, loop.image, drawn, own, heard, 0, end)


@dataclasses.dataclass(frozen=True)
class Redrawn:
    """A change that is made but for the moment at which it is heard.

    Attributes:
        take: The take before the change.
        clip: What it is changed to.
        column: The first column of latents that is new, counted from the beginning of the take.
        latents: As of `Take`.
        image: As of `Take`.
        own: As of `Take`.
    """

    take: Take
    clip: ClipSpec
    column: int
    latents: Tensor
    image: np.ndarray
    own: Sound


def redraw(
    maker: ClipMaker,
    take: Take,
    clip: ClipSpec,
    column: int,
    report: StepReport | None = None,
    cost: Cost | None = None,
) -> Redrawn:
    """Make a change of a take.

    Args:
        maker: The model.
        take: The take.
        clip: The settings that are new.
        column: The first column of latents that is new, counted from the beginning of the take.
        report: Called after every denoising step.
        cost: What learns how long it takes; None is the maker's.
    """
    grid = Grid.of(maker)
    first = column - grid.held
    with (cost or maker.turn_cost).measured(report) as timer:
        ring = maker.ring_from(take.latents, first - take.column)
        shown = np.roll(take.image, (take.column - first) * grid.scale, axis=1)
        latents, image = maker.redraw(clip, ring, shown, grid.held, clip.phase + first, timer)
        join = column * grid.column_samples
        before = take.own.between(join - (grid.known + grid.around) * grid.hop, join + grid.around * grid.hop)
        sounding = image[:, grid.held * grid.scale - grid.known :]
        new = maker.sampler.codec.decode_after(sounding, before, quality=Quality.draft, seed=clip.seed)
        start = first * grid.column_samples
        # One sound at one level: what was heard, and how it goes on.
        wav = np.concatenate([take.own.between(start, join), new], axis=1) * np.float32(maker.gain_of(new))
    return Redrawn(take, clip, column, latents, image, Sound(wav, start))


def turn(maker: ClipMaker, redrawn: Redrawn, sample: int) -> Take:
    """Return a take with a change that is heard from a sample on, counted from its beginning."""
    grid, take, own = Grid.of(maker), redrawn.take, redrawn.own
    old = take.heard.between(sample, sample + grid.turn_fade)
    mixed = crossfade(old, own.between(sample, own.stop), grid.turn_fade, maker.sampler.codec.rate_hz)
    turns = (*take.turns, Turn(column=redrawn.column, sample=sample, clip=redrawn.clip))
    column = redrawn.column - grid.held
    end = (own.stop - grid.fade) // grid.column_samples * grid.column_samples
    return Take(
        take.clip, turns, take.before, redrawn.latents, column, redrawn.image, redrawn.image, own, Sound(mixed, sample),
        sample, end,
    )  # fmt: skip


def restore(maker: ClipMaker, settings: Settings, report: StepReport | None = None) -> Take:
    """Return the take that a moment's settings describe: all of its changes are made again."""
    before = None
    if settings.before is not None:
        earlier = _with_turns(maker, begin(maker, settings.before, None, report), settings.before_turns, report)
        before = Left(earlier, earlier.end if settings.before_left is None else settings.before_left)
    clip = settings.clip() if settings.opening is None or not settings.turns else settings.opening
    return _with_turns(maker, begin(maker, clip, before, report), settings.turns, report)


def _with_turns(maker: ClipMaker, take: Take, turns: tuple[Turn, ...], report: StepReport | None) -> Take:
    for one in turns:
        take = turn(maker, redraw(maker, take, one.clip, one.column, report, Cost()), one.sample)
    return take


def warm_up(maker: ClipMaker, opening: ClipSpec) -> None:
    """Make two clips and two changes of few steps, which compiles what is compiled and measures what they cost.

    Args:
        maker: The model.
        opening: The clip that streams begin with where nothing else is asked for. Unless it takes long, it is made as well, so
            that the first of them begins at once.
    """
    maker.warm_up()
    take = begin(maker, ClipSpec(num_inference_steps=1), None)
    if maker.cost.of(opening.num_inference_steps) <= _OPENING_S:
        maker.make(opening)
    for steps in (1, 2):
        maker.turn_cost = Cost()
        redraw(maker, take, ClipSpec(num_inference_steps=steps, strength=1.0), Grid.of(maker).width // 2)
