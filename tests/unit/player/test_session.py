"""A stream with a clock that the test sets, with the nano model computing its clips."""

import asyncio
import dataclasses
import io
from collections.abc import Callable
from typing import Any

import numpy as np
import PIL.Image
import pytest
from support.clock import Clock
from support.models import nano_components
from support.nano import NANO_SPECTROGRAM

from riffusion_train.config.spectrogram import Channels
from riffusion_train.player.clips import ClipMaker, Cost
from riffusion_train.player.loop import RETRY_AFTER_S, FullError, GenerationLoop
from riffusion_train.player.prompts import PromptQueue
from riffusion_train.player.session import Session, Timeouts
from riffusion_train.player.settings import ClipSpec, Settings
from riffusion_train.player.takes import warm_up
from riffusion_train.sampling.sampler import Sampler

BEGIN = Settings(prompt="a band", guidance_scale=1.0, num_inference_steps=2)
SEGMENT = 32 * 400
RATE_HZ = 16000


def changed(settings: Settings, **values: Any) -> Settings:
    return settings.model_copy(update=values)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def open_session(maker: ClipMaker, clock: Clock) -> Callable[..., Session]:
    def begin(settings: Settings = BEGIN, **timeouts: float) -> Session:
        return Session(settings, maker, clock, Timeouts(**timeouts))  # type: ignore[arg-type]

    return begin


def play(session: Session, count: int) -> list[bytes]:
    """Make segments as the generation loop does."""
    made = []
    for _ in range(count):
        session.publish(session.make(session.plan(1)))
        made.append(session.buffer.get(session.buffer.next_index - 1).pcm)
    return made


def test_segments_follow_one_another_without_a_gap(open_session: Callable[..., Session]):
    session = open_session(changed(BEGIN, seed_image="beats"))
    made = play(session, 3)
    session.prompts.add("something else")
    made += play(session, 5)
    wav = np.concatenate([np.frombuffer(pcm, "<i2") for pcm in made]).astype(int)
    assert len(wav) == 8 * SEGMENT
    steps = np.abs(np.diff(wav))
    cuts = np.arange(1, 8) * SEGMENT - 1
    assert steps[cuts].max() <= np.delete(steps, cuts).max()
    around = [np.delete(steps[cut - 200 : cut + 201], 200) for cut in cuts]
    assert all(steps[cut] <= near.max() for cut, near in zip(cuts, around, strict=True))
    assert np.abs(wav).max() > 3000  # there is something to hear


def test_a_shared_moment_gives_the_same_samples_and_the_same_image(
    open_session: Callable[..., Session], maker: ClipMaker
):
    session = open_session(changed(BEGIN, seed=5, clips=3))
    play(session, 2)
    session.prompts.add("another band")
    session.prompts.change(changed(session.prompts.settings, strength=0.5, seed_image="pad"))
    made = play(session, 5)
    for index in range(2, 7):
        shared = session.buffer.get(index)
        # As from a link, in a player that has not made it before.
        other = Session(shared.share, ClipMaker(maker.sampler), Clock(), Timeouts())
        assert play(other, 1) == [made[index - 2]]
        assert other.buffer.get(0).png == shared.png


@pytest.mark.parametrize("channels", [Channels.stereo, Channels.stereo_phase])
def test_two_channels_lie_side_by_side_and_the_image_has_colours(channels: Channels):
    components = nano_components()
    components.spectrogram = dataclasses.replace(NANO_SPECTROGRAM, channels=channels)
    session = Session(BEGIN, ClipMaker(Sampler(components, guidance_scale=1.0)), Clock(), Timeouts())
    made = [np.frombuffer(pcm, "<i2").reshape(-1, 2) for pcm in play(session, 2)]
    assert [one.shape for one in made] == [(SEGMENT, 2)] * 2
    assert not np.array_equal(made[1][:, 0], made[1][:, 1])
    with PIL.Image.open(io.BytesIO(session.buffer.get(1).png)) as image:
        assert (image.size, image.mode) == ((32, 32), "RGB")


def test_a_listener_gets_only_what_it_asked_for(open_session: Callable[..., Session]):
    session = open_session()
    listener = session.add_listener()
    assert not session.needs_segment
    session.update_credit(listener, 2, 0)
    assert session.needs_segment
    play(session, 3)
    assert [session.next_for(listener).index for _ in range(2)] == [0, 1]
    assert session.next_for(listener) is None
    assert not session.needs_segment


