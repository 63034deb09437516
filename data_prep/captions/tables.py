"""Tables of captions: CSV, TSV, JSONL or Parquet, with one row for each file, or several where it has several captions."""

import csv
import dataclasses
import io
import json
import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from data_prep.captions.text import clean_captions
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

Value = str | int | float | bool | None
"""A cell of an extra column."""


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
        InputError: If it cannot be read, a column is missing, or an extra column has a name that the dataset itself uses.
    """
    suffix = Path(where).suffix.lower()
    if suffix == ".parquet":
        return table_of(where, _read_parquet(where, content), names)
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise InputError(f"{where}: not UTF-8 text; save the table as UTF-8") from None
    records = _read_jsonl(where, text) if suffix in (".jsonl", ".ndjson") else _read_csv(where, text)
    return table_of(where, records, names)


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


def _read_parquet(where: str, content: bytes) -> list[dict[str, Any]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(pa.BufferReader(content))
    except (pa.ArrowException, OSError) as error:
        raise InputError(f"{where}: cannot be read as Parquet: {' '.join(str(error).split())}") from None
    return [{name: _plain_cell(cell) for name, cell in record.items()} for record in table.to_pylist()]


def _plain_cell(cell: Any) -> Any:
    if isinstance(cell, float) and not math.isfinite(cell):
        return None  # pandas writes NaN for an empty cell
    return cell if isinstance(cell, str | int | float | list | dict | None) else str(cell)


def _read_jsonl(where: str, text: str) -> list[dict[str, Any]]:
    records = []
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except ValueError as error:
            raise InputError(f"{where}: line {number} is not JSON: {error}") from None
        if not isinstance(record, dict):
            raise InputError(f'{where}: line {number} is not an object; write {{"file": …, "caption": …}}')
        records.append(record)
    return records


def _read_csv(where: str, text: str) -> list[dict[str, Any]]:
    header = text.split("\n", 1)[0]
    delimiter = max(",;\t", key=header.count)
    try:
        reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
        records = [dict(record) for record in reader]
    except csv.Error as error:
        raise InputError(f"{where}: not a table: {error}") from None
    for number, record in enumerate(records, start=2):
        if None in record:
            raise InputError(
                f"{where}: record {number} has more fields than the header; put quotes around texts with '{delimiter}'"
            )
    return records


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
