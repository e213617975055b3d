"""A catalogue that is gone: searches go on without items, and say so."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from uuid import uuid4

import pytest

from protos.vitrine.v1 import admin_pb2, catalog_pb2, search_pb2
from tests.system.polling import eventually
from tests.system.processes import run_module, succeed
from tests.system.wire import Stubs, failure_of

NO_CACHE = {"ITEM_CACHE_BYTES": 0}


def search(stubs: Stubs, **fields) -> search_pb2.SearchResponse:
    return stubs.search.Search(search_pb2.SearchRequest(text="red hat", **fields), timeout=10)


def items_missing(cluster, response) -> bool:
    return cluster.degraded(response) == ["ITEMS_MISSING"]


def assert_ids_alone(cluster, response, expected) -> None:
    assert items_missing(cluster, response)
    assert [hit.item_id for hit in response.results] == [hit.item_id for hit in expected.results]
    assert not any(hit.HasField("item") for hit in response.results)
    assert response.coverage.fraction == 1


@contextmanager
def moved_away(cluster) -> Iterator[None]:
    file = cluster.home / "catalog.sqlite"
    away = file.with_name("away.sqlite")
    file.rename(away)
    try:
        yield
    finally:
        away.rename(file)


def test_without_its_file_results_come_without_items(cluster):
    with cluster.stubs_beside("gateway.uncached", **NO_CACHE) as stubs:
        whole = search(stubs)
        assert all(hit.item.title for hit in whole.results)
        with moved_away(cluster):
            assert_ids_alone(cluster, search(stubs), whole)
            assert not search(stubs, fields=["none"]).degraded, "no items were asked for"
            get = catalog_pb2.GetItemsRequest(item_ids=["VS000001"])
            for call in (
                lambda: stubs.catalog.GetItems(get, timeout=10),
                lambda: stubs.catalog.CountItems(catalog_pb2.CountItemsRequest(), timeout=10),
            ):
                failure = failure_of(call)
                assert (failure.code, failure.reason) == ("UNAVAILABLE", "CATALOG_DOWN")
            described = stubs.admin.DescribeCluster(admin_pb2.DescribeClusterRequest(), timeout=10)
            assert not described.catalog.reachable
            assert described.catalog.detail
        assert not search(stubs).degraded, "it is back"


@pytest.fixture
def postgres_catalog(postgres_server, sample_file) -> str:
    url = postgres_server.make_database(f"faults_{uuid4().hex}")
    succeed(run_module("gateway.ingest", sample_file, "--catalog", url))
    return url


def test_postgresql_may_stop_stand_still_and_come_back(cluster, postgres_server, postgres_catalog):
    settings = {**NO_CACHE, "CATALOG": postgres_catalog}
    with cluster.stubs_beside("gateway.postgres", **settings) as stubs:
        whole = search(stubs)
        assert all(hit.item.title for hit in whole.results)

        postgres_server.freeze()
        try:
            started_s = time.monotonic()
            assert_ids_alone(cluster, search(stubs), whole)
            assert time.monotonic() - started_s < 3, "attach_timeout_s is 0.5"
        finally:
            postgres_server.thaw()
        eventually(lambda: not search(stubs).degraded, "items come again")

        postgres_server.stop()
        try:
            started_s = time.monotonic()
            assert_ids_alone(cluster, search(stubs), whole)
            assert time.monotonic() - started_s < 3
        finally:
            postgres_server.start()
        eventually(lambda: not search(stubs).degraded, "items come again")


def test_items_that_postgresql_gave_recently_are_still_given(
    cluster, postgres_server, postgres_catalog
):
    with cluster.stubs_beside("gateway.cache", CATALOG=postgres_catalog) as stubs:
        whole = search(stubs)
        postgres_server.freeze()
        try:
            again = search(stubs)
        finally:
            postgres_server.thaw()
        assert not again.degraded
        assert list(again.results) == list(whole.results)
