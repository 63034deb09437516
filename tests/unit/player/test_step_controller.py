from hypothesis import given
from hypothesis import strategies as st

from riffusion_train.player.clips import StepController, capacity

SEGMENT_S = 5.0


def test_a_quick_machine_gets_the_steps_that_are_requested():
    controller = StepController(SEGMENT_S)
    assert [controller.steps(20, 5.0, 0.03, 0.2) for _ in range(3)] == [20, 20, 20]
    assert not controller.behind


def test_steps_are_lowered_before_the_sound_would_break_off():
    controller = StepController(SEGMENT_S)
    steps = controller.steps(20, 5.0, 0.4, 0.5)  # 20 steps would take 8.5 s
    assert 4 <= steps < 20 and steps * 0.4 + 0.5 < 5.0
    assert not controller.behind


def test_steps_come_back_little_by_little_when_there_is_time():
    controller = StepController(SEGMENT_S)
    low = controller.steps(20, 2.0, 0.3, 0.2)
    raised = [controller.steps(20, 10.0, 0.05, 0.2) for _ in range(12)]
    assert low < 20 and raised[-1] == 20
    assert all(0 <= after - before <= 2 for before, after in zip([low, *raised], raised, strict=False))


def test_steps_are_not_raised_to_what_would_not_last():
    controller = StepController(SEGMENT_S)
    controller.steps(50, 2.0, 0.3, 0.2)
    assert max(controller.steps(50, 14.0, 0.3, 0.2) for _ in range(30)) * 0.3 + 0.2 <= SEGMENT_S + 0.01


def test_a_machine_that_is_too_slow_says_so_and_does_what_it_can():
    controller = StepController(SEGMENT_S)
    assert controller.steps(20, 5.0, 2.0, 1.0) == 4
    assert controller.behind
    assert controller.steps(20, 12.0, 0.1, 0.1) > 4
    assert not controller.behind


@given(st.integers(1, 100), st.lists(st.floats(0, 20), min_size=1, max_size=20), st.floats(0, 5), st.floats(0, 5))
def test_steps_are_never_more_than_requested_and_never_none(
    requested: int, buffers: list[float], step_s: float, rest_s: float
):
    controller = StepController(SEGMENT_S)
    for buffered_s in buffers:
        steps = controller.steps(requested, buffered_s, step_s, rest_s)
        assert min(requested, 4) <= steps <= requested


def test_as_many_streams_are_let_in_as_leave_a_fifth_of_the_time_and_at_least_one():
    assert [capacity(factor) for factor in (0.1, 0.19, 0.4, 0.5, 3.0, 0.0)] == [8, 4, 2, 1, 1, 1]
