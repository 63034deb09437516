import json
import re
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

import numpy as np
import pytest
from support.auditions import EVIL
from support.scores import write_score_page

from riffusion_train.audio.image_file import load_image
from riffusion_train.evaluation.report import principal_axes
from riffusion_train.evaluation.results import ResultRow, rows_of_sounds, shown
from riffusion_train.listening.distances import MEANINGS
from riffusion_train.listening.judge import FIGURES


class Reader(HTMLParser):
    """Collects tags, links and words, and checks that every element is closed."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.links: list[str] = []
        self.words: list[str] = []
        self.attributes: list[str] = []
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.links += [value or "" for name, value in attrs if name in ("src", "href")]
        self.attributes += [name for name, _ in attrs]
        if tag not in ("meta", "link", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_score_page(tmp_path_factory.mktemp("scores"))


@pytest.fixture(scope="module")
def reader(page: Path) -> Reader:
    reader = Reader()
    reader.feed(page.read_text(encoding="utf-8"))
    reader.close()
    assert reader.open == []
    return reader


def test_texts_are_texts(reader: Reader) -> None:
    assert reader.tags.count("script") == 1
    assert not [name for name in reader.attributes if name.startswith("on")]
    assert "".join(reader.words).count(EVIL) >= 6


def test_everything_that_the_page_plays_lies_beside_it(page: Path, reader: Reader) -> None:
    links = [link for link in reader.links if not link.startswith(("#", "data:"))]
    assert len(links) > 20
    assert all((page.parent / unquote(link)).is_file() for link in links)


def test_the_policy_lets_nothing_in_from_elsewhere(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    (policy,) = re.findall(r'http-equiv="Content-Security-Policy" content="([^"]+)"', text)
    assert policy.startswith("default-src 'none'") and "unsafe" not in policy
    assert 'style="' not in text  # the policy forbids it


def test_figures_have_their_interval_control_and_explanation(reader: Reader) -> None:
    words = " ".join("".join(reader.words).split())
    for text in ("0.0213", "0.0181 to 0.0249", "needs 40 clips", "41 %", "32 % to 50 %", "50 %shuffled captions"):
        assert text in words
    assert MEANINGS["kid"].trap in words


def test_inner_links_have_their_targets(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert all(f'id="{target}"' in text for target in re.findall(r'href="#([^"]+)"', text))


def test_flagged_copies_come_first_with_their_slice(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    pairs = re.findall(r'<article class="pair".*?</article>', text, re.DOTALL)
    assert len(pairs) == 8 and [("Flagged as a copy" in pair) for pair in pairs] == [True, True] + [False] * 6
    assert all("clip-" in pair and "slice-" in pair for pair in pairs)
    assert "shifted by +0.70 s, transposed by +1 semitone," in pairs[1]


def test_a_clip_without_an_image_gets_one(page: Path) -> None:
    assert load_image(page.parent / "listen" / "clip-0000.png").config is not None


def test_every_figure_of_the_judge_is_explained() -> None:
    assert set(FIGURES) == set(MEANINGS)


def test_scores_are_standard_json(page: Path) -> None:
    def refuse(name: str) -> None:
        raise AssertionError(name)

    data = json.loads((page.parent / "scores.json").read_text(encoding="utf-8"), parse_constant=refuse)
    assert data["clips"][0]["nearest"]["is_copy"] is True and data["clips"][0]["bandwidth_hz"] > 0


def test_principal_axes_keep_two_groups_apart() -> None:
    rng = np.random.default_rng(0)
    direction = rng.normal(0, 1, 50)
    ours, reference = rng.normal(0, 0.1, (20, 50)) + direction, rng.normal(0, 0.1, (30, 50)) - direction
    first, second = principal_axes(ours, reference)
    assert first.shape == (20, 2) and second.shape == (30, 2)
    assert min(abs(first[:, 0])) > 3 and (np.sign(first[:, 0]) == -np.sign(second[:20, 0])).all()
    assert principal_axes(ours[:1], reference[:0])[0].shape == (1, 2)


def test_rows_have_names_for_people() -> None:
    assert ResultRow("retrieval, by others", "", 0.4, None, None, 0.1).label == "Caption found among 16, by others"
    assert ResultRow("dc_offset", "", 0.4, None, None, 0.1).label == "DC offset"


def test_a_row_has_a_ratio_only_with_a_reference() -> None:
    assert ResultRow("kid", "", 0.4, None, None, 0.1).ratio == pytest.approx(4)
    assert ResultRow("kid", "", 0.4, None, None, 0.0).ratio is None
    assert ResultRow("kid", "", None, None, None, 0.1, needed=50).ratio is None
    assert [row.ours for row in rows_of_sounds([], [])] == [None] * 7
    assert [shown(value) for value in (None, 0.012345, 12345.6)] == ["–", "0.01235", "12,346"]
