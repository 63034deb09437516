"""Changes of what plays, with the nano model: what was heard stays, and the log of changes restores every sample."""

import dataclasses
import json

import numpy as np
import pytest
from support.clock import Clock
from support.models import nano_components, nano_lora
from support.nano import NANO_SPECTROGRAM

from riffusion_train.config.spectrogram import Channels
from riffusion_train.player.clips import ClipMaker, Cost, StepController
from riffusion_train.player.faders import LoraFaders, NamedLora
from riffusion_train.player.session import GUARD_S, Session, Timeouts
from riffusion_train.player.settings import MAX_TURNS, ClipSpec, LoraFader, Part, Settings, apply_changes
from riffusion_train.player.takes import Grid, Made, begin, redraw
from riffusion_train.sampling.sampler import Sampler

BEGIN = Settings(prompt="a band", guidance_scale=1.0, num_inference_steps=2, strength=1.0)
RATE_HZ = 16000
SEGMENT = 32 * 400


def pcm_of(made: Made) -> np.ndarray:
    return np.frombuffer(made.segment.pcm, "<i2").astype(int)


class Stream:
    """A session that is played by hand.

    Args:
        maker: Makes its clips.
        settings: What it begins with.
    """

    def __init__(self, maker: ClipMaker, settings: Settings = BEGIN) -> None:
        self.clock = Clock()
        self.session = Session(settings, maker, self.clock, Timeouts())
        self.made: list[Made] = []
        self._maker = maker

    def play(self, count: int) -> None:
        for _ in range(count):
            made = self.session.make(self.session.plan(1))
            self.session.publish(made)
            self.made.append(made)

    def hear(self, sample: int) -> None:
        self.session.note_position(sample)

    def turn(self, **changes: object) -> Made | None:
        """Change something; what took no time is heard after the guard."""
        session, prompts = self.session, self.session.prompts
        if (prompt := changes.pop("now", None)) is not None:
            prompts.replace(str(prompt))
        prompts.change(prompts.settings.model_copy(update=changes))
        self._maker.turn_cost = self._maker.cost = Cost(0.0, 0.0, True)
        session.ask_for_turn()
        planned = session.plan_turn()
        made = None if planned is None else session.make_turn(planned)
        session.turning = False
        if made is not None:
            session.publish_turn(made)
            self.made.append(made)
        return made

    def heard(self) -> np.ndarray:
        buffer = self.session.buffer
        segments = buffer.between(0, buffer.end_sample)
        return np.concatenate([np.frombuffer(one.pcm, "<i2") for one in segments]).astype(int)


def test_a_change_replaces_what_is_not_heard_yet_and_nothing_else(maker: ClipMaker):
    stream = Stream(maker)
    stream.play(3)
    before = stream.heard()
    stream.hear(2000)
    made = stream.turn(now="something else")
    start = made.segment.start_sample
    assert 2000 + GUARD_S * RATE_HZ <= start <= 2000 + (GUARD_S + 0.1) * RATE_HZ
    assert (made.segment.index, stream.session.buffer.next_index) == (1, 2)
    after = stream.heard()
    np.testing.assert_array_equal(after[:start], before[:start])
    assert not np.array_equal(after[start : start + 2000], before[start : start + 2000])
    assert made.segment.spec.prompt == "something else"
    stream.play(2)
    kept = stream.session.buffer.between(0, 10**9)
    assert [one.index for one in kept] == [0, 1, 2, 3]
    assert kept[2].start_sample == made.segment.end_sample and kept[2].spec.prompt == "something else"