def test_nothing_is_made_further_ahead_than_three_segments(open_session: Callable[..., Session]):
    session = open_session()
    listener = session.add_listener()
    made = 0
    while session.needs_segment or made == 0:
        session.update_credit(listener, 3, 0)
        play(session, 1)
        made += 1
        while session.next_for(listener):
            pass
        session.update_credit(listener, 3, 0)
    assert made == 3
    session.update_credit(listener, 1, SEGMENT)  # one was heard
    assert session.needs_segment


def test_two_listeners_get_the_same_segments_in_order(open_session: Callable[..., Session]):
    session = open_session()
    one, other = session.add_listener(), session.add_listener()
    frames: dict[int, list[bytes]] = {id(one): [], id(other): []}
    for turn in range(6):
        play(session, 1)
        for listener, wants in ((one, 3), (other, turn % 2 * 2)):
            session.update_credit(listener, wants, 0)
            while segment := session.next_for(listener):
                frames[id(listener)].append(segment.frame())
    assert frames[id(one)] == frames[id(other)] == [session.buffer.get(index).frame() for index in range(6)]


def test_a_later_listener_begins_with_what_the_others_hear(open_session: Callable[..., Session]):
    session = open_session()
    first = session.add_listener()
    play(session, 5)
    session.update_credit(first, 3, 3 * SEGMENT + 100)
    late = session.add_listener()
    assert (late.next_index, late.discontinuity) == (3, True)
    assert (first.discontinuity, session.playing_index) == (False, 3)


def test_a_listener_whose_next_segment_was_dropped_goes_on_live_with_a_break(open_session: Callable[..., Session]):
    session = open_session(buffer_s=3 * SEGMENT / RATE_HZ)
    slow, quick = session.add_listener(), session.add_listener()
    play(session, 8)
    session.update_credit(quick, 3, 6 * SEGMENT)
    session.update_credit(slow, 3, 0)
    segment = session.next_for(slow)
    assert (segment.index, slow.discontinuity) == (6, True)


def test_a_listener_cannot_claim_to_have_heard_what_is_not_made(open_session: Callable[..., Session]):
    session = open_session()
    listener = session.add_listener()
    play(session, 2)
    session.update_credit(listener, 3, 2**52)
    assert session.played_sample == 2 * SEGMENT
    assert session.playing_index == 1


def test_the_buffer_runs_down_with_the_clock(open_session: Callable[..., Session], clock: Clock):
    session = open_session()
    listener = session.add_listener()
    play(session, 2)
    session.update_credit(listener, 3, 0)
    assert session.buffered_s == pytest.approx(1.6)
    clock.now_s += 1.0
    assert session.buffered_s == pytest.approx(0.6)
    clock.now_s += 10.0
    assert session.buffered_s == 0.0


def test_a_late_machine_says_so_lowers_the_steps_and_recovers(
    open_session: Callable[..., Session], clock: Clock, maker: ClipMaker
):
    session = open_session(changed(BEGIN, num_inference_steps=20))
    listener = session.add_listener()
    play(session, 1)
    maker.cost = Cost(step_s=0.5, rest_s=0.1)
    slow = session.plan(1)
    assert slow.spec.num_inference_steps == slow.share.num_inference_steps == 4
    assert listener.outbox[-1] == {"type": "behind", "behind": True, "steps": 4}
    for _ in range(3):
        session.publish(session.make(slow))
    maker.cost = Cost(step_s=0.001, rest_s=0.01)  # instead of what was measured
    session.update_credit(listener, 3, 0)
    assert session.plan(1).spec.num_inference_steps == 6
    assert listener.outbox[-1] == {"type": "behind", "behind": False, "steps": 6}


def test_a_stream_that_nobody_hears_ends_after_half_a_minute(open_session: Callable[..., Session], clock: Clock):
    session = open_session()
    clock.now_s += 29
    session.check()
    listener = session.add_listener()
    clock.now_s += 100
    session.check()
    assert session.closed is None
    session.remove_listener(listener)
    clock.now_s += 29
    session.check()
    assert session.closed is None
    clock.now_s += 2
    session.check()
    assert session.closed == "nobody listened"


def test_after_ten_idle_minutes_it_asks_and_without_an_answer_it_ends(
    open_session: Callable[..., Session], clock: Clock
):
    session = open_session()
    listener = session.add_listener()
    clock.now_s += 601
    session.check()
    assert listener.outbox.pop()["type"] == "idle"
    session.note_activity()
    clock.now_s += 599
    session.check()
    assert (session.closed, listener.outbox) == (None, [])
    clock.now_s += 2
    session.check()
    clock.now_s += 61
    session.check()
    assert session.closed == "nobody answered"
    assert [one["type"] for one in listener.outbox] == ["idle", "gone"]


