import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_prep.inputs.sources import _with_track_ids
from data_prep.inputs.storage import find_audio
from data_prep.inputs.tracks import Track
from data_prep.pipeline import make_sources
from riffusion_train.config.prepare import CaptionSource, PrepareConfig
from riffusion_train.runtime.errors import InputError


def touch(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"x")


def config(folder, **values):
    return PrepareConfig(audio=str(folder), out=str(folder / "out"), **values)


def test_audio_is_found_in_subfolders_sorted_without_hidden_files_and_the_output(tmp_path):
    touch(tmp_path, "b/x.MP3", "a.wav", "._a.wav", ".trash/y.wav", "notes.txt", "out/z.wav")
    names = [path.relative_to(tmp_path).as_posix() for path in find_audio(tmp_path, tmp_path / "out")]
    assert names == ["a.wav", "b/x.MP3"]


def test_a_link_to_a_parent_folder_does_not_hang_the_search(tmp_path):
    touch(tmp_path, "sub/a.wav")
    (tmp_path / "sub" / "loop").symlink_to(tmp_path)
    assert [path.name for path in find_audio(tmp_path, tmp_path / "out")] == ["a.wav"]


def test_track_ids_drop_the_suffix_only_where_that_is_unique(tmp_path):
    touch(tmp_path, "a.wav", "a.mp3", "b.flac")
    sources = make_sources(config(tmp_path, default_caption="x"))
    assert [track.track_id for track in sources.tracks] == ["a.mp3", "a.wav", "b"]


def test_a_track_without_a_caption_is_rejected_and_the_others_stay(tmp_path):
    touch(tmp_path, "a.wav", "b.wav", "c.wav")
    (tmp_path / "a.txt").write_text("one\ntwo\n")
    (tmp_path / "c.txt").write_text("\n")
    a, b, c = make_sources(config(tmp_path, captions=CaptionSource.sidecar)).tracks
    assert a.captions == ("one", "two") and a.rejection is None
    assert b.rejection.reason == "no caption" and "b.txt" in b.rejection.detail
    assert c.rejection.reason == "no caption" and "c.txt is empty" in c.rejection.detail


def test_the_one_table_of_a_folder_is_used_and_what_it_lacks_is_rejected(tmp_path):
    touch(tmp_path, "a.wav", "b.wav")
    (tmp_path / "captions.csv").write_text("file,caption\na.wav,x\nsub\\gone.wav,y\n")
    sources = make_sources(config(tmp_path, captions=CaptionSource.table))
    reasons = {track.source: track.rejection and track.rejection.reason for track in sources.tracks}
    assert reasons == {"a.wav": None, "b.wav": "no caption", "sub/gone.wav": "file not found"}
    assert make_sources(config(tmp_path, captions=CaptionSource.sidecar)).tracks[0].captions == ()


def test_two_tables_are_not_guessed_between(tmp_path):
    touch(tmp_path, "a.wav")
    for name in ("captions.csv", "metadata.csv"):
        (tmp_path / name).write_text("file,caption\na.wav,x\n")
    with pytest.raises(InputError, match=r"captions.csv and metadata.csv; choose one with table="):
        make_sources(config(tmp_path))


def test_a_file_named_twice_in_different_spelling_is_refused(tmp_path):
    touch(tmp_path, "a.wav")
    (tmp_path / "captions.csv").write_text("file,caption\na.wav,x\n./a.wav,y\n")
    with pytest.raises(InputError, match="are the same file"):
        make_sources(config(tmp_path))


def test_missing_and_empty_folders_are_refused(tmp_path):
    with pytest.raises(InputError, match="no such folder"):
        make_sources(config(tmp_path / "nowhere"))
    with pytest.raises(InputError, match="no audio files"):
        make_sources(config(tmp_path))


def test_the_digest_changes_with_a_caption_and_with_a_file(tmp_path):
    touch(tmp_path, "a.wav")
    (tmp_path / "a.txt").write_text("one")
    first = make_sources(config(tmp_path)).digest()
    (tmp_path / "a.txt").write_text("two")
    second = make_sources(config(tmp_path)).digest()
    (tmp_path / "a.wav").write_bytes(b"longer")
    assert len({first, second, make_sources(config(tmp_path)).digest()}) == 3


CASES, A_TIME = 10_000, 20
FILES = [stem + suffix for stem in ("a", "b", "a.b", "A", "ä") for suffix in ("", ".wav", ".mp3", ".b", ".b.wav")]


@settings(max_examples=CASES // A_TIME, deadline=None)
@given(st.lists(st.integers(0, 2 ** len(FILES) - 1), min_size=A_TIME, max_size=A_TIME))
def test_no_two_files_get_one_track_id(cases):
    for chosen in cases:
        sources = sorted({file for index, file in enumerate(FILES) if chosen >> index & 1})
        tracks = _with_track_ids([Track(source, source, source) for source in sources])
        assert [track.source for track in tracks] == sources
        assert len({track.track_id for track in tracks}) == len(tracks)