def test_no_step_at_a_change_is_larger_than_within_the_clips(maker: ClipMaker):
    stream = Stream(maker, BEGIN.model_copy(update={"seed_image": "beats"}))
    stream.play(2)
    cuts = []
    for prompt in ("one", "two", "three"):
        stream.hear(stream.session.buffer.end_sample - SEGMENT)
        cuts.append(stream.turn(now=prompt).segment.start_sample)
        stream.play(1)
    steps = np.abs(np.diff(stream.heard()))
    near = np.concatenate([np.arange(cut - 20, cut + 1000) for cut in cuts])
    assert steps[near].max() <= np.delete(steps, near).max()
    assert np.abs(stream.heard()).max() > 3000


@pytest.mark.parametrize("changes", [
    {"now": "another"}, {"guidance_scale": 3.0}, {"negative_prompt": "noise"}, {"seed_image": "pad", "strength": 0.6},
    {"mix": (Part(prompt="drums", weight=0.5),)}, {"seed": 9},
], ids=lambda changes: next(iter(changes)))  # fmt: skip
def test_every_change_is_restored_from_its_log_to_the_sample(maker: ClipMaker, changes: dict[str, object]):
    stream = Stream(maker, BEGIN.model_copy(update={"seed": 5}))
    stream.play(2)
    stream.hear(1500)
    stream.turn(**changes)
    stream.hear(1500 + 3000)
    stream.turn(num_inference_steps=2, guidance_from=100)
    stream.play(2)
    assert len(stream.made) == 6
    check_moments(stream, maker)


def test_a_long_log_of_changes_begins_a_clip_anew_and_every_moment_of_it_is_restored(maker: ClipMaker):
    stream = Stream(maker, BEGIN.model_copy(update={"clips": 2}))
    stream.play(1)
    lengths = []
    for number in range(MAX_TURNS + 3):
        newest = stream.made[-1].segment
        stream.hear(newest.start_sample - 500)  # the guard is long for clips of less than a second
        made = stream.turn(now=f"prompt {number}")
        assert made is not None, number
        lengths.append(len(made.take.turns))
    assert lengths == [*range(1, MAX_TURNS + 1), 0, 1, 2]
    stream.play(1)
    check_moments(stream, maker)


def check_moments(stream: Stream, maker: ClipMaker) -> None:
    """Check that each segment comes back from its link, in a player that has not made it before."""
    for made in stream.made:
        link = json.loads(json.dumps(made.segment.share.shared()))
        settings = apply_changes(Settings(), link, lambda id: False)
        assert settings == made.segment.share
        other = Stream(ClipMaker(maker.sampler), settings)
        other.play(1)
        assert other.made[0].segment.pcm == made.segment.pcm
        assert other.made[0].segment.png == made.segment.png


@pytest.mark.parametrize("channels", [Channels.stereo, Channels.stereo_phase])
def test_two_channels_are_changed_and_restored_too(channels: Channels):
    components = nano_components()
    components.spectrogram = dataclasses.replace(NANO_SPECTROGRAM, channels=channels)
    own = ClipMaker(Sampler(components, num_inference_steps=2, guidance_scale=1.0))
    stream = Stream(own)
    stream.play(1)
    stream.hear(1000)
    stream.turn(now="wide")
    check_moments(stream, own)


def test_where_the_codec_decodes_at_another_rate_what_was_heard_is_carried_on():
    components = nano_components()
    components.spectrogram = dataclasses.replace(
        NANO_SPECTROGRAM, decode_rate_hz=8000, decode_n_fft=1024, f_max_hz=4000.0
    )
    own = ClipMaker(Sampler(components, num_inference_steps=2, guidance_scale=1.0))
    stream = Stream(own)
    stream.play(1)
    stream.hear(1000)
    made = stream.turn(now="wide")
    steps = np.abs(np.diff(stream.heard()))
    cut = made.segment.start_sample
    near = np.arange(cut - 20, cut + 1000)
    assert steps[near].max() <= np.delete(steps, near).max()
    check_moments(stream, own)


