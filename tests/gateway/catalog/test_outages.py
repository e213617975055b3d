"""What callers see while the catalogue's database is gone, and how it comes back by itself."""

import asyncio
import sqlite3
import time
from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path
from uuid import uuid4

import pytest

from gateway.catalog import sqlite
from gateway.catalog.item import CatalogItem, to_bytes
from gateway.catalog.store import (
    CatalogSize,
    CatalogStore,
    StoreLimits,
    open_bulk_catalog,
    open_catalog,
)
from rpc.errors import Unavailable

FAST = StoreLimits(connect_timeout_s=0.4, query_timeout_s=0.8, retry_after_s=0.1)
# What a busy machine may add to the time limits before a test says that a call hung.
SLACK_S = 3.0
GIVE_UP_S = 30.0
ITEM = ("a", to_bytes(CatalogItem("a", "Linen dress")))


def fill(url: str) -> None:
    with closing(open_bulk_catalog(url)) as bulk:
        bulk.upsert_many([ITEM], {})


def move(path: Path, target: Path) -> None:
    path.replace(target)


def no_file_in(folder: Path) -> bool:
    return not list(folder.iterdir())


async def refused_in_time(store: CatalogStore) -> None:
    started = time.monotonic()
    with pytest.raises(Unavailable) as refused:
        await store.get_items(["a"])
    assert refused.value.reason == "CATALOG_DOWN"
    assert time.monotonic() - started < FAST.query_timeout_s + SLACK_S


async def answer_when_back(store: CatalogStore) -> CatalogSize:
    """Ask until the store has recovered by itself."""
    give_up = time.monotonic() + GIVE_UP_S
    while True:
        try:
            return await store.size()
        except Unavailable:
            assert time.monotonic() < give_up, "the store did not recover"
            await asyncio.sleep(0.02)


@pytest.fixture
def sqlite_file(tmp_path: Path) -> Path:
    fill(f"sqlite://{tmp_path}/catalog.sqlite")
    return tmp_path / "catalog.sqlite"


@pytest.fixture
async def sqlite_store(sqlite_file: Path) -> AsyncIterator[CatalogStore]:
    store = open_catalog(f"sqlite://{sqlite_file}", FAST)
    yield store
    await store.close()


@pytest.fixture
async def postgres_store(postgres_server) -> AsyncIterator[CatalogStore]:
    url = postgres_server.make_database(f"test_{uuid4().hex}")
    fill(url)
    store = open_catalog(url, FAST)
    yield store
    await store.close()


async def test_a_sqlite_file_that_is_gone_is_unavailable_until_it_is_back(
    sqlite_file: Path, sqlite_store: CatalogStore
):
    assert await sqlite_store.get_items(["a"]) == dict([ITEM])
    aside = sqlite_file.with_suffix(".aside")
    move(sqlite_file, aside)
    await refused_in_time(sqlite_store)
    move(aside, sqlite_file)
    assert await sqlite_store.get_items(["a"]) == dict([ITEM])


async def test_a_sqlite_file_that_was_replaced_is_read_anew(
    sqlite_file: Path, sqlite_store: CatalogStore, tmp_path: Path
):
    assert (await sqlite_store.size()).items == 1
    with closing(open_bulk_catalog(f"sqlite://{tmp_path}/other.sqlite")):
        pass
    move(tmp_path / "other.sqlite", sqlite_file)
    assert (await sqlite_store.size()).items == 0


async def test_a_locked_file_is_waited_for_aside(sqlite_file: Path, sqlite_store: CatalogStore):
    with closing(sqlite3.connect(sqlite_file, isolation_level=None)) as owner:
        owner.execute("PRAGMA locking_mode = EXCLUSIVE")
        owner.execute("BEGIN EXCLUSIVE")
        started = time.monotonic()
        assert sqlite_store.items_at_hand(["a"]) is None
        assert time.monotonic() - started < sqlite._LOCK_TIMEOUT_S, "the event loop has waited"
        reading = asyncio.create_task(sqlite_store.get_items(["a"]))
        await asyncio.sleep(0)
        owner.execute("ROLLBACK")
    assert await reading == dict([ITEM])