def test_messages_for_a_listener_that_does_not_read_take_no_memory(open_session: Callable[..., Session]):
    session = open_session()
    listener = session.add_listener()
    for number in range(100):
        session.prompts.settings = changed(session.prompts.settings, prompt=str(number))
        session.send_queue()
    assert len(listener.outbox) == 1


def test_only_the_owner_is_the_owner(open_session: Callable[..., Session]):
    session = open_session()
    assert session.authorised(session.token)
    assert not session.authorised(None)
    assert not session.authorised("")
    assert not session.authorised("ä")


def test_a_full_player_gives_positions_in_line_and_admits_in_order(maker: ClipMaker, clock: Clock):
    async def scene() -> None:
        loop = GenerationLoop(maker, max_streams=1, clock=clock)
        playing = loop.open(BEGIN)
        tickets = []
        for position in (1, 2):
            with pytest.raises(FullError) as full:
                loop.open(BEGIN)
            assert full.value.position == position
            tickets.append(full.value.ticket)
        playing.close("over")
        loop.check()
        for stranger in (None, tickets[1]):
            with pytest.raises(FullError):
                loop.open(BEGIN, stranger)
        assert loop.open(BEGIN, tickets[0]).closed is None
        with pytest.raises(FullError) as full:
            loop.open(BEGIN, tickets[1])
        assert full.value.position == 1
        clock.now_s += 31  # the others have gone home
        assert loop.metrics()["waiting"] == 0

    asyncio.run(scene())


def test_tickets_of_those_who_left_lapse_and_block_nobody(maker: ClipMaker, clock: Clock):
    async def scene() -> None:
        loop = GenerationLoop(maker, max_streams=1, clock=clock)
        playing = loop.open(BEGIN)
        playing.add_listener()
        tickets = []
        for _ in range(60):  # each asks once and leaves
            with pytest.raises(FullError) as full:
                loop.open(BEGIN)
            tickets.append(full.value.ticket)
        for _ in range(3):  # one of them keeps asking, as it is told to
            clock.now_s += RETRY_AFTER_S
            with pytest.raises(FullError):
                loop.open(BEGIN, tickets[-1])
        assert loop.metrics()["waiting"] == 1
        playing.close("over")
        loop.check()
        assert loop.metrics()["sessions"] == 0
        assert loop.open(BEGIN, tickets[-1]).closed is None
        assert loop.metrics()["waiting"] == 0

    asyncio.run(scene())


def test_a_stream_without_listeners_ends_when_somebody_waits(maker: ClipMaker, clock: Clock):
    async def scene() -> None:
        loop = GenerationLoop(maker, max_streams=1, clock=clock)
        left = loop.open(BEGIN)
        listener = left.add_listener()
        clock.now_s += 10
        with pytest.raises(FullError) as full:
            loop.open(BEGIN)  # somebody listens
        ticket = full.value.ticket
        left.remove_listener(listener)
        clock.now_s += 2.9
        with pytest.raises(FullError):
            loop.open(BEGIN, ticket)  # the page may only be loading again
        clock.now_s += 0.2
        assert loop.open(BEGIN, ticket) is not left
        assert left.closed == "nobody listened, and somebody waited"

    asyncio.run(scene())


def test_the_time_of_a_clip_is_learned_from_those_that_were_made():
    cost = Cost()
    cost.add(10, 2.0, 0.5)
    assert cost.of(20) == pytest.approx(4.5)
    for _ in range(20):
        cost.add(20, 2.0, 0.2)
    assert cost.of(20) == pytest.approx(2.2, rel=0.01)


def test_the_first_clip_is_made_before_anybody_listens(maker: ClipMaker, clock: Clock, monkeypatch: pytest.MonkeyPatch):
    fresh = ClipMaker(maker.sampler)
    warm_up(fresh, PromptQueue(BEGIN).next().spec)
    made: list[ClipSpec] = []
    make = fresh._make
    monkeypatch.setattr(fresh, "_make", lambda spec, report: made.append(spec) or make(spec, report))
    session = Session(BEGIN, fresh, clock, Timeouts())
    play(session, 1)
    assert not made
    play(session, 1)
    assert len(made) == 1


def test_making_a_clip_measures_it_and_keeps_it(maker: ClipMaker):
    fresh = ClipMaker(maker.sampler, max_kept=2)
    fresh.warm_up()
    assert fresh.cost.step_s > 0 and fresh.cost.rest_s > 0
    specs = [ClipSpec(prompt="a", prompt_to="a", seed=seed, num_inference_steps=1) for seed in range(3)]
    first = [fresh.make(spec) for spec in specs]
    assert fresh.make(specs[2]) is first[2]
    again = fresh.make(specs[0])
    assert again is not first[0]
    np.testing.assert_array_equal(again.wav, first[0].wav)
