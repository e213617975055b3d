"""Reads records out of JSONL, CSV and Parquet files, gzipped or not, a few at a time."""

import csv
import gzip
import io
import zlib
from codecs import BOM_UTF8
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO, Literal, cast

import orjson
import pyarrow as pa
import pyarrow.parquet as pq

from gateway.ingest.records import REMEDIES, Fields, Reason, Record, Records, Rejection
from rpc.terminal import CommandError

RECORD_BYTES_MAX = 8 * 1024 * 1024
PARQUET_BATCH_ROWS = 1_024
DELIMITERS = ",;\t|"
_REPORT_EVERY = 256
_GZIP_MAGIC = b"\x1f\x8b"
_PARQUET_MAGIC = b"PAR1"

# What Arrow raises for a value that Python has not: a time after the year 9999, an object as a key.
_UNREADABLE = (ValueError, OverflowError, TypeError)

FileKind = Literal["jsonl", "csv", "parquet"]
Advance = Callable[[int], None]

_KIND_OF_SUFFIX: dict[str, FileKind] = {
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "jsonl",
    ".csv": "csv",
    ".tsv": "csv",
    ".parquet": "parquet",
    ".pq": "parquet",
}


def kind_of_file(path: Path) -> FileKind:
    """Return how a file is to be read, from its name and its first bytes.

    Raises:
        CommandError: it is empty, or of no kind that can be read.
    """
    with path.open("rb") as file:
        start = file.read(4)
    if not start:
        raise CommandError(f"{path}: the file is empty; give one with at least one record")
    if start == _PARQUET_MAGIC:
        return "parquet"
    suffixes = [suffix.lower() for suffix in path.suffixes]
    named = suffixes[-2:-1] if suffixes[-1:] == [".gz"] else suffixes[-1:]
    kind = _KIND_OF_SUFFIX.get("".join(named))
    if kind is None:
        allowed = ".jsonl, .csv, .tsv (also with .gz) or .parquet"
        raise CommandError(f"{path}: cannot tell what is in it; name it {allowed}")
    return kind


def read_records(path: Path, kind: FileKind, advance: Advance) -> Records:
    """Yield the records of a file in order.

    Args:
        path: the file.
        kind: as told by `kind_of_file`.
        advance: told how many bytes of the file were read, a few records at a time.

    Raises:
        CommandError: the file is damaged past its last good record.
    """
    try:
        if kind == "parquet":
            yield from _read_parquet(path, advance)
            return
        read = _read_jsonl if kind == "jsonl" else _read_csv
        with path.open("rb") as raw:
            yield from _reporting(read(_opened(raw)), raw, advance)
    except (EOFError, zlib.error, gzip.BadGzipFile) as exc:
        raise CommandError(
            f"{path}: the gzip data ends early or is damaged ({exc}); copy the file again"
        ) from exc
    except (pa.ArrowException, csv.Error) as exc:
        raise CommandError(f"{path}: cannot be read as {kind}: {exc}") from exc


def _opened(raw: BinaryIO) -> BinaryIO:
    """Return the uncompressed bytes of a file."""
    start = raw.read(2)
    raw.seek(0)
    if start != _GZIP_MAGIC:
        return raw
    unzipped = gzip.GzipFile(fileobj=raw, mode="rb")
    return cast("BinaryIO", io.BufferedReader(cast("io.RawIOBase", unzipped), 1 << 20))


def _reporting(records: Records, raw: BinaryIO, advance: Advance) -> Records:
    reported = 0
    for place, record in enumerate(records):
        if place % _REPORT_EVERY == 0:
            advance(raw.tell() - reported)
            reported = raw.tell()
        yield record
    advance(raw.tell() - reported)


def _read_jsonl(file: BinaryIO) -> Records:
    for number, line in enumerate(_lines(file), start=1):
        if number == 1:
            line = line.removeprefix(BOM_UTF8)
        if len(line) > RECORD_BYTES_MAX:
            yield Rejection(number, Reason.TOO_LONG, f"longer than {RECORD_BYTES_MAX} bytes")
            continue
        try:
            fields = orjson.loads(line)
        except orjson.JSONDecodeError as exc:
            if not line.isspace():
                yield _rejected_line(number, line, exc)
            continue
        if type(fields) is dict:
            yield Record(number, fields)
        else:
            yield Rejection(number, Reason.NOT_JSON, f"a JSON {_json_name(fields)}, not an object")


def _lines(file: BinaryIO) -> Iterator[bytes]:
    """Yield lines; of one that is too long, a beginning that is too long as well."""
    while line := file.readline(RECORD_BYTES_MAX + 1):
        rest = line
        while len(rest) > RECORD_BYTES_MAX and not rest.endswith(b"\n"):
            rest = file.readline(RECORD_BYTES_MAX + 1)
        yield line


def _rejected_line(number: int, line: bytes, error: orjson.JSONDecodeError) -> Rejection:
    try:
        line.decode()
    except UnicodeDecodeError as exc:
        detail = f"invalid UTF-8 at byte {exc.start + 1} of the line"
        return Rejection(number, Reason.INVALID_UTF8, detail)
    return Rejection(number, Reason.NOT_JSON, f"not JSON ({error.msg} at column {error.colno})")


