import pytest

from data_prep.captions.sidecars import sidecar_of
from data_prep.captions.text import clean_caption, clean_captions, read_sidecar
from data_prep.storage import LocalFolder
from riffusion_train.runtime.errors import InputError


def test_a_caption_loses_control_characters_and_stray_spaces_and_is_composed():
    assert clean_caption("\ufeff  cafe\u0301\tjazz,\x00 slow\u200b \n") == "café jazz, slow"


def test_captions_keep_their_order_without_blanks_and_repetitions():
    assert clean_captions(["b", " ", "a", "b ", "a"]) == ("b", "a")


def test_a_sidecar_gives_one_caption_a_line(tmp_path):
    (tmp_path / "song.txt").write_bytes("\ufeffdrums, bass\r\n\r\nslow “dub”\r\n".encode())
    assert read_sidecar(tmp_path / "song.txt") == ("drums, bass", "slow “dub”")


def test_the_sidecar_may_also_bear_the_whole_file_name(tmp_path):
    (tmp_path / "song.wav.txt").write_text("x")
    place = LocalFolder(tmp_path, tmp_path / "out")
    assert sidecar_of(place, "song.wav") == "song.wav.txt"
    assert sidecar_of(place, "song.mp3") is None


def test_a_sidecar_in_another_encoding_is_refused_by_name(tmp_path):
    (tmp_path / "song.txt").write_bytes("Fühling".encode("latin-1"))
    with pytest.raises(InputError, match=r"song\.txt: not UTF-8"):
        read_sidecar(tmp_path / "song.txt")
