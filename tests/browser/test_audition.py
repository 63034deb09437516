"""The audition page in a real browser, opened from disk."""

import csv
import io
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.auditions import CLIP_S, EVIL, LEVELS_DB, make_site, write_clip, write_scores_beside
from support.chromium import SCREENSHOTS, serve_folder

from riffusion_train.audition.site import Cell, Site, Version, write_site

pytestmark = pytest.mark.browser

Open = Callable[..., Any]
NAMES = list(LEVELS_DB)
PHONE = {"viewport": {"width": 390, "height": 844}, "has_touch": True, "is_mobile": True}
SOUNDING = "sounding().length"


def data_of(audition: Path) -> Any:
    return json.loads((audition.parent / "site.json").read_text(encoding="utf-8"))


def wait(page: Any, condition: str) -> None:
    """Wait for a condition; playwright's own waiting needs `eval`, which the page's policy forbids."""
    for _ in range(400):
        if page.evaluate(condition):
            return
        page.wait_for_timeout(25)
    raise AssertionError(f"never came true: {condition}")


def play(page: Any, number: int) -> None:
    page.locator(".clip .play").nth(number).click()
    wait(page, "sounding().length === 1 && sounding()[0].currentTime > 0.1")


def names(page: Any, row: int = 0) -> list[str]:
    return list(page.locator(".row").nth(row).locator(".head strong").all_inner_texts())


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


def test_it_opens_from_disk_and_shows_every_clip_with_its_image(opened: Open, audition: Path) -> None:
    page = opened(audition)
    assert page.locator(".clip").count() == 12
    assert [names(page, row) for row in range(4)] == [NAMES] * 4
    page.evaluate("document.querySelectorAll('img').forEach((image) => { image.loading = 'eager'; })")
    wait(page, "[...document.images].every((image) => image.complete && image.naturalWidth === 32)")
    assert "2 prompts × 3 versions × 2 seeds: 12 clips" in page.inner_text("header")
    assert page.locator(".clip .play svg").count() == page.get_by_role("button", name="Play ").count() == 12


def test_long_names_are_shown_whole(opened: Open, tmp_path: Path) -> None:
    names = [f"runs/a-folder-with-a-long-name/step 12000 · guidance {scale}" for scale in (3, 7)]
    cells = [Cell(f"{number}", name, command="") for number, name in enumerate(names)]
    for cell in cells:
        write_clip(tmp_path, cell.stem)
    page = opened(write_site(tmp_path, Site("Previews", "", [Version(name, "run", 1) for name in names], cells)))
    cut = "[...document.querySelectorAll('.head strong')].filter((name) => name.scrollWidth > name.clientWidth).length"
    assert page.locator(".head strong").count() == 2 and page.evaluate(cut) == 0


def test_texts_of_others_are_shown_and_do_nothing(opened: Open, audition: Path) -> None:
    page = opened(audition)
    page.locator(".clip .info").nth(6).click()
    for place in ("h1", "main", "#sheet-prompt", "#sheet-facts", "#sheet-command"):
        assert EVIL in page.inner_text(place)
    assert page.evaluate("window.hacked") is None
    assert page.locator("main img").count() == 12


def test_one_clip_sounds_at_a_time_and_the_image_shows_where(opened: Open, audition: Path) -> None:
    page = opened(audition)
    play(page, 0)
    play(page, 4)
    assert page.evaluate(SOUNDING) == 1
    assert page.locator(".is-playing").count() == page.locator(".playhead:visible").count() == 1
    left = page.evaluate("parseFloat(document.querySelector('.is-playing .playhead').style.left)")
    assert 3 < left < 100
    page.locator(".clip .play").nth(4).click()
    assert page.evaluate(SOUNDING) == 0
    # The browser tells the page of a pause a little later.
    wait(page, "document.querySelectorAll('.is-playing').length === 0")


