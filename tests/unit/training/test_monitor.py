from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from torch import Tensor, nn

from riffusion_train.runtime.errors import InputError
from riffusion_train.training.distribution import Distribution
from riffusion_train.training.previews import write_page
from riffusion_train.training.validation import Validation


class OneProcess:
    """What validation needs of a distribution, in this process."""

    is_main = True

    def __init__(self) -> None:
        self.logged: list[Mapping[str, float]] = []

    def log(self, values: Mapping[str, float], step: int) -> None:
        self.logged.append(values)


class MadeUp(Validation):
    """A validation whose losses and figures are given."""

    def __init__(self, folder: Path, figures: list[dict[str, float]], monitor: str, patience: int | None = 2) -> None:
        self.tracker = OneProcess()
        self.names = ("validation_loss_t0.5",)
        given = iter(figures)
        super().__init__(
            cast(Any, self),
            cast(Distribution, self.tracker),
            folder / "metrics.jsonl",
            every_steps=1,
            patience=patience,
            keep_best=False,
            judge=lambda step: next(given),
            monitor=monitor,
        )

    def _losses(self, objective: nn.Module) -> Tensor:
        return torch.ones(1, 1)


def measured(validation: Validation, count: int) -> list[bool]:
    return [validation.measure(nn.Identity(), step) for step in range(1, count + 1)]


def judged(kid: float, copies: float = 0.0, agreement: float = 0.5) -> dict[str, float]:
    return {"validation_kid": kid, "validation_copies": copies, "validation_agreement": agreement}


@pytest.mark.parametrize(("monitor", "better"), [("kid", [True, True, False]), ("agreement", [True, False, True])])
def test_the_monitor_says_which_measurement_is_better(tmp_path: Path, monitor: str, better: list[bool]) -> None:
    figures = [judged(0.3, agreement=0.6), judged(0.1, agreement=0.5), judged(0.2, agreement=0.7)]
    assert measured(MadeUp(tmp_path, figures, monitor), 3) == better


def test_a_run_that_stops_says_what_rises_meanwhile(tmp_path: Path) -> None:
    validation = MadeUp(tmp_path, [judged(0.2), judged(0.1, 0.01), judged(0.11, 0.05), judged(0.12, 0.14)], "kid")
    measured(validation, 4)
    assert validation.exhausted
    assert validation.stop_reason() == (
        "KID has not been below 0.1 since step 2, while copies of training slices rose from 1% to 14% of the clips"
    )


def test_figures_go_to_the_tracker_and_to_the_metrics(tmp_path: Path) -> None:
    validation = MadeUp(tmp_path, [judged(0.2, 0.01, 0.7)], "kid")
    measured(validation, 1)
    assert validation.tracker.logged[0].items() >= judged(0.2, 0.01, 0.7).items()
    assert '"validation_kid": 0.2' in (tmp_path / "metrics.jsonl").read_text()


def test_a_monitor_that_cannot_be_measured_ends_the_run_with_what_to_do(tmp_path: Path) -> None:
    validation = MadeUp(tmp_path, [{"validation_kid": 0.2}], "agreement")
    with pytest.raises(InputError, match=r"cannot be measured .* take validation\.monitor=loss"):
        measured(validation, 1)


def test_a_state_of_version_0_1_0_counts_for_the_loss_and_not_for_kid(tmp_path: Path) -> None:
    old = {"best_loss": 0.25, "best_step": 500, "without_improvement": 1}
    by_loss, by_kid = MadeUp(tmp_path, [], "loss"), MadeUp(tmp_path, [], "kid")
    for validation in (by_loss, by_kid):
        validation.restore(old)
    assert (by_loss.best_value, by_loss.best_step, by_loss.without_improvement) == (0.25, 500, 1)
    assert (by_kid.best_value, by_kid.best_step, by_kid.without_improvement) == (None, 0, 0)


def test_a_state_continues_what_it_was_taken_from(tmp_path: Path) -> None:
    figures = [judged(0.2, 0.02), judged(0.3, 0.1)]
    before, after = MadeUp(tmp_path, figures, "kid"), MadeUp(tmp_path, [], "kid")
    measured(before, 2)
    after.restore(before.state())
    assert after.state() == before.state()
    assert after.stop_reason() == before.stop_reason()


def test_a_page_of_previews_without_previews_or_metrics_is_empty(tmp_path: Path) -> None:
    (tmp_path / "previews").mkdir()
    assert write_page(tmp_path / "previews").is_file()