def test_what_was_heard_is_held_fast_in_the_latents_and_carried_on_in_the_sound(maker: ClipMaker):
    grid = Grid.of(maker)
    clip = ClipSpec(prompt="a band", guidance_scale=1.0, num_inference_steps=2, seed_image="beats", strength=1.0)
    take = begin(maker, clip, None)
    column = 5
    redrawn = redraw(maker, take, clip.model_copy(update={"prompt": "another"}), column)
    first = column - grid.held
    held = np.roll(take.latents.numpy(), -first, -1)[..., : grid.held]
    np.testing.assert_allclose(redrawn.latents.numpy()[..., : grid.held], held, rtol=1e-5, atol=1e-6)
    assert not np.allclose(
        redrawn.latents.numpy()[..., grid.held :], np.roll(take.latents.numpy(), -first, -1)[..., grid.held :]
    )
    # The change that changes nothing: with the same settings the sound goes on as it would have, but for the last bits.
    join = column * grid.column_samples
    around = slice(join - redrawn.own.start - 200, join - redrawn.own.start + 200)
    wav = redrawn.own.wav[:, around]
    assert np.abs(np.diff(wav)).max() <= np.abs(np.diff(redrawn.own.wav)).max()


def test_a_groove_goes_on_where_it_was_after_a_change(maker: ClipMaker):
    grid = Grid.of(maker)
    stream = Stream(maker, BEGIN.model_copy(update={"seed_image": "beats", "strength": 0.0}))
    stream.play(1)
    stream.hear(1000)
    stream.turn(now="the same groove")
    stream.play(1)
    following = stream.made[-1]
    start = following.segment.start_sample
    assert following.take.spec.phase == start // grid.column_samples % grid.width
    # Of strength 0 it is the groove itself, which has a period of one segment.
    groove = stream.made[0].take.latents.numpy()
    np.testing.assert_array_equal(following.take.latents.numpy(), np.roll(groove, -following.take.spec.phase, -1))


def test_a_change_that_comes_too_late_for_what_is_made_is_heard_from_the_next_segment_on(maker: ClipMaker):
    stream = Stream(maker)
    stream.play(1)
    stream.hear(SEGMENT - 500)
    assert stream.turn(now="soon") is None
    stream.play(1)
    assert stream.made[-1].segment.spec.prompt == "soon"
    assert stream.made[-1].segment.start_sample == SEGMENT


@pytest.mark.parametrize("before_end", [100, 500, 900])
def test_a_change_that_comes_at_the_end_of_a_segment_is_heard_soon_after_the_next_one_begins(
    maker: ClipMaker, before_end: int
):
    """Too late for the crossfade to end in the segment that is heard, and before the next one begins."""
    stream = Stream(maker)
    stream.play(2)
    stream.hear(SEGMENT - round(GUARD_S * RATE_HZ) - before_end)
    made = stream.turn(now="at the edge")
    assert made is not None and SEGMENT < made.segment.start_sample <= SEGMENT + 1600
    stream.play(1)
    kept = stream.session.buffer.between(0, 10**9)
    assert [one.index for one in kept] == [0, 1, 2, 3]
    assert kept[2].spec.prompt == kept[3].spec.prompt == "at the edge"


def test_a_change_that_was_made_too_late_is_asked_for_again(maker: ClipMaker):
    stream = Stream(maker)
    stream.play(2)
    session, prompts = stream.session, stream.session.prompts
    stream.hear(1000)
    prompts.replace("at once")
    prompts.change(prompts.settings.model_copy(update={"seed": 77}))
    maker.turn_cost = Cost(0.0, 0.0, True)
    session.ask_for_turn()
    planned = session.plan_turn()
    assert (planned.clip.spec.prompt, planned.clip.spec.seed, planned.clip.spec.place) == ("at once", 77, 0.0)
    stream.hear(SEGMENT - 100)
    assert session.make_turn(planned) is None
    session.turning = False
    session.discard(planned)
    made = stream.turn()
    assert (made.segment.spec.prompt, made.segment.spec.seed, made.segment.spec.place) == ("at once", 77, 0.0)
    assert [row["prompt"] for row in session.queue()] == ["a band", "at once"]


