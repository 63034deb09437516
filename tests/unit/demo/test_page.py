import dataclasses
import json
import re
from html.parser import HTMLParser
from urllib.parse import unquote

import numpy as np
import PIL.Image
import pytest
import soundfile

from riffusion_train.demo.report import (
    Clip,
    Curve,
    DemoPage,
    FigureRow,
    Pair,
    agreement_rows,
    write_figures,
    write_page,
)
from riffusion_train.demo.steps import StepResult
from riffusion_train.listening.captions import Agreement
from riffusion_train.runtime.errors import InputError

EVIL = "<script>alert('&\"$x')</script>"
ROWS = agreement_rows([Agreement("instrument", 0.8, 0.16, 0.1, 0.2, 0.94, 96)], {"instrument": 0.6})


class Reader(HTMLParser):
    def __init__(self):
        super().__init__()
        self.tags, self.links, self.words, self.open = [], [], [], []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.links += [value for name, value in attrs if name in ("src", "href")]
        if tag not in ("meta", "link", "img", "br", "line"):
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)


def make_page(folder, **changes):
    (folder / "samples").mkdir(exist_ok=True)
    for name in ("a b#1", "real"):
        PIL.Image.fromarray(np.zeros((8, 8), np.uint8)).save(folder / "samples" / f"{name}.png")
        soundfile.write(folder / "samples" / f"{name}.wav", np.zeros(100), 22050)
    made = Clip("samples/a b#1.png", "samples/a b#1.wav", {"instrument": EVIL, "drums": "none"})
    real = Clip("samples/real.png", "samples/real.wav")
    content = {
        "pairs": [Pair(EVIL, {"instrument": "piano", "drums": "none"}, made, real), Pair("slow piano", {}, made)],
        "figures": ROWS,
        "curves": [Curve(EVIL, [(step, 1 / (step + 1)) for step in range(50)])],
        "steps": [StepResult(EVIL, f"riffusion sample --prompt {EVIL}", 61.0, 512.0, True)],
        "command": EVIL,
        "facts": {EVIL: EVIL},
        "title": EVIL,
    }
    return DemoPage(**{**content, **changes})


def read(path):
    reader = Reader()
    reader.feed(path.read_text(encoding="utf-8"))
    reader.close()
    assert reader.open == []
    return reader


def test_texts_are_escaped_everywhere(tmp_path):
    path = write_page(tmp_path, make_page(tmp_path))
    reader = read(path)
    assert reader.tags.count("script") == 1
    assert "alert" not in re.findall(r"<script>(.*?)</script>", path.read_text(), re.DOTALL)[0]
    assert "".join(reader.words).count(EVIL) >= 7


def test_all_links_lead_to_files_beside_the_page_and_nothing_is_fetched(tmp_path):
    write_figures(tmp_path / "figures.json", "riffusion demo", ROWS)
    path = write_page(tmp_path, make_page(tmp_path))
    links = [link for link in read(path).links if not link.startswith(("#", "data:"))]
    assert len(links) == 2 * 3 + 1
    assert all((tmp_path / unquote(link)).is_file() for link in links)
    assert "//" not in "".join(links)
    assert not re.search(r"https?://|@import|url\(", path.read_text())


def test_inner_links_have_their_targets(tmp_path):
    text = write_page(tmp_path, make_page(tmp_path)).read_text()
    for target in re.findall(r'href="#([^"]+)"', text):
        assert f'id="{target}"' in text


def test_a_missing_sound_is_named(tmp_path):
    page = make_page(tmp_path)
    (tmp_path / "samples" / "real.wav").unlink()
    with pytest.raises(InputError, match=r"real\.wav: missing"):
        write_page(tmp_path, page)


def test_the_page_shows_figures_verdicts_and_costs(tmp_path):
    words = " ".join("".join(read(write_page(tmp_path, make_page(tmp_path, title="T"))).words).split())
    for shown in ("80 %", "16 %", "5.0×", "≥ 60 % met", "94 %", "no drums", "1 min 1 s", "512 MB"):
        assert shown in words


