"""Tables of captions: CSV, TSV, JSONL or Parquet, with one row for each file, or several where it has several captions."""

import csv
import dataclasses
import io
import json
import math
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from data_prep.captions.text import Value, clean_captions
from riffusion_train.dataset.layout import COLUMNS, SPLITS
from riffusion_train.runtime.errors import InputError

TABLE_NAMES = ("captions.csv", "metadata.csv", "metadata.jsonl")
FILE_COLUMNS = ("file", "file_name", "filename", "path", "audio")
CAPTION_COLUMNS = ("caption", "captions", "text", "prompt", "description")
_SPLIT_NAMES = {name: name for name in SPLITS} | {"training": "train", "val": "validation", "valid": "validation"}
_SPLIT_NAMES |= {"dev": "validation", "eval": "validation", "testing": "test"}
# Narrow on purpose: "007" and "1_000" stay text, and every match fits into 64 bits.
_INTEGER = re.compile(r"-?(0|[1-9]\d{0,17})")
_NUMBER = re.compile(r"-?(0|[1-9]\d*)(\.\d+)?([eE][-+]?\d+)?")

MAX_ROWS = 1_000_000
"""Most rows of a table; a row takes about a kilobyte of memory until the dataset is finished."""
MAX_ROW_CHARS = 100_000
"""Most characters in the cells of one row."""
MAX_TABLE_BYTES = 512 * 2**20
"""Largest table, as a file and as text: a small Parquet file can hold gigabytes of repeated text."""
_BATCH_ROWS = 256


@dataclasses.dataclass(frozen=True)
class TableRow:
    """What a table says about one file."""

    captions: tuple[str, ...]
    columns: dict[str, Value]
    artist: str | None
    split: str | None


@dataclasses.dataclass(frozen=True)
class Table:
    """A table of captions."""

    where: str
    """Its path, for messages."""
    rows: dict[str, TableRow]
    """Rows by the file's path, as the table spells it."""
    types: dict[str, str]
    """Type of each extra column: string, int64, float64 or bool."""


@dataclasses.dataclass(frozen=True)
class ColumnNames:
    """Names of the columns that have a meaning; None takes the usual names."""

    file: str | None = None
    caption: str | None = None
    artist: str | None = None
    split: str | None = None
    needs_caption: bool = True
    """Whether a table without a caption column is refused."""


def read_table(path: Path, names: ColumnNames | None = None) -> Table:
    """Read a table of captions from a file; see `parse_table`."""
    try:
        _refuse_large(str(path), path.stat().st_size)
        content = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}; name the table with table=PATH") from None
    return parse_table(str(path), content, names)


def parse_table(where: str, content: bytes, names: ColumnNames | None = None) -> Table:
    """Read a table of captions.

    Args:
        where: Its path or URL; the suffix decides the format: .csv or .tsv with a header, .jsonl, or .parquet.
        content: Its bytes.
        names: Columns with the file's path (else the first of `FILE_COLUMNS`), with the caption or a list of captions (else
            the first of `CAPTION_COLUMNS`), with the artist and the split (else `artist` and `split` where they exist).

    Raises:
        InputError: If it cannot be read, it is larger than the limits above, a column is missing, or an extra column has a name
            that the dataset itself uses.
    """
    _refuse_large(where, len(content))
    suffix = Path(where).suffix.lower()
    if suffix == ".parquet":
        return table_of(where, _limited(where, _read_parquet(where, content)), names)
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise InputError(f"{where}: not UTF-8 text; save the table as UTF-8") from None
    records = _read_jsonl(where, text) if suffix in (".jsonl", ".ndjson") else _read_csv(where, text)
    return table_of(where, _limited(where, records), names)


def _refuse_large(where: str, size: int) -> None:
    if size > MAX_TABLE_BYTES:
        limit = MAX_TABLE_BYTES >> 20
        raise InputError(f"{where}: the table holds more than {limit} MiB, which is the limit; {_LIMIT_FIX}")


