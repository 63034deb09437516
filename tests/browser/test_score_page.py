"""The pages of scores, of clips and of a run, in a real browser, opened from disk."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.auditions import EVIL
from support.chromium import SCREENSHOTS
from support.scores import write_run_page, write_score_page

pytestmark = pytest.mark.browser

Open = Callable[..., Any]
PHONE = {"viewport": {"width": 390, "height": 844}, "has_touch": True, "is_mobile": True}


@pytest.fixture(scope="module", params=[write_score_page, write_run_page], ids=["scores", "run"])
def scores(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Path(request.param(tmp_path_factory.mktemp("scores")))


def wait(page: Any, condition: str) -> None:
    for _ in range(400):
        if page.evaluate(condition):
            return
        page.wait_for_timeout(25)
    raise AssertionError(f"never came true: {condition}")


def test_clips_play_one_at_a_time_by_key_and_texts_do_nothing(opened: Open, scores: Path) -> None:
    page = opened(scores)
    playing = "document.querySelectorAll('.is-playing').length"
    buttons = page.locator(".controls button")
    for number in (0, 1):
        buttons.nth(number).focus()
        page.keyboard.press("Enter")
        wait(page, f"{playing} === 1 && document.querySelectorAll('.clip')[{number}].classList.contains('is-playing')")
    wait(page, "parseFloat(document.querySelector('.is-playing .playhead').style.left) > 2")
    assert EVIL in page.inner_text("h1") and page.evaluate("window.hacked") is None


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_nothing_is_wider_than_a_phone_and_axe_finds_nothing(
    opened: Open, scores: Path, scheme: str, request: pytest.FixtureRequest
) -> None:
    from axe_playwright_python.sync_playwright import Axe

    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    kind = "run-scores" if "run" in request.node.callspec.id else "scores"
    for name, options in (("desktop", {}), ("phone", PHONE)):
        page = opened(scores, color_scheme=scheme, bypass_csp=True, **options)
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        results = Axe().run(page)
        assert results.violations_count == 0, results.generate_report()
        page.evaluate("document.querySelectorAll('img').forEach((image) => { image.loading = 'eager'; })")
        wait(page, "[...document.images].every((image) => image.complete && image.naturalWidth > 0)")
        page.screenshot(path=SCREENSHOTS / f"{kind}-{name}-{scheme}.png", full_page=True)
