"""One ingest: files in, items in the catalogue, every unusable record told with its place."""

import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, nullcontext
from dataclasses import dataclass, field
from itertools import chain, islice
from pathlib import Path
from typing import Literal

from gateway.catalog.item import (
    AttributeKind,
    CatalogItem,
    check_item,
    check_item_id,
    kind_of,
    to_bytes,
)
from gateway.catalog.store import BulkCatalog, open_bulk_catalog
from gateway.ingest import amazon, vitrine
from gateway.ingest.files import kind_of_file, read_records
from gateway.ingest.flat import FlatFormat
from gateway.ingest.infer import SAMPLE_RECORDS, infer_mapping
from gateway.ingest.mapping import MappedField, Mapping
from gateway.ingest.records import (
    REMEDIES,
    Fields,
    Reason,
    Record,
    Records,
    Refused,
    Rejection,
)
from rpc.errors import InvalidArgument
from rpc.terminal import CommandError, progress_bar

BATCH_ITEMS = 2_000
BATCH_BYTES_MAX = 32 * 1024 * 1024
EXAMPLES_SHOWN = 5

Format = Literal["auto", "vitrine", "amazon", "flat"]
ToItem = Callable[[Fields], CatalogItem]


@dataclass(frozen=True, slots=True)
class IngestRequest:
    """What the user asked for."""

    files: Sequence[Path]
    format: Format = "auto"
    mapping: Mapping | None = None
    mapped_fields: Sequence[MappedField] = ()
    on_error: Literal["stop", "skip"] = "stop"
    replace: bool = False

    @property
    def names_columns(self) -> bool:
        """Tell whether the user said which columns to read."""
        return self.mapping is not None or bool(self.mapped_fields)


@dataclass(frozen=True, slots=True)
class IngestResult:
    """What became of the records, and the catalogue after it."""

    items_read: int
    items_written: int
    items_unchanged: int
    items_deleted: int
    items_total: int
    records_skipped: int
    skipped: dict[str, int]
    seq: int


def ingest(request: IngestRequest, catalog_url: str) -> IngestResult:
    """Write the items of all files into a catalogue.

    Items are written in transactions of some thousand; with `replace` all of it is one
    transaction, so that readers see the old catalogue or the new one.

    Raises:
        CommandError: a file or a record cannot be used, and is not to be skipped.
        Unavailable: the database failed.
    """
    kinds = [kind_of_file(path) for path in request.files]
    total_bytes = sum(path.stat().st_size for path in request.files)
    with (
        closing(open_bulk_catalog(catalog_url)) as catalog,
        progress_bar("ingesting (bytes)", total_bytes) as advance,
        catalog.transaction() if request.replace else nullcontext(),
    ):
        writer = _Writer(catalog, request)
        for path, kind in zip(request.files, kinds, strict=True):
            records = read_records(path, kind, advance)
            writer.write_file(path, records, untyped=kind == "csv")
        return writer.finish()


def infer_file(request: IngestRequest) -> Mapping:
    """Return the mapping that an ingest of the first file would use.

    Raises:
        CommandError: the file is of a format that has no mapping.
    """
    path = request.files[0]
    kind = kind_of_file(path)
    sample, _ = _sampled(path, read_records(path, kind, _nobody))
    format_name = _format_of(request, sample)
    if format_name != "flat":
        raise CommandError(f"{path}: format {format_name} needs no mapping; pass --format flat")
    return _mapping_of(request, path, sample, untyped=kind == "csv")