def test_another_version_goes_on_at_the_same_place(opened: Open, audition: Path) -> None:
    page = opened(audition)
    play(page, 0)
    for key, number in (("2", 1), ("3", 2), ("1", 0)):
        before = page.evaluate("sounding()[0].currentTime")
        page.keyboard.press(key)
        wait(page, "sounding().length === 1 && sounding()[0].currentTime > 0")
        after = page.evaluate("sounding()[0].currentTime")
        assert -0.02 < (after - before) % CLIP_S < 1.0
        wait(page, f"document.querySelectorAll('.clip')[{number}].className === 'clip is-current is-playing'")
    assert page.locator("#chips [aria-pressed=true]").inner_text().endswith(NAMES[0])
    page.keyboard.press("9")
    assert page.evaluate(SOUNDING) == 1


def test_a_paused_clip_keeps_its_place_in_another_version(opened: Open, audition: Path) -> None:
    page = opened(audition)
    page.locator(".clip .spectrogram").first.click(position={"x": 1, "y": 1})
    page.keyboard.press("Space")
    wait(page, "sounding().length === 0")
    page.locator("#position").fill("1.5")
    page.locator("#chips button").nth(2).click()
    assert page.evaluate("document.activeElement.textContent").endswith(NAMES[2])
    assert page.inner_text("#time") == "1.5 / 2.5 s"
    assert page.evaluate(SOUNDING) == 0
    page.keyboard.press("Space")
    wait(page, "sounding().length === 1")
    page.locator("#stars label").nth(1).click()
    page.keyboard.press("Space")
    wait(page, "sounding().length === 0")


def test_a_click_on_an_image_goes_to_that_moment(opened: Open, audition: Path) -> None:
    page = opened(audition)
    image = page.locator(".clip .spectrogram").nth(1)
    image.click(position={"x": 0.6 * image.bounding_box()["width"], "y": 20})
    wait(page, "sounding().length === 1")
    assert 0.58 * CLIP_S < page.evaluate("sounding()[0].currentTime") < 0.9 * CLIP_S


def test_all_versions_sound_equally_loud_unless_told_otherwise(opened: Open, audition: Path) -> None:
    page = opened(audition)
    loudness = {cell["audio"]: cell["metrics"]["loudness_lufs"] for cell in data_of(audition)["cells"]}
    heard = []
    for key in "123":
        play(page, 0) if key == "1" else page.keyboard.press(key)
        path, volume_db = page.evaluate(
            "(() => { const audio = sounding()[0]; return [decodeURIComponent(audio.src), 20 * Math.log10(audio.volume)]; })()"
        )
        heard.append(volume_db + next(loudness[name] for name in loudness if path.endswith(name)))
    assert max(heard) - min(heard) < 0.05
    assert max(loudness.values()) - min(loudness.values()) > 14
    page.keyboard.press("e")
    assert page.evaluate("sounding()[0].volume") == 1


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