async def test_a_file_that_is_gone_is_not_at_hand(sqlite_file: Path, sqlite_store: CatalogStore):
    move(sqlite_file, sqlite_file.with_suffix(".aside"))
    assert sqlite_store.items_at_hand(["a"]) is None


async def test_after_a_long_read_the_loop_is_spared(
    sqlite_store: CatalogStore, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(sqlite, "_SHORT_READ_S", 0.0)
    assert sqlite_store.items_at_hand(["a"]) == dict([ITEM])
    assert sqlite_store.items_at_hand(["a"]) is None
    assert await sqlite_store.get_items(["a"]) == dict([ITEM])


async def test_a_file_that_is_no_database_is_unavailable(tmp_path: Path):
    (tmp_path / "notes.txt").write_text("not a database" * 100)
    store = open_catalog(f"sqlite://{tmp_path}/notes.txt", FAST)
    await refused_in_time(store)
    await store.close()


async def test_a_sqlite_catalogue_that_was_never_made_is_unavailable(tmp_path: Path):
    store = open_catalog(f"sqlite://{tmp_path}/none.sqlite", FAST)
    await refused_in_time(store)
    assert no_file_in(tmp_path)
    await store.close()


async def test_a_stopped_server_is_unavailable_until_it_is_back(postgres_server, postgres_store):
    assert await postgres_store.get_items(["a"]) == dict([ITEM])
    postgres_server.stop()
    try:
        for _ in range(3):
            await refused_in_time(postgres_store)
    finally:
        postgres_server.start()
    assert await answer_when_back(postgres_store) == CatalogSize(items=1, seq=1)
    assert await postgres_store.get_items(["a"]) == dict([ITEM])


async def test_a_restart_between_two_calls_is_not_noticed(postgres_server, postgres_store):
    assert await postgres_store.get_items(["a"]) == dict([ITEM])
    postgres_server.stop()
    postgres_server.start()
    assert await postgres_store.get_items(["a"]) == dict([ITEM])


async def test_a_frozen_server_holds_no_caller_up(postgres_server, postgres_store):
    assert await postgres_store.get_items(["a"]) == dict([ITEM])
    postgres_server.freeze()
    try:
        started = time.monotonic()
        async with asyncio.TaskGroup() as group:
            for _ in range(8):
                group.create_task(refused_in_time(postgres_store))
        assert time.monotonic() - started < FAST.query_timeout_s + SLACK_S
    finally:
        postgres_server.thaw()
    assert await answer_when_back(postgres_store) == CatalogSize(items=1, seq=1)


async def test_while_down_further_calls_are_refused_at_once(postgres_server):
    url = postgres_server.make_database(f"test_{uuid4().hex}")
    store = open_catalog(url, StoreLimits(retry_after_s=60.0))
    with pytest.raises(Unavailable, match="does not exist"):  # the tables were never made
        await store.get_items(["a"])
    with pytest.raises(Unavailable, match="left alone"):
        await store.get_items(["a"])
    await store.close()


def test_a_bulk_catalogue_that_is_not_there_says_so():
    with pytest.raises(Unavailable) as refused:
        open_bulk_catalog("postgresql://vitrine@127.0.0.1:1/none")
    assert refused.value.reason == "CATALOG_DOWN"
    assert "\n" not in str(refused.value)


def test_a_full_disk_is_told_and_leaves_the_catalogue_as_it_was(tmp_path: Path):
    url = f"sqlite://{tmp_path}/catalog.sqlite"
    fill(url)
    many = [(f"i{n}", to_bytes(CatalogItem(f"i{n}", "Linen dress" * 50))) for n in range(2_000)]
    with closing(open_bulk_catalog(url)) as bulk:
        (num_pages,) = bulk._connection.execute("PRAGMA page_count").fetchone()
        bulk._connection.execute(f"PRAGMA max_page_count = {num_pages + 20}")
        with pytest.raises(Unavailable, match=r"failed: database or disk is full; once that"):
            bulk.upsert_many(many, {})
        assert bulk.size() == CatalogSize(items=1, seq=1)
    with closing(open_bulk_catalog(url)) as bulk:
        assert bulk.upsert_many(many, {}) == 2_000
