import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from support.auditions import CLIP_S, EVIL, LEVELS_DB, make_site, write_clip

from riffusion_train.audition.site import Cell, Site, Version, page_html, write_site
from riffusion_train.runtime.errors import InputError


class Reader(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: dict[str, str] = {}
        self.open = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self.open = dict(attrs).get("id") or tag

    def handle_data(self, data: str) -> None:
        self.texts[self.open] = self.texts.get(self.open, "") + data


def read(path: Path) -> Reader:
    reader = Reader()
    reader.feed(path.read_text(encoding="utf-8"))
    return reader


def test_texts_of_others_are_data_and_never_markup(tmp_path: Path) -> None:
    reader = read(write_site(tmp_path, make_site(tmp_path)))
    assert [attrs.get("type") for tag, attrs in reader.tags if tag == "script"] == ["application/json", None]
    assert not [tag for tag, _ in reader.tags if tag == "img"]
    assert reader.texts["title"].strip() == f"Listening {EVIL}"
    assert "hacked" not in reader.texts["script"]
    data = json.loads(reader.texts["site"])
    assert data["command"] == f"riffusion evaluate grid {EVIL}"
    assert {cell["settings"]["prompt"] for cell in data["cells"]} == {"a low band", EVIL}


def test_the_page_allows_only_its_own_script_and_fetches_nothing(tmp_path: Path) -> None:
    page = write_site(tmp_path, make_site(tmp_path))
    reader = read(page)
    policy = next(attrs["content"] for _, attrs in reader.tags if attrs.get("http-equiv") == "Content-Security-Policy")
    assert policy is not None and "default-src 'none'" in policy and "unsafe" not in policy
    assert not [attrs for _, attrs in reader.tags if {"src", "style", "onclick", "onload"} & set(attrs)]
    text = page.read_text(encoding="utf-8")
    assert set(re.findall(r"https?://[\w./]+", text)) == {"http://www.w3.org/2000/svg"}
    assert ".innerHTML" not in text and "eval(" not in text


def test_a_site_lists_each_clip_with_its_files_settings_measures_and_command(tmp_path: Path) -> None:
    write_site(tmp_path, make_site(tmp_path))
    data = json.loads((tmp_path / "site.json").read_text(encoding="utf-8"))
    assert [version["name"] for version in data["versions"]] == list(LEVELS_DB)
    assert len(data["cells"]) == 12 == len({cell["id"] for cell in data["cells"]})
    for cell in data["cells"]:
        assert (tmp_path / cell["audio"]).is_file() and (tmp_path / cell["image"]).is_file()
        assert cell["command"].endswith(f"seed={cell['settings']['seed']}")
        assert cell["duration_s"] == pytest.approx(CLIP_S)
    first = data["cells"][0]
    assert first["metrics"]["peak_dbfs"] == pytest.approx(-12.0, abs=0.05)
    quietest = min(cell["metrics"]["loudness_lufs"] for cell in data["cells"])
    assert data["target_lufs"] == pytest.approx(quietest + 3.01, abs=0.01)  # mono, on two speakers


def test_what_a_clip_is_called_stays_the_same_while_the_site_grows(tmp_path: Path) -> None:
    site = make_site(tmp_path)
    write_site(tmp_path, Site(site.title, "", site.versions[1:2], [site.cells[5]]))
    before = json.loads((tmp_path / "site.json").read_text())["cells"][0]
    write_site(tmp_path, site)
    after = json.loads((tmp_path / "site.json").read_text())["cells"][5]
    assert (before["id"], before["stem"]) == (after["id"], after["stem"])


def test_a_clip_is_measured_again_only_when_its_files_change(tmp_path: Path) -> None:
    site = make_site(tmp_path)
    write_site(tmp_path, site)
    data = json.loads((tmp_path / "site.json").read_text())
    data["cells"][0]["metrics"]["loudness_lufs"] = -99.0
    (tmp_path / "site.json").write_text(json.dumps(data))
    write_site(tmp_path, site)
    assert json.loads((tmp_path / "site.json").read_text())["cells"][0]["metrics"]["loudness_lufs"] == -99.0
    write_clip(tmp_path, site.cells[0].stem, level_db=-30.0)
    write_site(tmp_path, site)
    again = json.loads((tmp_path / "site.json").read_text())["cells"][0]["metrics"]
    assert again["peak_dbfs"] == pytest.approx(-30.0, abs=0.05)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"metrics": [], "cells": 3}', '{"cells": [{}]}'])
def test_a_site_file_that_cannot_be_read_is_written_anew(tmp_path: Path, text: str) -> None:
    site = make_site(tmp_path)
    (tmp_path / "site.json").write_text(text)
    write_site(tmp_path, site)
    assert len(json.loads((tmp_path / "site.json").read_text())["cells"]) == 12


@pytest.mark.parametrize("kind", ["wav", "png", "json"])
def test_a_missing_file_of_a_clip_is_named_and_no_page_is_left(tmp_path: Path, kind: str) -> None:
    site = make_site(tmp_path)
    file = tmp_path / f"{site.cells[3].stem}.{kind}"
    file.unlink()
    with pytest.raises(InputError, match=f"{re.escape(str(file))}: missing; make the clip again"):
        write_site(tmp_path, site)
    assert not (tmp_path / "index.html").exists()


@pytest.mark.parametrize("text", ["", "[]", "null", '{"prompt": 3, "seed": 0}', '{"prompt": "x"}'])
def test_settings_that_are_none_are_named(tmp_path: Path, text: str) -> None:
    site = make_site(tmp_path)
    (tmp_path / f"{site.cells[0].stem}.json").write_text(text)
    with pytest.raises(InputError, match=r"seed0\.json: holds no settings of a generated clip"):
        write_site(tmp_path, site)


@pytest.mark.parametrize("kind", ["wav", "png"])
def test_a_damaged_sound_or_image_is_named(tmp_path: Path, kind: str) -> None:
    site = make_site(tmp_path)
    (tmp_path / f"{site.cells[0].stem}.{kind}").write_bytes(b"nothing")
    with pytest.raises(InputError, match=rf"0-seed0\.{kind}"):
        write_site(tmp_path, site)


@pytest.mark.parametrize("stem", ["/etc/clip", "../clip", "clips/../../clip"])
def test_a_clip_outside_the_folder_is_refused(tmp_path: Path, stem: str) -> None:
    with pytest.raises(ValueError, match="is not inside the site's folder"):
        write_site(tmp_path, Site("t", "", [Version("a", "a")], [Cell(stem, "a", "")]))


def test_an_empty_site_is_a_page_too(tmp_path: Path) -> None:
    write_site(tmp_path, Site("t", "", [Version("a", "a")], []))
    assert json.loads(read(tmp_path / "index.html").texts["site"])["target_lufs"] is None


def test_the_policy_names_the_script_that_the_page_has() -> None:
    data = {"title": "one", "versions": [], "cells": [], "metrics": []}
    policies = [re.search(r'content="(default[^"]*)"', page_html({**data, "title": title})) for title in ("one", "two")]
    assert policies[0] is not None and policies[1] is not None
    assert policies[0][1] == policies[1][1]
