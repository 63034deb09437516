"""What the tests of the audition page do over and over: play a clip, read names and data."""

import json
from pathlib import Path
from typing import Any

from support.auditions import LEVELS_DB
from support.play_page import wait

NAMES = list(LEVELS_DB)
SOUNDING = "sounding().length"


def data_of(audition: Path) -> Any:
    """Return what the page was made of."""
    return json.loads((audition.parent / "site.json").read_text(encoding="utf-8"))


def play(page: Any, number: int) -> None:
    """Play a clip and wait until it sounds alone."""
    page.locator(".clip .play").nth(number).click()
    wait(page, "sounding().length === 1 && sounding()[0].currentTime > 0.1")


def names(page: Any, row: int = 0) -> list[str]:
    """Return the names above the clips of a row."""
    return list(page.locator(".row").nth(row).locator(".head strong").all_inner_texts())
