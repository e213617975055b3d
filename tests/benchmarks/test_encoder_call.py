import grpc
import pytest
import uvloop

from benchmarks.encoder_call import SERVICE, WORKS, bare_server, measure
from benchmarks.encoder_load import running_service
from encoder_service.layout import Layout


@pytest.mark.parametrize("work", WORKS)
def test_a_bare_server_does_what_is_done_in_process(work, minilm_bundle):
    local = WORKS[work](minilm_bundle, Layout.THROUGHPUT)
    with (
        bare_server(work, minilm_bundle, Layout.THROUGHPUT) as address,
        grpc.insecure_channel(address) as channel,
    ):
        asked = channel.unary_unary(f"/{SERVICE}/Work", None, None)
        assert asked(b"warm coat", timeout=30) == local(b"warm coat")


def test_what_a_call_adds_is_told_of_every_way(minilm_bundle):
    texts = [f"warm coat {number}" for number in range(12)]
    with (
        running_service(minilm_bundle) as service,
        bare_server("encode", minilm_bundle, Layout.THROUGHPUT) as encode,
        bare_server("read", minilm_bundle, Layout.THROUGHPUT) as read,
    ):
        bare = {"encode": encode, "read": read}
        local = {name: work(minilm_bundle, Layout.THROUGHPUT) for name, work in WORKS.items()}
        found = uvloop.run(measure(local, service, bare, texts, 2))
    ways = {"ours", "ours_standing", "bare_encode", "bare_read"}
    assert set(found["added_in_empty_rpcs"]) == set(found["added_us"]) == ways
    assert all(len(ratios) == 2 for ratios in found["rounds"].values())
    assert set(found["us"]) == {"empty_rpc"} | ways | {f"{way}_in_process" for way in ways}