@dataclass(slots=True)
class _Rejections:
    """Counts what is left out, or stops at the first."""

    on_error: Literal["stop", "skip"]
    counts: Counter[Reason] = field(default_factory=Counter)
    examples: dict[Reason, list[str]] = field(default_factory=dict)

    def add(self, path: Path, rejection: Rejection) -> None:
        place = f"{path}:{rejection.line}: {rejection.detail}"
        if self.on_error == "stop":
            remedy = REMEDIES[rejection.reason]
            raise CommandError(f"{place}; {remedy}, or leave such records out with --on-error skip")
        self.counts[rejection.reason] += 1
        shown = self.examples.setdefault(rejection.reason, [])
        if len(shown) < EXAMPLES_SHOWN:
            shown.append(place)

    def tell(self) -> None:
        for reason, count in self.counts.most_common():
            _say(f"skipped {count} records: {reason}")
            for example in self.examples[reason]:
                _say(f"  {example}")


@dataclass(frozen=True, slots=True)
class _Pending:
    line: int
    item: bytes
    new_kinds: dict[str, AttributeKind]


class _Writer:
    """Gathers items into batches and writes them, keeping ids unique and kinds consistent."""

    def __init__(self, catalog: BulkCatalog, request: IngestRequest) -> None:
        self._catalog = catalog
        self._request = request
        self._rejections = _Rejections(request.on_error)
        if request.replace:
            catalog.clear_schema()
        self._kinds = catalog.read_schema()
        self._batch_kinds: dict[str, AttributeKind] = {}
        self._batch: dict[str, _Pending] = {}
        self._batch_bytes = 0
        self._read = self._written = self._accepted = 0

    def write_file(self, path: Path, records: Records, untyped: bool) -> None:
        """Write the items of one file."""
        sample, records = _sampled(path, records)
        to_item = self._reader_of(path, sample, untyped)
        for record in records:
            self._read += 1
            rejection = self._add(record, to_item)
            if rejection is not None and self._depends_on_batch(rejection) and self._flush(path):
                rejection = self._add(record, to_item)
            if rejection is not None:
                self._rejections.add(path, rejection)
            elif len(self._batch) >= BATCH_ITEMS or self._batch_bytes >= BATCH_BYTES_MAX:
                self._flush(path)
        self._flush(path)

    def finish(self) -> IngestResult:
        """Remove what a replacement left behind, and sum up."""
        self._rejections.tell()
        if not self._accepted:
            raise CommandError("no record could be used; the catalogue is as it was")
        deleted = self._catalog.delete_unseen() if self._request.replace else 0
        size = self._catalog.size()
        counts = self._rejections.counts
        return IngestResult(
            items_read=self._read,
            items_written=self._written,
            items_unchanged=self._accepted - self._written,
            items_deleted=deleted,
            items_total=size.items,
            records_skipped=counts.total(),
            skipped={str(reason): count for reason, count in counts.items()},
            seq=size.seq,
        )

    def _reader_of(self, path: Path, sample: Sequence[Fields], untyped: bool) -> ToItem:
        """Return what makes items of a file's records, and say how it reads them."""
        format_name = _format_of(self._request, sample)
        if format_name != "flat":
            _say(f"{path}: format {format_name}")
            return vitrine.to_item if format_name == "vitrine" else amazon.to_item
        mapping = _mapping_of(self._request, path, sample, untyped)
        _say(f"{path}: format flat, mapped as (--print-mapping prints this to keep)")
        _say("  " + mapping.to_toml().replace("\n", "\n  "))
        return FlatFormat(mapping).to_item

    def _depends_on_batch(self, rejection: Rejection) -> bool:
        """Tell whether what came before has to be written before a record is rejected.

        Who stops wants the first fault told. And writing may find that the record broke a kind that
        nothing but duplicates had.
        """
        kind_is_unsettled = rejection.reason is Reason.ATTRIBUTE_KIND and bool(self._batch_kinds)
        return self._request.on_error == "stop" or kind_is_unsettled

    def _add(self, record: Record | Rejection, to_item: ToItem) -> Rejection | None:
        """Put an item into the batch; return why it cannot be."""
        if isinstance(record, Rejection):
            return record
        try:
            item = to_item(record.fields)
            _check(item)
            new_kinds = self._new_kinds_of(item)
            serialized = to_bytes(item)
        except Refused as exc:
            return Rejection(record.line, exc.reason, str(exc))
        except InvalidArgument as exc:
            return Rejection(record.line, Reason.INVALID_FIELD, str(exc))
        except RecursionError:  # a text or an attribute of a thousand lists in one another
            return Rejection(record.line, Reason.INVALID_FIELD, "a field is nested too deeply")
        if (first := self._batch.get(item.item_id)) is not None:
            return _duplicate(record.line, item.item_id, f"on line {first.line}")
        self._batch[item.item_id] = _Pending(record.line, serialized, new_kinds)
        self._batch_bytes += len(serialized)
        self._batch_kinds.update(new_kinds)
        return None

    def _new_kinds_of(self, item: CatalogItem) -> dict[str, AttributeKind]:
        """Return the kinds of the attributes that the catalogue does not have yet.

        Raises:
            Refused: an attribute has another kind there, or in the batch.
        """
        new: dict[str, AttributeKind] = {}
        for name, value in item.attributes.items():
            kind = kind_of(value)
            written = self._kinds.get(name)
            known = written or self._batch_kinds.get(name, kind)
            if known != kind:
                detail = f"attribute {name} is a {kind} here and a {known} in the catalogue"
                raise Refused(Reason.ATTRIBUTE_KIND, detail)
            if written is None:
                new[name] = kind
        return new

    def _flush(self, path: Path) -> bool:
        """Write the batch; tell whether it had kinds that are dropped with its duplicates."""
        batch, self._batch, self._batch_bytes = self._batch, {}, 0
        batch_kinds, self._batch_kinds = self._batch_kinds, {}
        if not batch:
            return False
        again = self._catalog.mark_seen(list(batch))
        fresh = {item_id: row for item_id, row in batch.items() if item_id not in again}
        new_kinds = {name: kind for row in fresh.values() for name, kind in row.new_kinds.items()}
        rows = [(item_id, row.item) for item_id, row in fresh.items()]
        self._written += self._catalog.upsert_many(rows, new_kinds)
        self._kinds.update(new_kinds)
        self._accepted += len(fresh)
        for item_id, row in batch.items():
            if item_id in again:
                self._rejections.add(path, _duplicate(row.line, item_id, "before in this input"))
        return len(new_kinds) < len(batch_kinds)


