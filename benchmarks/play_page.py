"""The live page in a real Chromium, played for a while: frames a second, and whether the sound keeps to the clock."""

import json
import os
import shutil
import time
from typing import Any

from playwright.sync_api import Page, sync_playwright

from benchmarks.report import Goal, Row
from riffusion_train.runtime.errors import InputError

SIZES = {"desktop": {"width": 1280, "height": 900}, "phone": {"width": 390, "height": 844}}
_STARTED_S = 20.0
_EVERY_MS = 100
_NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")

# Each frame that the page could draw, by the clock of the display.
_COUNT_FRAMES = """(seconds) => new Promise((resolve) => {
  const times = [];
  const count = (now) => {
    times.push(now);
    if (now - times[0] < 1000 * seconds) requestAnimationFrame(count);
    else resolve(times.slice(1).map((time, place) => time - times[place]));
  };
  requestAnimationFrame(count);
})"""


def page_rows(address: str, seconds: float) -> list[Row]:
    """Play the page of a server for so long at each size, with Chromium's software rendering.

    Raises:
        InputError: If no Chromium is installed.
    """
    found = next(filter(None, map(shutil.which, _NAMES)), None)
    if found is None:
        raise InputError(f"no Chromium is installed (looked for {', '.join(_NAMES)})")
    root = ["--no-sandbox"] if os.geteuid() == 0 else []  # Chromium's sandbox does not start for root
    rows = []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=found, args=[*root, "--disable-gpu"])
        for size, viewport in SIZES.items():
            page = browser.new_context(viewport=viewport).new_page()  # type: ignore[arg-type]
            page.goto(address)
            rows += _played(page, size, seconds)
            page.close()
        browser.close()
    return rows


def _played(page: Page, size: str, seconds: float) -> list[Row]:
    page.locator("#start").click()
    end = time.monotonic() + _STARTED_S
    while _report(page).get("played", 0) == 0:
        if time.monotonic() > end:
            raise InputError(f"the page at {size} size did not begin to play within {_STARTED_S:g} s")
        page.wait_for_timeout(_EVERY_MS)
    page.wait_for_timeout(1000)
    begin = _least_delayed(page)
    intervals_ms = page.evaluate(_COUNT_FRAMES, seconds)
    late_ms = 1000 * abs(_least_delayed(page) - begin)
    report = _report(page)
    fps = 1000 * len(intervals_ms) / sum(intervals_ms)
    slow = sorted(intervals_ms)[int(0.99 * len(intervals_ms))]
    what = f"the page at {size} size, {seconds:g} s"
    return [
        Row(f"{what}: frames", "1/s", [fps], (), Goal.ours_at_least, 59),
        Row(f"{what}: 99 % of the frames within", "ms", [slow]),
        Row(f"{what}: underruns", "times", [float(report["underruns"])], (), Goal.ours_at_most, 0),
        Row(f"{what}: what was played beside the clock", "ms", [late_ms], (), Goal.ours_at_most, 50),
    ]


def _report(page: Page) -> dict[str, Any]:
    return dict(json.loads(page.evaluate("document.getElementById('figures').dataset.report || '{}'")))


def _least_delayed(page: Page) -> float:
    """Return wall time less time played, in seconds, of the report that was delayed least of thirty."""
    lags = []
    for _ in range(30):
        now = _report(page)
        lags.append(now["wall"] / 1000 - now["played"] / now["rate"])
        page.wait_for_timeout(_EVERY_MS / 3)
    return min(lags)
