"""What every catalogue promises, asked of SQLite and of a real PostgreSQL server."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import closing
from pathlib import Path
from uuid import uuid4

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gateway.catalog.item import CatalogItem, to_bytes
from gateway.catalog.store import (
    BulkCatalog,
    CatalogSize,
    CatalogStore,
    StoreLimits,
    open_bulk_catalog,
    open_catalog,
)
from rpc.errors import FailedPrecondition, InvalidArgument

FAST = StoreLimits(connect_timeout_s=0.5, query_timeout_s=0.5, retry_after_s=0.1)


@pytest.fixture(params=["sqlite", "postgres"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite://{tmp_path}/catalog.sqlite"
    server = request.getfixturevalue("postgres_server")
    return server.make_database(f"test_{uuid4().hex}")


@pytest.fixture
def bulk(url: str) -> Iterator[BulkCatalog]:
    with closing(open_bulk_catalog(url)) as catalog:
        yield catalog


@pytest.fixture
async def store(url: str, bulk: BulkCatalog) -> AsyncIterator[CatalogStore]:
    opened = open_catalog(url, FAST)
    yield opened
    await opened.close()


def an_item(item_id: str, title: str = "Linen dress") -> tuple[str, bytes]:
    return item_id, to_bytes(CatalogItem(item_id, title))


def sorted_ids(bulk: BulkCatalog) -> list[str]:
    with bulk.snapshot() as snapshot:
        return [item_id for item_id, _ in snapshot.iter_items_sorted()]


async def test_items_come_back_byte_for_byte(bulk: BulkCatalog, store: CatalogStore):
    written = [an_item("a"), an_item("b", "Wool coat"), an_item("ß-emoji-👗")]
    bulk.upsert_many(written, {})
    assert await store.get_items(["b", "a", "ß-emoji-👗"]) == dict(written)


async def test_what_is_at_hand_is_what_would_be_read(bulk: BulkCatalog, store: CatalogStore):
    bulk.upsert_many([an_item("a"), an_item("b", "Wool coat")], {})
    at_hand = store.items_at_hand(["b", "a", "nope"])
    if store.kind == "sqlite":
        assert at_hand == await store.get_items(["b", "a", "nope"])
    else:
        assert at_hand is None


async def test_many_items_are_never_at_hand(store: CatalogStore):
    assert store.items_at_hand([f"i{n}" for n in range(101)]) is None


async def test_unknown_ids_are_absent_and_no_ids_give_nothing(
    bulk: BulkCatalog, store: CatalogStore
):
    bulk.upsert_many([an_item("a")], {})
    assert list(await store.get_items(["a", "no such item", "a'; DROP TABLE items; --"])) == ["a"]
    assert await store.get_items([]) == {}


async def test_an_empty_catalogue_has_size_zero(store: CatalogStore):
    assert await store.size() == CatalogSize(items=0, seq=0)


async def test_each_changed_item_takes_one_sequence_number(bulk: BulkCatalog, store: CatalogStore):
    assert bulk.upsert_many([an_item("a"), an_item("b")], {}) == 2
    assert bulk.upsert_many([an_item("b", "another title"), an_item("c")], {}) == 2
    assert bulk.size() == CatalogSize(items=3, seq=4)
    assert await store.size() == CatalogSize(items=3, seq=4)


async def test_few_and_many_items_are_read_alike(bulk: BulkCatalog, store: CatalogStore):
    written = dict(an_item(f"item-{number:04d}", f"Dress {number}") for number in range(250))
    bulk.upsert_many(list(written.items()), {})
    for count in (1, 99, 100, 101, 250):
        asked = list(written)[:count]
        assert await store.get_items([*asked, "no such item"]) == {i: written[i] for i in asked}


def test_unchanged_items_keep_their_sequence_number(bulk: BulkCatalog):
    bulk.upsert_many([an_item("a"), an_item("b")], {})
    assert bulk.upsert_many([an_item("a"), an_item("b")], {}) == 0
    assert bulk.size().seq == 2


def test_export_order_is_that_of_utf8_bytes(bulk: BulkCatalog):
    ids = ["a", "B", "ä", "Z", "a-1", "a1", "z", "~", "é", "e", "👗", "\uffee", " x", "_"]
    bulk.upsert_many([an_item(item_id) for item_id in ids], {})
    assert sorted_ids(bulk) == sorted(ids, key=str.encode)


def test_a_snapshot_does_not_see_later_writes(url: str, bulk: BulkCatalog):
    bulk.upsert_many([an_item("a"), an_item("c")], {})
    with closing(open_bulk_catalog(url)) as writer, bulk.snapshot() as snapshot:
        writer.upsert_many([an_item("b")], {})
        writer.mark_seen(["b"])
        writer.delete_unseen()
        assert snapshot.size == CatalogSize(items=2, seq=2)
        assert [item_id for item_id, _ in snapshot.iter_items_sorted()] == ["a", "c"]
    assert sorted_ids(bulk) == ["b"]


def test_every_snapshot_names_the_same_catalogue(url: str, bulk: BulkCatalog):
    with bulk.snapshot() as first:
        catalog_id = first.catalog_id
    with closing(open_bulk_catalog(url)) as again, again.snapshot() as second:
        assert second.catalog_id == catalog_id
    assert len(catalog_id) == 32


def test_seen_ids_are_told_once_remembered(bulk: BulkCatalog):
    assert bulk.mark_seen(["a", "b"]) == set()
    assert bulk.mark_seen(["b", "c"]) == {"b"}


def test_delete_unseen_removes_the_rest_and_counts_each_as_a_change(bulk: BulkCatalog):
    bulk.upsert_many([an_item("a"), an_item("b"), an_item("c")], {})
    bulk.mark_seen(["b"])
    assert bulk.delete_unseen() == 2
    assert bulk.size() == CatalogSize(items=1, seq=5)
    assert sorted_ids(bulk) == ["b"]


async def test_a_removed_item_can_come_back(bulk: BulkCatalog, store: CatalogStore):
    bulk.upsert_many([an_item("a")], {})
    bulk.delete_unseen()
    assert await store.get_items(["a"]) == {}
    assert bulk.upsert_many([an_item("a")], {}) == 1
    assert await store.get_items(["a"]) == dict([an_item("a")])
    bulk.delete_unseen()
    assert bulk.size() == CatalogSize(items=0, seq=4)


def test_a_failed_transaction_leaves_nothing(bulk: BulkCatalog):
    bulk.upsert_many([an_item("kept")], {})

    def replace_and_fail() -> None:
        with bulk.transaction():
            bulk.upsert_many([an_item("lost")], {"color": "keyword"})
            bulk.delete_unseen()
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        replace_and_fail()
    assert sorted_ids(bulk) == ["kept"]
    assert bulk.size() == CatalogSize(items=1, seq=1)
    assert bulk.read_schema() == {}


def test_attribute_kinds_are_kept_and_checked(url: str, bulk: BulkCatalog):
    bulk.upsert_many([an_item("a")], {"color": "keyword", "price": "number"})
    with closing(open_bulk_catalog(url)) as again:
        assert again.read_schema() == {"color": "keyword", "price": "number"}
        with pytest.raises(FailedPrecondition, match="price is a keyword here and a number"):
            again.upsert_many([an_item("b")], {"price": "keyword"})
        assert again.size().items == 1
    bulk.clear_schema()
    assert bulk.read_schema() == {}


@settings(
    max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    runs=st.lists(
        st.tuples(
            st.dictionaries(st.sampled_from("abcdef"), st.sampled_from(["x", "y", "z"])),
            st.booleans(),
        ),
        max_size=5,
    )
)
def test_any_run_of_writes_and_replacements_equals_a_dict(
    url: str, bulk: BulkCatalog, runs: list[tuple[dict[str, str], bool]]
):
    with bulk.snapshot() as snapshot:
        expected = dict(snapshot.iter_items_sorted())
    for titles, replaces in runs:
        written = dict(an_item(item_id, title) for item_id, title in titles.items())
        changes = sum(expected.get(item_id) != item for item_id, item in written.items())
        before = bulk.size().seq
        with closing(open_bulk_catalog(url)) as run:
            assert run.upsert_many(list(written.items()), {}) == changes
            if replaces:
                run.mark_seen(list(written))
                changes += run.delete_unseen()
        expected = written if replaces else {**expected, **written}
        with bulk.snapshot() as snapshot:
            assert dict(snapshot.iter_items_sorted()) == expected
            assert snapshot.size == CatalogSize(len(expected), before + changes)


def test_tables_of_another_version_are_refused(url: str, bulk: BulkCatalog):
    bulk._connection.execute("UPDATE catalog_state SET schema_version = 99")
    with pytest.raises(FailedPrecondition, match=r"schema version 99.*reads version 1"):
        open_bulk_catalog(url)


async def test_a_store_refuses_tables_of_another_version(bulk: BulkCatalog, store: CatalogStore):
    bulk._connection.execute("UPDATE catalog_state SET schema_version = 99")
    with pytest.raises(FailedPrecondition, match="schema version 99"):
        await store.size()


async def test_many_callers_are_answered_at_once(bulk: BulkCatalog, store: CatalogStore):
    written = dict(an_item(f"item-{number}") for number in range(500))
    bulk.upsert_many(list(written.items()), {})
    async with asyncio.TaskGroup() as group:
        answers = [group.create_task(store.get_items(list(written))) for _ in range(32)]
    assert all(answer.result() == written for answer in answers)


async def test_a_caller_that_leaves_does_not_harm_the_next(bulk: BulkCatalog, store: CatalogStore):
    bulk.upsert_many([an_item("a")], {})
    for _ in range(20):
        leaving = asyncio.create_task(store.get_items(["a"]))
        await asyncio.sleep(0)
        leaving.cancel()
        with pytest.raises(asyncio.CancelledError):
            await leaving
    assert list(await store.get_items(["a"])) == ["a"]


@pytest.mark.parametrize(
    "url", ["mysql://localhost/shop", "catalog.sqlite", "sqlite://relative", "sqlite://", ""]
)
@pytest.mark.parametrize("open_url", [open_catalog, open_bulk_catalog])
def test_urls_of_unknown_kinds_are_refused(url: str, open_url: Callable[[str], object]):
    with pytest.raises(InvalidArgument, match="sqlite:///ABSOLUTE/PATH"):
        open_url(url)


def test_a_refused_url_does_not_tell_its_password():
    with pytest.raises(InvalidArgument) as refused:
        open_catalog("mysql://shop:secret@db/shop")
    assert "secret" not in str(refused.value)