@pytest.fixture(scope="module")
def scored(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("scored")
    site = make_site(folder)
    write_scores_beside(folder, site)
    return write_site(folder, site)


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


def test_details_tell_settings_measures_and_the_exact_command(opened: Open, audition: Path) -> None:
    page = opened(audition)
    page.locator(".clip .info").first.click()
    facts = page.inner_text("#sheet-facts")
    assert "guidance scale\n7" in facts and "−12.0 dBFS" in facts and "2.50 s" in facts
    assert page.inner_text("#sheet-command") == data_of(audition)["cells"][0]["command"]
    assert page.locator("#sheet a").all_inner_texts() == ["Open wav", "Open png", "Open json"]
    with page.context.expect_page() as other:
        page.locator("#sheet a").first.click()
    assert other.value.url.endswith("clips/v%200%231/0-seed0.wav")
    page.bring_to_front()
    page.keyboard.press("Escape")
    assert page.evaluate("document.activeElement.className") == "info"


def test_from_a_server_files_are_downloaded_as_they_are(opened: Open, audition: Path) -> None:
    with serve_folder(audition.parent) as address:
        page = opened(address)
        page.locator(".clip .info").first.click()
        for kind in ("wav", "png", "json"):
            with page.expect_download() as download:
                page.get_by_role("link", name=f"Download {kind}").click()
            there = audition.parent / f"clips/v 0#1/0-seed0.{kind}"
            assert Path(download.value.path()).read_bytes() == there.read_bytes()


def test_everything_can_be_reached_with_the_keyboard_alone(opened: Open, audition: Path) -> None:
    page = opened(audition)
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "clips"
    page.keyboard.press("Tab")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "spectrogram"
    page.keyboard.press("Enter")
    wait(page, "sounding().length === 1")
    page.keyboard.press("Space")
    wait(page, "sounding().length === 0")
    page.keyboard.press("End")
    assert page.inner_text("#time") == "2.5 / 2.5 s"
    page.keyboard.press("ArrowLeft")
    assert page.inner_text("#time") == "2.0 / 2.5 s"
    page.evaluate("document.activeElement.blur()")
    page.keyboard.press("Home")
    page.keyboard.press("ArrowRight")
    assert page.inner_text("#time") == "0.5 / 2.5 s"
    for key, row in (("ArrowDown", 1), ("ArrowDown", 2), ("ArrowUp", 1)):
        page.keyboard.press(key)
        assert page.locator(".row").nth(row).locator(".is-current").count() == 1
    page.keyboard.press("?")
    assert page.locator("#help").is_visible()
    page.keyboard.press("2")
    page.keyboard.press("Escape")
    assert page.inner_text("#now-version").startswith(NAMES[0])
    page.keyboard.press("i")
    assert page.locator("#sheet").is_visible()
    page.keyboard.press("Escape")
    page.keyboard.press("p")
    assert page.locator(".spectrogram").first.bounding_box()["height"] < 60


def test_keys_mean_themselves_while_a_text_is_typed(opened: Open, audition: Path) -> None:
    page = opened(audition)
    page.locator("#words").click()
    page.keyboard.type("b 1?")
    assert page.input_value("#words") == "b 1?"
    assert not page.is_checked("#blind") and page.locator("dialog[open]").count() == 0


def test_a_clip_ends_or_goes_on_as_told(opened: Open, audition: Path) -> None:
    page = opened(audition)
    play(page, 0)
    assert page.evaluate("sounding()[0].loop") is True
    page.keyboard.press("l")
    page.locator("#position").fill("2.4")
    wait(page, "sounding().length === 0")
    assert page.inner_text("#time") == "0.0 / 2.5 s"
    assert page.get_by_role("button", name="Play", exact=True).count() == 1


def test_a_sound_that_is_gone_is_said_and_the_next_one_plays(opened: Open, tmp_path: Path) -> None:
    site = make_site(tmp_path)
    page_file = write_site(tmp_path, site)
    shutil.move(tmp_path / f"{site.cells[0].stem}.wav", tmp_path / "gone")
    (tmp_path / f"{site.cells[0].stem}.png").unlink()
    page = opened(page_file, allow="ERR_FILE_NOT_FOUND")
    page.locator(".clip .play").first.click()
    wait(page, "document.getElementById('status').textContent.includes('cannot be played')")
    assert page.locator(".is-playing").count() == 0
    assert page.locator(".is-missing").count() == 1
    play(page, 1)


def test_a_grid_that_is_not_finished_says_what_is_missing(opened: Open, tmp_path: Path) -> None:
    site = make_site(tmp_path)
    page = opened(write_site(tmp_path, Site("t", "", site.versions, site.cells[:5])))
    assert page.locator(".missing").all_inner_texts().count(f"{NAMES[2]}: not made yet") == 4
    assert page.locator(".clip").count() == 5
    empty = tmp_path / "empty"
    empty.mkdir()
    assert opened(write_site(empty, Site("t", "", site.versions, []))).inner_text("main") == "There are no clips yet."


def test_without_storage_ratings_last_as_long_as_the_page_and_it_says_so(opened: Open, audition: Path) -> None:
    page = opened("about:blank")
    page.add_init_script("Object.defineProperty(window, 'localStorage', { get() { throw new Error('refused'); } });")
    page.goto(audition.as_uri())
    page.locator(".clip .play").first.click()
    page.keyboard.press("Shift+Digit5")
    assert "★ 5" in page.inner_text("main")
    assert len(ratings_file(page)) == 1


def test_with_reduced_motion_the_playhead_moves_in_steps_and_nothing_scrolls_smoothly(
    opened: Open, audition: Path
) -> None:
    page = opened(audition, reduced_motion="reduce")
    page.evaluate(
        "window.frames_asked = 0; const ask = requestAnimationFrame;"
        "window.requestAnimationFrame = (act) => { frames_asked += 1; return ask(act); }; null"
    )
    play(page, 0)
    wait(page, "parseFloat(document.querySelector('.is-playing .playhead').style.left) > 5")
    assert page.evaluate("frames_asked") == 0
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowDown")
    assert page.evaluate("document.querySelector('.is-current').getBoundingClientRect().top < innerHeight")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("device", ["desktop", "phone"])
def test_the_page_has_no_accessibility_fault_and_fits(opened: Open, audition: Path, scheme: str, device: str) -> None:
    from axe_playwright_python.sync_playwright import Axe

    options = PHONE if device == "phone" else {}
    page = opened(audition, color_scheme=scheme, bypass_csp=True, **options)
    play(page, 0)
    page.keyboard.press("Shift+Digit4")
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    axe = Axe()

    def check(state: str) -> None:
        page.screenshot(path=SCREENSHOTS / f"audition-{state}-{device}-{scheme}.png")
        found = axe.run(page).response["violations"]
        told = [(fault["id"], fault["impact"], [node["html"][:120] for node in fault["nodes"]][:3]) for fault in found]
        assert told == [], state
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), state

    check("grid")
    page.locator("#details").click()
    check("details")
    page.keyboard.press("Escape")
    page.keyboard.press("?")
    check("help")
    page.keyboard.press("Escape")
    page.click("#more summary")
    page.select_option("#order", "loudness_lufs")
    check("ordered")
    page.check("#blind")
    check("blind")


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