def _json_name(value: object) -> str:
    names = {list: "array", str: "string", bool: "truth value", type(None): "null"}
    return names.get(type(value), "number")


def _read_csv(file: BinaryIO) -> Records:
    csv.field_size_limit(RECORD_BYTES_MAX)
    # Bytes that are no UTF-8 become lone surrogates here, so that their record is known.
    text = io.TextIOWrapper(file, encoding="utf-8-sig", errors="surrogateescape", newline="")
    header_line = text.readline()
    delimiter = max(DELIMITERS, key=header_line.count)
    columns = next(csv.reader([header_line], delimiter=delimiter), [])
    if not _is_utf8(columns):
        raise csv.Error(f"invalid UTF-8 in the first line; {REMEDIES[Reason.INVALID_UTF8]}")
    yield from _csv_records(text, columns, delimiter)
    text.detach()  # the file is its opener's to close


def _csv_records(text: Iterator[str], columns: list[str], delimiter: str) -> Records:
    lines = _LinesToTheEnd(text)
    rows = csv.reader(lines, delimiter=delimiter)
    line = 2
    try:
        for values in rows:
            if lines.ended:
                detail = f"a quote stays open to the end of the file, line {rows.line_num + 1}"
                yield Rejection(line, Reason.OPEN_QUOTE, detail)
            elif values:
                yield _csv_record(line, columns, values)
            line = rows.line_num + 2
    except csv.Error as exc:  # in a long file an open quote meets this limit before the end
        remedy = REMEDIES[Reason.OPEN_QUOTE]
        raise csv.Error(f"the record that begins on line {line}: {exc}; {remedy}") from exc


class _LinesToTheEnd:
    """The lines of a file; tells when more were asked for than there are.

    The csv module asks for lines until a record is complete, so a record that it returns after
    that has an open quote. Its own check is `strict`, which refuses more than this.
    """

    def __init__(self, lines: Iterator[str]) -> None:
        self._lines = lines
        self.ended = False

    def __iter__(self) -> Iterator[str]:
        yield from self._lines
        self.ended = True


def _csv_record(line: int, columns: list[str], values: list[str]) -> Record | Rejection:
    if len(values) != len(columns):
        detail = f"{len(values)} values under {len(columns)} columns"
        return Rejection(line, Reason.WRONG_COLUMNS, detail)
    if not _is_utf8(values):
        return Rejection(line, Reason.INVALID_UTF8, "invalid UTF-8")
    fields: Fields = {column: value for column, value in zip(columns, values, strict=True) if value}
    return Record(line, fields)


def _is_utf8(values: list[str]) -> bool:
    try:
        "".join(values).encode()
    except UnicodeEncodeError:
        return False
    return True


def _read_parquet(path: Path, advance: Advance) -> Records:
    with pq.ParquetFile(path) as file:
        size, num_rows, row = path.stat().st_size, file.metadata.num_rows, 0
        for batch in file.iter_batches(batch_size=PARQUET_BATCH_ROWS):
            yield from _parquet_records(_in_microseconds(batch), row + 1)
            row += len(batch)
            advance(size * row // num_rows - size * (row - len(batch)) // num_rows)


def _parquet_records(batch: pa.RecordBatch, first_row: int) -> Records:
    try:
        rows: list[Fields] = batch.to_pylist(maps_as_pydicts="lossy")
    except _UNREADABLE:
        for place in range(len(batch)):
            yield _parquet_record(batch.slice(place, 1), first_row + place)
        return
    for row, fields in enumerate(rows, start=first_row):
        yield Record(row, fields)


def _parquet_record(batch: pa.RecordBatch, row: int) -> Record | Rejection:
    fields: Fields = {}
    for column, values in zip(batch.schema.names, batch.columns, strict=True):
        try:
            [fields[column]] = values.to_pylist(maps_as_pydicts="lossy")
        except UnicodeDecodeError:
            return Rejection(row, Reason.INVALID_UTF8, f"invalid UTF-8 in column {column}")
        except _UNREADABLE as exc:
            return Rejection(row, Reason.INVALID_FIELD, f"column {column} cannot be read: {exc}")
    return Record(row, fields)


def _in_microseconds(batch: pa.RecordBatch) -> pa.RecordBatch:
    """Return a batch without nanoseconds, which Python's times do not have."""
    schema = pa.schema([field.with_type(_coarser(field.type)) for field in batch.schema])
    return batch if schema.equals(batch.schema) else batch.cast(schema, safe=False)


def _coarser(kind: pa.DataType) -> pa.DataType:
    if pa.types.is_timestamp(kind) and kind.unit == "ns":
        return pa.timestamp("us", kind.tz)
    if pa.types.is_duration(kind) and kind.unit == "ns":
        return pa.duration("us")
    if pa.types.is_time64(kind):
        return pa.time64("us")
    if pa.types.is_struct(kind):
        return pa.struct([inner.with_type(_coarser(inner.type)) for inner in kind])
    if pa.types.is_list(kind):
        return pa.list_(kind.value_field.with_type(_coarser(kind.value_type)))
    if pa.types.is_large_list(kind):
        return pa.large_list(kind.value_field.with_type(_coarser(kind.value_type)))
    if pa.types.is_map(kind):
        return pa.map_(kind.key_type, kind.item_field.with_type(_coarser(kind.item_type)))
    return kind