_LIMIT_FIX = "leave out rows and columns that are not needed, or make several datasets"


def _limited(where: str, records: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the records as they are read, and stop at the first limit."""
    kept: list[dict[str, Any]] = []
    total = 0
    for number, record in enumerate(records, start=1):
        chars = sum(len(cell if isinstance(cell, str) else str(cell)) for cell in record.values() if cell is not None)
        total += chars
        if number > MAX_ROWS:
            raise InputError(f"{where}: more than {MAX_ROWS:,} rows, which is the limit; {_LIMIT_FIX}")
        if chars > MAX_ROW_CHARS:
            raise InputError(
                f"{where}: row {number} has {chars:,} characters, {MAX_ROW_CHARS:,} are the limit; shorten it"
            )
        _refuse_large(where, total)
        kept.append(record)
    return kept


def table_of(where: str, records: Sequence[dict[str, Any]], chosen: ColumnNames | None = None) -> Table:
    """Make a table from records; see `parse_table`."""
    chosen = chosen or ColumnNames()
    if not records:
        raise InputError(f"{where}: the table has no rows")
    names = list(dict.fromkeys(name for record in records for name in record))
    file_name = _choose(where, "file_column", chosen.file, FILE_COLUMNS, names)
    caption_name = None
    if chosen.needs_caption or chosen.caption or set(CAPTION_COLUMNS) & set(names):
        caption_name = _choose(where, "caption_column", chosen.caption, CAPTION_COLUMNS, names)
    artist_name = _optional(where, "artist_column", chosen.artist, "artist", names)
    split_name = _optional(where, "split_column", chosen.split, "split", names)
    extra = [name for name in names if name not in (file_name, caption_name, split_name)]
    for name in extra:
        if name in COLUMNS:
            raise InputError(
                f"{where}: column '{name}' has a name that the dataset itself uses; rename it in the table"
            )
    grouped: dict[str, list[dict[str, Any]]] = {}
    for number, record in enumerate(records, start=1):
        file = str(record.get(file_name) or "").strip()
        if not file:
            raise InputError(f"{where}: row {number} has nothing in column '{file_name}'")
        grouped.setdefault(file, []).append(record)
    types = {name: column_type([record.get(name) for record in records]) for name in extra}
    rows = {
        file: TableRow(
            captions=clean_captions(text for record in group for text in cell_texts(record.get(caption_name or ""))),
            columns={name: as_type(group[0].get(name), types[name]) for name in extra},
            artist=str(group[0].get(artist_name) or "").strip() or None if artist_name else None,
            split=_split_of(where, file, group, split_name),
        )
        for file, group in grouped.items()
    }
    return Table(where, rows, types)


def _read_parquet(where: str, content: bytes) -> Iterator[dict[str, Any]]:
    """Yield the rows, a few at a time: repeated texts take next to nothing in the file, and their whole length as Python's."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        columns = pq.read_schema(pa.BufferReader(content))
        texts = [column.name for column in columns if pa.types.is_string(column.type)]
        with pq.ParquetFile(pa.BufferReader(content), read_dictionary=texts) as file:
            groups = (file.metadata.row_group(index) for index in range(file.num_row_groups))
            _refuse_large(where, sum(group.total_byte_size for group in groups))
            if file.metadata.num_rows > MAX_ROWS:
                raise InputError(f"{where}: {file.metadata.num_rows:,} rows, {MAX_ROWS:,} are the limit; {_LIMIT_FIX}")
            for batch in file.iter_batches(batch_size=_BATCH_ROWS):
                _refuse_long_texts(where, batch)
                for record in batch.to_pylist():
                    yield {name: _plain_cell(cell) for name, cell in record.items()}
    except (pa.ArrowException, OSError) as error:
        raise InputError(f"{where}: cannot be read as Parquet: {' '.join(str(error).split())}") from None


def _refuse_long_texts(where: str, batch: Any) -> None:
    """Refuse texts that are too long for a row while each is in memory once, however many rows have it."""
    import pyarrow as pa
    import pyarrow.compute as pc

    for name, column in zip(batch.schema.names, batch.columns, strict=True):
        if pa.types.is_dictionary(column.type):
            longest = pc.max(pc.binary_length(column.dictionary)).as_py() or 0
            if longest > 4 * MAX_ROW_CHARS:  # a character has up to four bytes
                raise InputError(f"{where}: a text of {longest:,} bytes in column '{name}'; shorten it")


def _plain_cell(cell: Any) -> Any:
    if isinstance(cell, float) and not math.isfinite(cell):
        return None  # pandas writes NaN for an empty cell
    return cell if isinstance(cell, str | int | float | list | dict | None) else str(cell)


def _read_jsonl(where: str, text: str) -> Iterator[dict[str, Any]]:
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise InputError(f"{where}: line {number} is not JSON: {error}") from None
        if not isinstance(record, dict):
            raise InputError(f'{where}: line {number} is not an object; write {{"file": …, "caption": …}}')
        yield record


def _read_csv(where: str, text: str) -> Iterator[dict[str, Any]]:
    header = text.split("\n", 1)[0]
    delimiter = max(",;\t", key=header.count)
    try:
        reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
        for number, record in enumerate(reader, start=2):
            if None in record:
                raise InputError(
                    f"{where}: record {number} has more fields than the header; put quotes around texts with '{delimiter}'"
                )
            yield dict(record)
    except csv.Error as error:
        raise InputError(f"{where}: not a table: {error}") from None


def _choose(where: str, key: str, named: str | None, usual: Sequence[str], names: Sequence[str]) -> str:
    for name in [named] if named else usual:
        if name in names:
            return name
    missing = f"'{named}'" if named else f"any of {', '.join(usual)}"
    raise InputError(f"{where}: no column {missing}; it has {', '.join(names)}; name one with {key}=")


def _optional(where: str, key: str, named: str | None, usual: str, names: Sequence[str]) -> str | None:
    if named is None:
        return usual if usual in names else None
    return _choose(where, key, named, (), names)


def cell_texts(cell: Any) -> list[str]:
    """Return the texts of a cell, which may hold a list of them."""
    if cell is None:
        return []
    return [str(item) for item in cell] if isinstance(cell, list) else [str(cell)]


def _split_of(where: str, file: str, group: Sequence[dict[str, Any]], name: str | None) -> str | None:
    if name is None:
        return None
    given = {str(record.get(name) or "").strip().lower() for record in group} - {""}
    unknown = sorted(given - set(_SPLIT_NAMES))
    if unknown:
        raise InputError(f"{where}: {file}: '{unknown[0]}' in column '{name}' is not {', '.join(SPLITS)}")
    splits = sorted({_SPLIT_NAMES[value] for value in given})
    if len(splits) > 1:
        raise InputError(f"{where}: {file} is in the splits {' and '.join(splits)}; keep one of them")
    return splits[0] if splits else None


def column_type(cells: Sequence[Any]) -> str:
    """Return the narrowest type that holds every cell of a column without loss."""
    known = [cell for cell in cells if cell is not None and cell != ""]
    if known and all(isinstance(cell, bool) for cell in known):
        return "bool"
    texts = [cell if isinstance(cell, str) else json.dumps(cell) for cell in known]
    if known and all(_INTEGER.fullmatch(text) for text in texts):
        return "int64"
    return "float64" if known and all(_NUMBER.fullmatch(text) for text in texts) else "string"


def as_type(cell: Any, kind: str) -> Value:
    """Return a cell as a value of its column's type."""
    if cell is None or cell == "":
        return None
    if kind == "bool":
        return bool(cell)
    if kind == "int64":
        return int(cell)
    if kind == "float64":
        return float(cell)
    return cell.strip() if isinstance(cell, str) else json.dumps(cell, ensure_ascii=False)
