"""Choosing among clips on the audition page: ratings, blind listening, filters, order, scores, and links to all that."""

import csv
import io
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.audition_page import NAMES, SOUNDING, names, play
from support.auditions import EVIL, make_site, write_clip, write_scores_beside
from support.chromium import SCREENSHOTS
from support.play_page import PHONE

from riffusion_train.audition.site import Cell, Site, Version, write_site

pytestmark = pytest.mark.browser

Open = Callable[..., Any]


@pytest.fixture(scope="module")
def scored(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("scored")
    site = make_site(folder)
    write_scores_beside(folder, site)
    return write_site(folder, site)


def versions_of(page: Any, row: int) -> list[str]:
    """Return the numbers of a row's versions, from the folders that their images lie in."""
    images = page.locator(".row").nth(row).locator("img")
    return [re.findall(r"v%20(\d)%231", source)[0] for source in images.evaluate_all("l => l.map((i) => i.src)")]


def ratings_file(page: Any) -> list[dict[str, str]]:
    with page.expect_download() as download:
        page.get_by_role("button", name="Save ratings").click()
    assert download.value.suggested_filename == "ratings.csv"
    text = Path(download.value.path()).read_text(encoding="utf-8-sig")
    return list(csv.DictReader(io.StringIO(text, newline="")))


def test_blind_listening_hides_what_is_what_and_the_ratings_tell_it(opened: Open, audition: Path) -> None:
    page = opened(audition)
    play(page, 0)
    page.keyboard.press("Shift+Digit2")
    page.keyboard.press("b")
    assert page.evaluate(SOUNDING) == 0
    shown = page.inner_text("body")
    assert not [text for text in (*NAMES, "LUFS", "★ 2", "runs/") if text in shown.replace("★\n", "")]
    assert [names(page, row) for row in range(4)] == [["A", "B", "C"]] * 4
    page.keyboard.press("i")
    assert page.locator("dialog[open]").count() == page.locator(".info").count() == 0
    order = versions_of(page, 0)
    for key in "123":
        page.keyboard.press(key)
        page.keyboard.press(f"Shift+Digit{key}")
    page.reload()
    assert [box.strip() for box in page.locator(".row").first.locator(".measure").all_inner_texts()] == [
        "★ 1",
        "★ 2",
        "★ 3",
    ]
    page.keyboard.press("b")
    tally = page.inner_text("#tally")
    assert all(name in tally for name in NAMES)
    rows = ratings_file(page)
    unseen = {row["version"]: (row["label"], row["rating"]) for row in rows if row["blind"] == "yes"}
    places = {name: order.index(str(number)) for number, name in enumerate(NAMES)}
    assert unseen == {name: ("ABC"[place], str(place + 1)) for name, place in places.items()}
    assert [(row["version"], row["rating"]) for row in rows if row["blind"] == "no"] == [(NAMES[0], "2")]


def test_each_blind_session_shuffles_anew_and_each_row_by_itself(opened: Open, audition: Path) -> None:
    page = opened(audition)
    orders = set()
    for _ in range(6):
        page.keyboard.press("b")
        orders |= {tuple(versions_of(page, row)) for row in range(4)}
        page.keyboard.press("b")
    assert len(orders) >= 4
    assert all(sorted(order) == ["0", "1", "2"] for order in orders)


def test_ratings_can_be_given_with_the_mouse_taken_back_and_are_safe_for_spreadsheets(
    opened: Open, audition: Path, tmp_path: Path
) -> None:
    write_clip(tmp_path, "clips/a", prompt='=HYPERLINK("http://x"),\n"y"')
    page = opened(write_site(tmp_path, Site("t", "", [Version("+v", "@s")], [Cell("clips/a", "+v", "")])))
    page.get_by_role("button", name="Save ratings").click()
    assert page.inner_text("#status") == "Nothing is rated yet"
    page.locator(".clip .play").click()
    page.locator("#stars label").nth(3).click()
    (row,) = ratings_file(page)
    assert (row["prompt"], row["version"], row["source"]) == ('\'=HYPERLINK("http://x"),\n"y"', "'+v", "'@s")
    assert (row["rating"], row["blind"], row["clip"]) == ("4", "no", "clips/a")
    page.keyboard.press("Shift+Digit0")
    assert page.locator("#stars input:checked").count() == 0
    assert not page.locator("#tally").is_visible()


def test_clips_can_be_filtered_and_ordered_by_a_measure(opened: Open, audition: Path) -> None:
    page = opened(audition)
    page.select_option("#order", "loudness_lufs")
    loudest = [float(text.split()[0].replace("−", "-")) for text in page.locator(".measure span").all_inner_texts()]
    assert len(loudest) == 12 and loudest == sorted(loudest, reverse=True)
    page.click("#reverse")
    quietest = [float(text.split()[0].replace("−", "-")) for text in page.locator(".measure span").all_inner_texts()]
    assert quietest == sorted(loudest)
    page.click("#more summary")
    page.get_by_label("loudness from, LUFS").fill("-20")
    assert page.locator(".clip").count() == sum(value >= -20 for value in loudest) > 0
    page.get_by_label(NAMES[0], exact=True).uncheck()
    assert NAMES[0] not in page.inner_text("main")
    page.get_by_label("loudness from, LUFS").fill("50")
    assert page.inner_text("main") == "No clip matches. Clear a filter."


def test_clips_can_be_filtered_and_ordered_by_scores_and_copies_are_flagged(opened: Open, scored: Path) -> None:
    page = opened(scored)
    assert page.locator(".flag").count() == 2 and EVIL.split("/")[-1] in page.locator(".flag").first.inner_text()
    assert "caption match 100 %" in page.locator(".measure").first.inner_text()
    page.locator("#order").select_option("copy_similarity")
    assert page.locator(".measure").first.inner_text() == "100 %"
    assert page.locator(".measure").last.inner_text() == "–"
    page.locator("#copies").focus()
    page.keyboard.press("o")  # only flagged: the list can be used by key
    page.locator("#copies").select_option("only")
    assert page.locator(".clip").count() == 2 and "copies=only" in page.url
    page.locator("#copies").select_option("hide")
    assert page.locator(".clip").count() == 10 and page.locator(".flag").count() == 0
    page.locator("summary").click()
    page.get_by_label("realness to, %").fill("20")
    page.get_by_label("realness from, %").fill("10")
    assert list(page.locator(".measure").all_inner_texts()) == ["33 %", "25 %"]
    again = opened(scored.as_uri() + page.url[page.url.index("#") :])
    assert again.locator(".clip").count() == 2 and again.locator("#copies").input_value() == "hide"


def test_the_details_and_the_help_explain_scores(opened: Open, scored: Path) -> None:
    page = opened(scored)
    page.locator(".clip .info").first.click()
    assert "flagged: 100 % similar to a slice of" in page.inner_text("#sheet-facts")
    assert "A minor" in page.inner_text("#sheet-facts") and page.evaluate("window.hacked") is None
    page.keyboard.press("Escape")
    page.keyboard.press("?")
    assert "how typical the clip is among real ones" in page.inner_text("#help")


def test_blind_listening_hides_scores_and_flags(opened: Open, scored: Path) -> None:
    page = opened(scored)
    page.locator("#copies").select_option("hide")
    page.keyboard.press("Escape")
    page.locator("h1").click()
    page.keyboard.press("b")
    assert page.locator(".clip").count() == 12 and page.locator(".flag").count() == 0
    assert not page.locator("#copies").is_visible() and "%" not in page.inner_text("main")


def test_rows_can_be_filtered_by_prompt_and_seed(opened: Open, audition: Path) -> None:
    page = opened(audition)
    page.keyboard.press("/")
    page.keyboard.type("LOW b")
    assert page.locator(".row").count() == 2
    page.keyboard.press("Escape")
    page.select_option("#seed", "7")
    assert page.locator(".row h3").all_inner_texts() == ["Seed 7"]
    assert "3 of 12 clips" in page.inner_text("header")


def test_a_link_restores_what_was_shown_and_where_it_played(opened: Open, audition: Path) -> None:
    page = opened(audition)
    page.keyboard.press("l")
    page.keyboard.press("e")
    page.locator(".clip .play").nth(10).click()
    page.keyboard.press("Space")
    page.locator("#position").fill("1.25")
    page.select_option("#seed", "7")
    page.select_option("#order", "peak_dbfs")
    page.get_by_role("button", name="Copy link").click()
    other = opened(page.url)
    assert other.url == page.url
    for part in ("main", "#player", "header"):
        assert other.inner_text(part) == page.inner_text(part)
    assert other.inner_text("#time") == "1.3 / 2.5 s"
    assert [other.is_checked(f"#{name}") for name in ("equal", "loop", "blind", "images")] == [
        False,
        False,
        False,
        True,
    ]
    assert other.evaluate(SOUNDING) == 0
    assert other.locator(".is-current").is_visible()


@pytest.mark.parametrize(
    "words", ["clip=nothing&t=abc", "order=x.y&seed=99&where.peak_dbfs=a..b", "%E0%A4%A&without=%00", "clip"]
)
def test_a_link_that_says_nonsense_opens_the_page_all_the_same(opened: Open, audition: Path, words: str) -> None:
    page = opened(f"{audition.as_uri()}#{words}")
    assert page.locator(".clip").count() == 12


def test_without_storage_ratings_last_as_long_as_the_page_and_it_says_so(opened: Open, audition: Path) -> None:
    page = opened("about:blank")
    page.add_init_script("Object.defineProperty(window, 'localStorage', { get() { throw new Error('refused'); } });")
    page.goto(audition.as_uri())
    page.locator(".clip .play").first.click()
    page.keyboard.press("Shift+Digit5")
    assert "★ 5" in page.inner_text("main")
    assert len(ratings_file(page)) == 1


@pytest.mark.parametrize("device", ["desktop", "phone"])
def test_the_page_with_scores_has_no_accessibility_fault_and_fits(opened: Open, scored: Path, device: str) -> None:
    from axe_playwright_python.sync_playwright import Axe

    page = opened(scored, bypass_csp=True, **(PHONE if device == "phone" else {}))
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    page.evaluate("document.querySelectorAll('img').forEach((image) => { image.loading = 'eager'; })")
    page.locator("summary").click()
    for state, act in (("scores", lambda: None), ("scores-help", lambda: page.keyboard.press("?"))):
        act()
        page.screenshot(path=SCREENSHOTS / f"audition-{state}-{device}.png", full_page=state == "scores")
        assert Axe().run(page).response["violations"] == []
        assert page.evaluate("document.documentElement.scrollWidth <= screen.width")
