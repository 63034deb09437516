import mutagen
import pytest
from mutagen.id3 import COMM, TBPM, TCON, TIT2, TKEY, TPE1
from support import broken_files as broken

from data_prep.inputs.sources import read_tags, sidecar_of
from data_prep.inputs.storage import LocalFolder

EXPECTED = {"title": "Rain", "artist": "Ann", "genre": "Dub", "bpm": "90", "key": "Am", "comment": "slow dub"}


def write_id3(path):
    file = mutagen.File(path)
    if file.tags is None:
        file.add_tags()
    for frame in (TIT2, TPE1, TCON, TBPM, TKEY):
        name = {TIT2: "title", TPE1: "artist", TCON: "genre", TBPM: "bpm", TKEY: "key"}[frame]
        file.tags.add(frame(encoding=3, text=EXPECTED[name]))
    file.tags.add(COMM(encoding=3, lang="eng", desc="", text="slow dub"))
    file.save()


def write_vorbis(path):
    file = mutagen.File(path)
    file.update({**EXPECTED, "initialkey": "Am"})
    file.save()


def write_mp4(path):
    file = mutagen.File(path)
    names = {"\xa9nam": "title", "\xa9ART": "artist", "\xa9gen": "genre", "\xa9cmt": "comment"}
    file.update({atom: [EXPECTED[name]] for atom, name in names.items()})
    file["tmpo"] = [90]
    file["----:com.apple.iTunes:initialkey"] = b"Am"
    file.save()


@pytest.mark.parametrize(
    ("name", "write"),
    [
        *((name, write_id3) for name in ("mp3.mp3", "wav.wav", "aiff.aiff")),
        *((name, write_vorbis) for name in ("flac.flac", "vorbis.ogg", "opus.opus")),
        *((name, write_mp4) for name in ("aac.m4a", "alac.m4a")),
    ],
)
def test_every_kind_of_tags_is_read_under_the_same_names(tmp_path, name, write):
    path = broken.write_format(tmp_path, name)
    write(path)
    assert read_tags(path) == EXPECTED


def test_files_without_tags_and_without_sound_have_none(tmp_path):
    assert read_tags(broken.write_format(tmp_path, "wav.wav")) == {}
    assert read_tags(broken.write_bytes(tmp_path, "a.mp3", b"no sound")) == {}
    assert read_tags(tmp_path / "gone.mp3") == {}


def test_the_sidecar_may_also_have_the_whole_file_name(tmp_path):
    (tmp_path / "song.wav.txt").write_text("x")
    storage = LocalFolder(tmp_path, tmp_path / "out")
    assert sidecar_of(storage, "song.wav") == "song.wav.txt"
    assert sidecar_of(storage, "song.mp3") is None
