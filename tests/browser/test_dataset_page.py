"""The dataset page in a real browser, opened from disk."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support import play_page
from support.chromium import SCREENSHOTS
from support.corpus_files import tone, write_track

from data_prep.captions.tables import read_table
from data_prep.pipeline import prepare
from riffusion_train.config.compose import compose
from riffusion_train.config.prepare import PrepareConfig

pytestmark = pytest.mark.browser

Open = Callable[..., Any]
EVIL = '<img src=x onerror="window.hacked=1"></script>'
PHONE = {"viewport": {"width": 390, "height": 844}, "has_touch": True, "is_mobile": True}


def config_for(audio: Path, out: Path, *arguments: str) -> PrepareConfig:
    common = ["spectrogram=small", "num_workers=0", "validation_ratio=0.3"]
    return compose("prepare", PrepareConfig, [f"audio={audio}", f"out={out}", *common, *arguments])


@pytest.fixture(scope="module")
def audio(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("audio")
    write_track(folder / "low.wav", tone(110, 11.0), 'a low tone, "soft"', "a second caption")
    write_track(folder / "high.wav", tone(880, 6.0), f"a high tone {EVIL}")
    (folder / "broken.mp3").write_bytes(b"no sound" * 100)
    (folder / "broken.txt").write_text(EVIL)
    return folder


@pytest.fixture(scope="module")
def page_file(audio: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return prepare(config_for(audio, tmp_path_factory.mktemp("made") / "out", "page_audio=true")).path / "index.html"


def wait(page: Any, condition: str) -> None:
    for _ in range(400):
        if page.evaluate(condition):
            return
        page.wait_for_timeout(25)
    raise AssertionError(f"never came true: {condition}")


def test_it_shows_texts_as_texts_and_filters_by_click_and_search(opened: Open, page_file: Path) -> None:
    page = opened(page_file)
    assert EVIL in page.inner_text("main") and page.evaluate("window.hacked") is None
    assert page.locator(".one").count() == 2 and "unreadable" in page.inner_text("#rejects")
    page.locator("[data-chart=split] button").last.click()
    assert page.locator(".one").count() == 1
    page.click("#clear")
    page.keyboard.type("second caption")
    assert page.locator(".one").count() == 1 and "low.wav" in page.inner_text("main")


def test_a_slice_sounds_and_the_original_goes_on_at_the_same_position(opened: Open, page_file: Path) -> None:
    page = opened(page_file)
    page.locator(".play").first.click()
    wait(page, "sounding().length === 1 && sounding()[0].currentTime > 0.2")
    before = page.evaluate("sounding()[0].src")
    page.keyboard.press("o")
    wait(page, "sounding().length === 1 && sounding()[0].currentTime > 0.15")
    assert page.evaluate("sounding()[0].src") != before
    page.keyboard.press("ArrowRight")
    wait(page, "sounding().length === 1 && document.querySelectorAll('.slice')[1].classList.contains('is-playing')")


def test_an_edited_caption_is_saved_as_a_table_that_prepare_reads(
    opened: Open, audio: Path, page_file: Path, tmp_path: Path
) -> None:
    page = opened(page_file)
    page.get_by_role("button", name="Edit the captions of low.wav").click()
    page.fill("#captions", 'a new "caption", with a comma\n=another')
    page.locator("#editor .main").click()
    assert 'a new "caption", with a comma' in page.inner_text("main")

    def shown_again() -> bool:  # a new process of Chromium may not yet have what the old one has just stored
        page.reload()
        return 'a new "caption", with a comma' in page.inner_text("main")

    play_page.wait(page, shown_again)
    with page.expect_download() as download:
        page.click("#save")
    path = tmp_path / "captions.csv"
    download.value.save_as(path)
    expected = ('a new "caption", with a comma', "=another")
    assert read_table(path).rows["low.wav"].captions == expected
    out = tmp_path / "out"
    shutil.copytree(page_file.parent, out)
    prepare(config_for(audio, out, "page_audio=true", f"table={path}"))
    assert "=another" in opened(out / "index.html").inner_text("main")


@pytest.mark.parametrize("device", ["desktop", "phone"])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_has_no_accessibility_fault_and_fits(opened: Open, page_file: Path, device: str, scheme: str) -> None:
    from axe_playwright_python.sync_playwright import Axe

    page = opened(page_file, color_scheme=scheme, bypass_csp=True, **(PHONE if device == "phone" else {}))
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    axe = Axe()
    for state, act in (("tracks", None), ("edit", "e"), ("help", "?")):
        if act == "e":
            page.locator(".edit").first.click()
        elif act:
            page.keyboard.press("Escape")
            page.keyboard.press(act)
        page.screenshot(path=SCREENSHOTS / f"dataset-{state}-{device}-{scheme}.png")
        found = axe.run(page).response["violations"]
        assert [(one["id"], [node["html"][:120] for node in one["nodes"]][:3]) for one in found] == [], state
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), state
