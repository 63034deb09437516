import pytest

from data_prep.captions.tables import read_table
from riffusion_train.runtime.errors import InputError


def write(tmp_path, text, name="captions.csv"):
    path = tmp_path / name
    path.write_text(text, encoding="utf-8")
    return path


def test_a_csv_gives_captions_and_typed_columns(tmp_path):
    path = write(tmp_path, 'file,caption,bpm,key,swing,isrc\na.wav,"slow, sad",90,Am,0.5,007\nb.wav,fast,,C,1,12\n')
    table = read_table(path)
    assert table.rows["a.wav"].captions == ("slow, sad",)
    assert table.types == {"bpm": "int64", "key": "string", "swing": "float64", "isrc": "string"}
    assert table.rows["a.wav"].columns == {"bpm": 90, "key": "Am", "swing": 0.5, "isrc": "007"}
    assert table.rows["b.wav"].columns["bpm"] is None


def test_several_rows_for_one_file_are_several_captions(tmp_path):
    table = read_table(write(tmp_path, "path;text\na.wav;one\nb.wav;x\na.wav;two\n"))
    assert table.rows["a.wav"].captions == ("one", "two")


def test_jsonl_may_list_captions_and_keeps_types(tmp_path):
    lines = '{"file_name": "a.wav", "text": ["one", "two"], "live": true, "tags": ["x"]}\n{"file_name": "b.wav"}\n'
    table = read_table(write(tmp_path, lines, "metadata.jsonl"))
    assert table.rows["a.wav"].captions == ("one", "two")
    assert table.rows["a.wav"].columns == {"live": True, "tags": '["x"]'}
    assert table.rows["b.wav"].captions == ()


def test_artist_and_split_are_found_and_split_names_are_understood(tmp_path):
    row = read_table(write(tmp_path, "file,caption,artist,split\na.wav,x,Ann,valid\n")).rows["a.wav"]
    assert (row.artist, row.split, row.columns) == ("Ann", "validation", {"artist": "Ann"})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no rows"),
        ("name,caption\na,b\n", "no column any of file"),
        ("file,caption,image\na.wav,x,y\n", "column 'image' has a name"),
        ("file,caption,split\na.wav,x,nowhere\n", "'nowhere' in column 'split'"),
        ("file,caption,split\na.wav,x,train\na.wav,y,test\n", "splits test and train"),
        ("file,caption\na.wav,slow, sad\n", "more fields than the header"),
        ("file,caption\n,x\n", "row 1 has nothing in column 'file'"),
    ],
)
def test_a_bad_table_is_refused_with_its_path_and_the_fault(tmp_path, text, message):
    path = write(tmp_path, text)
    with pytest.raises(InputError, match=message) as caught:
        read_table(path)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)