def _check(item: CatalogItem) -> None:
    try:
        check_item_id(item.item_id)
    except InvalidArgument as exc:
        raise Refused(Reason.INVALID_ITEM_ID, str(exc)) from exc
    check_item(item)


def _duplicate(line: int, item_id: str, where: str) -> Rejection:
    return Rejection(line, Reason.DUPLICATE_ITEM_ID, f"item_id {item_id!r} came {where}")


def _sampled(path: Path, records: Records) -> tuple[list[Fields], Iterator[Record | Rejection]]:
    """Return the fields of the first records, and all records from the first on.

    Raises:
        CommandError: there is no record.
    """
    first = list(islice(records, SAMPLE_RECORDS))
    if not first:
        raise CommandError(f"{path}: holds no record; give a file with at least one")
    sample = [record.fields for record in first if isinstance(record, Record)]
    return sample, chain(first, records)


def _format_of(request: IngestRequest, sample: Sequence[Fields]) -> Format:
    if request.format != "auto":
        return request.format
    columns = {column for fields in sample for column in fields}
    if request.names_columns:
        return "flat"
    if vitrine.looks_like_vitrine(columns):
        return "vitrine"
    return "amazon" if amazon.looks_like_amazon(columns) else "flat"


def _mapping_of(
    request: IngestRequest, path: Path, sample: Sequence[Fields], untyped: bool
) -> Mapping:
    if request.mapping is not None:
        return request.mapping
    return infer_mapping(sample, request.mapped_fields, untyped, str(path))


def _say(line: str) -> None:
    sys.stderr.write(line + "\n")


def _nobody(_bytes: int) -> None: ...
