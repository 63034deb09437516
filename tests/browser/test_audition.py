"""The audition page in a real browser, opened from disk: it shows and plays clips, by mouse, key and touch."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.audition_page import NAMES, SOUNDING, data_of, names, play
from support.auditions import CLIP_S, EVIL, make_site, write_clip
from support.chromium import SCREENSHOTS, serve_folder
from support.play_page import PHONE, wait

from riffusion_train.audition.site import Cell, Site, Version, write_site

pytestmark = pytest.mark.browser

Open = Callable[..., Any]


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