def test_a_phone_plays_by_touch_with_targets_large_enough(opened: Open, audition: Path) -> None:
    page = opened(audition, **PHONE)
    page.locator(".clip .play").nth(1).tap()
    wait(page, "sounding().length === 1")
    page.locator("#chips button").nth(2).tap()
    wait(page, "sounding().length === 1")
    boxes = page.locator("#player button, #stars label, .play, .info").evaluate_all(
        "list => list.map((one) => one.getBoundingClientRect()).map((box) => [box.width, box.height])"
    )
    assert min(min(box) for box in boxes) >= 24  # WCAG 2.2, target size (minimum)


def test_a_grid_of_a_thousand_clips_opens_and_reads_only_what_is_heard(opened: Open, tmp_path: Path) -> None:
    write_clip(tmp_path, "clips/one")
    site = write_site(tmp_path, Site("t", "", [Version("a", "s")], [Cell("clips/one", "a", "")]))
    data = json.loads((tmp_path / "site.json").read_text())
    cell = data["cells"][0]
    data["versions"] = [{**data["versions"][0], "id": f"v{n}", "name": f"step {n}"} for n in range(10)]
    data["cells"] = [
        {
            **cell,
            "id": f"c{n}",
            "version": f"v{n % 10}",
            "settings": {**cell["settings"], "prompt": f"prompt {n // 10}"},
        }
        for n in range(1000)
    ]
    from riffusion_train.audition.site import page_html

    site.write_text(page_html(data), encoding="utf-8")
    page = opened(site)
    assert page.locator(".clip").count() == 1000
    for number in (0, 500, 990):
        page.locator(".clip .play").nth(number).click()
    wait(page, "sounding().length === 1")
    assert page.evaluate("heard.filter((audio) => audio.hasAttribute('src')).length") == 10