JUDGED = [
    FigureRow(
        "KID to held-out music", "squared distance", 0.367, 0.2777, 0.48, -0.0046, -0.0046, -0.0046, ceiling=0.337
    ),
    FigureRow("clips flagged as copies", "share of clips, flagged", 0.02, 0.0, 0.09, 0.01, 0.01, 0.01),
]


def test_the_page_shows_the_distance_to_real_music_with_its_scale_and_the_copies(tmp_path):
    path = write_page(tmp_path, make_page(tmp_path, judged=JUDGED, scores_page="scores/index.html"))
    words = " ".join("".join(read(path).words).split())
    for shown in ("0.367", "0.278 to 0.480", "0.337 at best, −0.005 for real music", "2 %", "1 % to expect by chance"):
        assert shown in words
    assert 'href="scores/index.html"' in path.read_text()


def test_a_fine_tuned_model_stands_between_its_base_and_real_music(tmp_path):
    base = dataclasses.replace(ROWS[0], before=0.3)
    words = FigureRow("words of the caption", "share of words", 0.8, 0.7, 0.9, 0.5, 0.5, 0.5, before=0.6)
    page = make_page(
        tmp_path,
        base="laptop",
        title="T",
        figures=[base, words],
        judged=[dataclasses.replace(JUDGED[0], before=0.75), JUDGED[1]],
    )
    pair = dataclasses.replace(page.pairs[0], before=page.pairs[1].generated)
    path = write_page(tmp_path, dataclasses.replace(page, pairs=[pair]))
    shown = " ".join("".join(read(path).words).split())
    for text in (
        "30 % before, 16 % with shuffled",
        "0.750 before, 0.337 at best",
        "60 % before",
        "It is laptop, fine-tuned",
    ):
        assert text in shown
    panes = re.findall(r'<span class="label">(.*?)</span>', path.read_text())
    assert panes == ["Before", "After", "Real"]
    assert path.read_text().count('<td data-name="before">') == 4 and "scratch" not in shown


def test_what_the_judge_leaves_out_is_said_with_the_number_needed(tmp_path):
    text = write_page(tmp_path, make_page(tmp_path, judged_notes=["KID needs at least 16 clips, not 4"])).read_text()
    assert "Not measured here: KID needs at least 16 clips, not 4." in text and "<div hidden>" in text


def test_a_page_without_figures_curves_and_steps_is_whole(tmp_path):
    path = write_page(tmp_path, make_page(tmp_path, pairs=[], figures=[], curves=[], steps=[], facts={}))
    read(path)
    assert '<p class="quiet">Not measured here by a classifier' in path.read_text()
    assert "<span hidden> Below each image is what an independent classifier" in path.read_text()
    full = write_page(tmp_path, make_page(tmp_path))
    assert '<p class="quiet" hidden>Not measured here by a classifier' in full.read_text()


def test_figures_hold_command_git_machine_versions_and_rows(tmp_path):
    extra = FigureRow("sampling", "s", 2.0, 1.0, 3.0, 0.0, 0.0, 0.0)
    write_figures(tmp_path / "figures.json", "riffusion demo", [*ROWS, extra])
    data = json.loads((tmp_path / "figures.json").read_text())
    assert list(data) == ["command", "git", "machine", "versions", "rows"]
    assert data["versions"]["torch"] and data["machine"]["cores"]
    first, second = data["rows"]
    assert first["ratio"] == pytest.approx(0.8 / 0.16)
    assert (first["ours"], first["reference"], first["reference_max"]) == (0.8, 0.16, 0.2)
    assert second["ratio"] is None


def test_a_curve_is_an_image_with_a_text_that_says_where_it_goes(tmp_path):
    text = write_page(tmp_path, make_page(tmp_path, curves=[Curve("loss", [(2, 0.5), (0, 2.0), (1, 1.0)])])).read_text()
    assert 'src="data:image/png;base64,' in text
    assert 'alt="loss: from 2 at step 0 to 0.5 at step 2"' in text
    odd = make_page(tmp_path, curves=[Curve("loss", [(0, 1.0), (1, float("nan"))])])
    assert "too few points for a curve" in write_page(tmp_path, odd).read_text()
