import pytest

from riffusion_train.player.prompts import PromptQueue
from riffusion_train.player.settings import ClipSpec, Settings
from riffusion_train.runtime.errors import InputError


def specs(queue: PromptQueue, count: int) -> list[ClipSpec]:
    return [queue.next().spec for _ in range(count)]


def texts(queue: PromptQueue, playing: int) -> list[tuple[str, str, int]]:
    return [(row["prompt"], row["state"], row["from_segment"]) for row in queue.rows(playing)]


def test_a_prompt_alone_walks_from_seed_to_seed():
    planned = specs(PromptQueue(Settings(prompt="a", seed=7, clips=4)), 6)
    assert [one.place for one in planned] == [0.0, 0.25, 0.5, 0.75, 1.0, 1.25]
    assert {(one.prompt, one.prompt_to, one.alpha, one.seed) for one in planned} == {("a", "a", 0.0, 7)}


def test_a_queued_prompt_is_reached_in_clips_steps_while_the_noise_stands_still():
    queue = PromptQueue(Settings(prompt="a", clips=4))
    specs(queue, 2)
    queue.add("b")
    assert queue.next_index == 2
    planned = specs(queue, 5)
    assert [(one.prompt, one.prompt_to, one.alpha) for one in planned[:3]] == [
        ("a", "b", 0.25), ("a", "b", 0.5), ("a", "b", 0.75),
    ]  # fmt: skip
    assert [one.place for one in planned] == [0.25, 0.25, 0.25, 0.25, 0.5]
    assert [(one.prompt, one.prompt_to, one.alpha) for one in planned[3:]] == [("b", "b", 0.0), ("b", "b", 0.0)]


def test_prompts_that_wait_follow_one_another_and_the_forecast_of_when_comes_true():
    queue = PromptQueue(Settings(prompt="a", clips=2))
    specs(queue, 3)
    for prompt in "bcd":
        queue.add(prompt)
    assert texts(queue, 2) == [("a", "playing", 0), ("b", "next", 3), ("c", "waiting", 5), ("d", "waiting", 7)]
    planned = specs(queue, 6)
    first = {to: 3 + [one.prompt_to for one in planned].index(to) for to in "bcd"}
    assert first == {"b": 3, "c": 5, "d": 7}
    assert texts(queue, 5) == [("a", "past", 0), ("b", "past", 3), ("c", "playing", 5), ("d", "next", 7)]


def test_what_plays_is_what_is_heard_and_not_what_is_made_already():
    queue = PromptQueue(Settings(prompt="a", clips=1))
    queue.next()
    queue.add("b")
    queue.next()
    assert texts(queue, 0) == [("a", "playing", 0), ("b", "next", 1)]
    assert texts(queue, 1) == [("a", "past", 0), ("b", "playing", 1)]


def test_a_prompt_can_be_removed_and_another_put_first():
    queue = PromptQueue(Settings(prompt="a"))
    waiting = [queue.add(prompt) for prompt in "bcd"]
    queue.remove(waiting[0].id)
    queue.put_first(waiting[2].id)
    assert [row["prompt"] for row in queue.rows(0)] == ["a", "d", "c"]
    with pytest.raises(InputError, match="no prompt with that id waits"):
        queue.remove(waiting[0].id)


def test_too_many_or_empty_prompts_are_refused():
    queue = PromptQueue(Settings(prompt="a"), max_waiting=2)
    with pytest.raises(InputError, match="is empty"):
        queue.add("")
    queue.add("b")
    queue.add("c")
    with pytest.raises(InputError, match="2 are waiting already"):
        queue.add("d")


@pytest.mark.parametrize("clips", [1, 2, 3, 4, 7, 64])
def test_the_settings_shared_at_any_moment_lead_on_in_the_same_way(clips: int):
    queue = PromptQueue(Settings(prompt="a", seed=3, clips=clips))
    steps = []
    for index in range(3 * clips):
        if index == clips // 2 + 1:
            queue.add("b")
        steps.append(queue.next())
    for start in range(len(steps)):
        again = PromptQueue(steps[start].share)
        for step in steps[start:]:
            if again.planned().spec.prompt_to == "a" and step.spec.prompt_to == "b":
                break  # the queue is not shared, only the moment
            assert again.next().spec == step.spec


def test_whole_seeds_stay_whole_over_many_clips():
    planned = specs(PromptQueue(Settings(clips=3)), 301)
    assert [one.place for one in planned[::3]] == [float(seeds) for seeds in range(101)]


def test_other_settings_hold_from_the_next_clip_and_another_seed_begins_at_its_own_noise():
    queue = PromptQueue(Settings(prompt="a", clips=4))
    specs(queue, 3)
    queue.change(Settings(prompt="not this way", seed=50, guidance_scale=3.0, clips=2))
    planned = specs(queue, 2)
    assert [(one.prompt, one.seed, one.place, one.guidance_scale) for one in planned] == [
        ("a", 50, 0.0, 3.0), ("a", 50, 0.5, 3.0),
    ]  # fmt: skip


def test_the_list_of_past_prompts_stays_short():
    queue = PromptQueue(Settings(prompt="a", clips=1), max_waiting=1000)
    queue.next()
    for number in range(300):
        queue.add(f"prompt {number}")
        queue.next()
    rows = queue.rows(queue.next_index - 1)
    assert len(rows) == 50 and rows[-1]["prompt"] == "prompt 299" and rows[-1]["state"] == "playing"
