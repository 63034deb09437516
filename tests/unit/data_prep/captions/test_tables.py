import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data_prep.captions import tables
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


def write_parquet(path, rows, text, **options):
    captions = pa.DictionaryArray.from_arrays(pa.array([0] * rows, pa.int32()), pa.array([text]))
    table = pa.table({"file": [f"{index}.wav" for index in range(rows)], "caption": captions})
    pq.write_table(table, path, store_schema=False, **options)
    return path


def test_a_small_parquet_file_with_huge_texts_is_refused_before_it_fills_the_memory(tmp_path, monkeypatch):
    path = write_parquet(tmp_path / "long.parquet", 100_000, "x" * 1_000_000)
    assert path.stat().st_size < 2**20
    with pytest.raises(InputError, match="a text of 1,000,000 bytes in column 'caption'; shorten it"):
        read_table(path)
    monkeypatch.setattr(tables, "MAX_TABLE_BYTES", 5 * 2**20)
    path = write_parquet(tmp_path / "much.parquet", 10_000, "x" * 1000)
    with pytest.raises(InputError, match="the table holds more than 5 MiB, which is the limit; leave out rows"):
        read_table(path)


@pytest.mark.parametrize("name", ["rows.csv", "rows.jsonl", "rows.parquet"])
def test_a_table_with_too_many_rows_or_too_long_ones_is_refused(name, tmp_path, monkeypatch):
    monkeypatch.setattr(tables, "MAX_ROWS", 9)

    def table(rows, text):
        if name.endswith("parquet"):
            return write_parquet(tmp_path / name, rows, text)
        lines = [f'{{"file": "{index}.wav", "caption": "{text}"}}' for index in range(rows)]
        rows_of_csv = ["file,caption", *(f"{index}.wav,{text}" for index in range(rows))]
        return write(tmp_path, "\n".join(rows_of_csv if name.endswith("csv") else lines), name)

    assert len(read_table(table(9, "x")).rows) == 9
    with pytest.raises(InputError, match=r"rows.*(9 are|9 rows, which is) the limit|more than 9 rows"):
        read_table(table(10, "x"))
    monkeypatch.setattr(tables, "MAX_ROW_CHARS", 1000)
    with pytest.raises(InputError, match=r"row 1 has 1,00. characters, 1,000 are the limit; shorten it"):
        read_table(table(2, "x" * 1000))


def test_json_that_is_nested_without_end_is_one_line(tmp_path):
    with pytest.raises(InputError, match="line 1 is not JSON"):
        read_table(write(tmp_path, "[" * 200_000, "metadata.jsonl"))