@pytest.mark.parametrize(
    ("step_s", "strength", "steps"),
    [(0.001, 1.0, 10), (0.04, 1.0, 7), (0.2, 1.0, 5), (0.04, 0.5, 10), (0.1, 0.5, 6), (0.1, 0.0, 10)],
)
def test_a_change_has_fewer_steps_where_it_would_be_heard_late_but_at_least_half(
    maker: ClipMaker, step_s: float, strength: float, steps: int
):
    stream = Stream(maker, BEGIN.model_copy(update={"num_inference_steps": 10, "strength": strength}))
    stream.play(2)
    session = stream.session
    session._step_controller = StepController(maker.segment_s)  # the first clips were made in few steps, to begin soon
    session.prompts.replace("soon")
    maker.turn_cost = Cost(step_s, 0.1, True)
    session.ask_for_turn()
    expected_s = 0.1 + int(steps * strength + 1e-6) * step_s
    assert session.delay_s == pytest.approx(expected_s + GUARD_S)
    planned = session.plan_turn()
    assert planned.clip.spec.num_inference_steps == planned.clip.share.num_inference_steps == steps


def test_listeners_get_the_change_without_asking_and_those_behind_get_everything(maker: ClipMaker):
    stream = Stream(maker)
    session = stream.session
    quick, slow = session.add_listener(), session.add_listener()
    stream.play(3)
    session.update_credit(quick, 3, 0)
    session.update_credit(slow, 1, 0)
    for listener in (quick, slow):
        while session.next_for(listener):
            pass
    stream.hear(2000)
    made = stream.turn(now="else")
    assert session.next_for(quick).index == made.segment.index == 1
    assert session.next_for(quick) is None
    assert session.next_for(slow).pcm == made.segment.pcm


def test_prompts_are_mixed_by_their_faders(maker: ClipMaker):
    alone = ClipSpec(prompt="a", num_inference_steps=2, guidance_scale=2.0)
    mixed = alone.model_copy(update={"mix": (Part(prompt="b", weight=1.0),)})
    only_other = mixed.model_copy(update={"prompt_weight": 0.0})
    image = maker.make(alone).image
    assert not np.array_equal(maker.make(mixed).image, image)
    other = alone.model_copy(update={"prompt": "b"})
    np.testing.assert_array_equal(maker.make(only_other).image, maker.make(other).image)
    silent = alone.model_copy(update={"mix": (Part(prompt="b", weight=0.0),)})
    np.testing.assert_array_equal(maker.make(silent).image, image)


def test_lora_faders_do_what_merging_does_and_at_zero_nothing():
    from riffusion_train.model.lora import LoraLayer

    components = nano_components()
    lora = nano_lora(components, text=True)
    spec = ClipSpec(prompt="a band", num_inference_steps=2, guidance_scale=2.0)
    plain = ClipMaker(Sampler(nano_components(), guidance_scale=2.0)).make(spec).image
    own = ClipMaker(
        Sampler(components, guidance_scale=2.0), loras=LoraFaders(components, [NamedLora("mine", 0.0, lora)])
    )
    np.testing.assert_array_equal(own.make(spec).image, plain)
    faded = own.make(spec.model_copy(update={"loras": (LoraFader(name="mine", scale=0.5),)})).image
    merged = nano_components()
    for name, layer in lora.layers.items():
        part, _, rest = name.partition(".")
        weight = merged.modules[part].get_submodule(rest).weight
        assert isinstance(layer, LoraLayer)
        weight.data = layer.adapted(weight.data, 0.5)
    expected = ClipMaker(Sampler(merged, guidance_scale=2.0)).make(spec).image
    assert np.abs(faded.astype(int) - expected).max() <= 2 and not np.array_equal(faded, plain)
    np.testing.assert_array_equal(own.make(spec).image, plain)
