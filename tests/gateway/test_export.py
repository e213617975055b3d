"""The Arrow file that the later build stages read."""

import errno
import json
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import orjson
import pyarrow as pa
import pytest

from gateway import export as export_module
from gateway.catalog.item import CatalogItem, to_bytes
from gateway.catalog.store import open_bulk_catalog
from gateway.export import export
from rpc.terminal import CommandError


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite://{tmp_path}/catalog.sqlite"


def stored_form(item_id: str) -> bytes:
    return to_bytes(CatalogItem(item_id, f"title of {item_id}"))


def fill(url: str, *item_ids: str) -> None:
    items = [
        (item_id, to_bytes(CatalogItem(item_id, f"title of {item_id}"))) for item_id in item_ids
    ]
    with closing(open_bulk_catalog(url)) as catalog:
        catalog.upsert_many(items, {})


def read_rows(folder: Path) -> list[tuple[str, bytes]]:
    with pa.memory_map(str(folder / "items.arrow")) as file:
        table = pa.ipc.open_file(file).read_all()
    return list(zip(table["item_id"].to_pylist(), table["item"].to_pylist(), strict=True))


def test_rows_are_the_items_in_utf8_byte_order(url: str, tmp_path: Path):
    ids = ["b", "ä", "a", "Z", "👗", "\uffee", "10", "9"]
    fill(url, *ids)
    export(url, tmp_path / "build")
    expected = sorted(ids, key=str.encode)
    assert read_rows(tmp_path / "build") == [(i, stored_form(i)) for i in expected]


def test_says_what_it_holds(url: str, tmp_path: Path):
    fill(url, "a", "b")
    result = export(url, tmp_path / "build")
    written = orjson.loads((tmp_path / "build" / "export.json").read_bytes())
    assert (written["format_version"], written["seq"], written["items"]) == (1, 2, 2)
    assert (result["items"], result["seq"], result["done_before"]) == (2, 2, False)
    assert sorted(path.name for path in (tmp_path / "build").iterdir()) == [
        "export.json",
        "items.arrow",
    ]


def test_batches_are_small(url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(export_module, "BATCH_ROWS_MAX", 3)
    fill(url, *"abcdefgh")
    export(url, tmp_path)
    with pa.memory_map(str(tmp_path / "items.arrow")) as file:
        reader = pa.ipc.open_file(file)
        sizes = [reader.get_batch(n).num_rows for n in range(reader.num_record_batches)]
    assert sizes == [3, 3, 2]


def test_large_items_make_batches_of_fewer_rows(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(export_module, "BATCH_BYTES_MAX", 1)
    fill(url, "a", "b")
    export(url, tmp_path)
    with pa.memory_map(str(tmp_path / "items.arrow")) as file:
        assert pa.ipc.open_file(file).num_record_batches == 2


def test_an_unchanged_catalogue_is_not_written_again(url: str, tmp_path: Path):
    fill(url, "a")
    export(url, tmp_path)
    before = (tmp_path / "items.arrow").stat()
    assert export(url, tmp_path)["done_before"] is True
    after = (tmp_path / "items.arrow").stat()
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


def test_a_changed_catalogue_is_written_again(url: str, tmp_path: Path):
    fill(url, "a")
    export(url, tmp_path)
    fill(url, "b")
    assert export(url, tmp_path)["items"] == 2
    assert len(read_rows(tmp_path)) == 2


def test_another_catalogue_of_the_same_seq_is_written_again(url: str, tmp_path: Path):
    other = f"sqlite://{tmp_path}/other.sqlite"
    fill(url, "a")
    fill(other, "b")
    export(url, tmp_path)
    assert export(other, tmp_path)["done_before"] is False
    assert read_rows(tmp_path)[0][0] == "b"


def test_what_an_interrupted_run_left_is_written_over(url: str, tmp_path: Path):
    fill(url, "a")
    (tmp_path / ".items.arrow.writing").write_bytes(b"half")
    (tmp_path / "items.arrow").write_bytes(b"of an export that was not finished")
    export(url, tmp_path)
    assert len(read_rows(tmp_path)) == 1


def test_an_interruption_never_leaves_a_description_of_other_rows(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    fill(url, "a")
    export(url, tmp_path)
    fill(url, "b")

    def interrupt(_folder: Path) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(export_module, "sync_folder", interrupt)
    with pytest.raises(KeyboardInterrupt):
        export(url, tmp_path)
    assert not (tmp_path / "export.json").exists()


def test_a_full_disk_is_an_error_that_leaves_no_half_file(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    fill(url, "a")

    def no_space(_descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(export_module.os, "fsync", no_space)
    with pytest.raises(OSError, match="No space left"):
        export(url, tmp_path / "build")
    assert list((tmp_path / "build").iterdir()) == []


def test_an_empty_catalogue_is_an_error(url: str, tmp_path: Path):
    fill(url)
    with pytest.raises(CommandError, match="holds no item"):
        export(url, tmp_path / "build")


def test_from_postgres_the_rows_are_the_same(postgres_url: str, url: str, tmp_path: Path):
    ids = ["b", "ä", "a", "Z", "👗", "\uffee", "10", "9"]
    fill(url, *ids)
    fill(postgres_url, *ids)
    export(url, tmp_path / "sqlite")
    export(postgres_url, tmp_path / "postgres")
    assert read_rows(tmp_path / "postgres") == read_rows(tmp_path / "sqlite")


def test_the_command_prints_one_json_object(url: str, tmp_path: Path):
    fill(url, "a")
    ended = subprocess.run(
        [sys.executable, "-m", "gateway.export", "--catalog", url, "--out", str(tmp_path / "x")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    assert json.loads(ended.stdout)["items"] == 1
