"""Index and encoder services for gateway tests: real gRPC, exact answers, faults on demand."""

import asyncio
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import grpc
import numpy as np

from gateway.catalog.store import CatalogSize
from gateway.cluster import Cluster
from gateway.embedding_cache import EmbeddingCache
from gateway.generations import Generations
from gateway.items import ItemReader
from gateway.search import Searcher
from gateway.settings import GatewaySettings
from protos.vitrine.v1 import (
    encoder_pb2,
    encoder_pb2_grpc,
    index_pb2,
    index_pb2_grpc,
    types_pb2,
)
from rpc.active import Active, write_active
from rpc.buckets import bucket_of, shard_of
from rpc.errors import FailedPrecondition, InvalidArgument, NotFound, Unavailable
from rpc.interceptors import CallInterceptor
from rpc.telemetry import RpcMetrics
from rpc.vectors import pack, unpack

DIM = 8
ENCODER_ID = "encoder-a"
LOADING = index_pb2.GENERATION_STATE_LOADING
READY = index_pb2.GENERATION_STATE_READY


def vector_of(text):
    """Return the unit vector that stands for a text: a function of the text alone."""
    seed = int.from_bytes(text.encode()[:8].ljust(8, b"\0"), "little")
    vector = np.random.default_rng(seed).normal(size=DIM).astype(np.float32)
    return vector / np.linalg.norm(vector)


def catalogue(num_items=40, prefix="item"):
    return {f"{prefix}-{n:03}": vector_of(f"{n}{prefix}") for n in range(num_items)}


def nearest(items, vector, top_k):
    """Return [(item_id, score)] by sorting everything: the oracle."""
    scores = {item_id: float(np.float32(row @ vector)) for item_id, row in items.items()}
    return sorted(scores.items(), key=lambda hit: (-hit[1], hit[0]))[:top_k]


@dataclass
class FakeShard(index_pb2_grpc.IndexServiceServicer):
    """Exact search over the items of one shard, generation by generation."""

    shard: int
    num_shards: int
    generations: dict[int, dict[str, np.ndarray]]
    encoder_id: str = ENCODER_ID
    compatible_query_encoders: tuple[str, ...] = ()
    ann_recall: float = 1.0
    can_load: set[int] = field(default_factory=set)
    loading: set[int] = field(default_factory=set)
    num_shards_of: dict[int, int] = field(default_factory=dict)
    loads: list[int] = field(default_factory=list)
    num_describes: int = 0
    calls: list[int] = field(default_factory=list)
    search_delay_s: float = 0.0
    describe_delay_s: float = 0.0
    load_delay_s: float = 0.0
    refuse: Exception | None = None
    cancelled: int = 0

    def __post_init__(self):
        for generation, items in self.generations.items():
            self.generations[generation] = {
                item_id: row
                for item_id, row in items.items()
                if shard_of(bucket_of(item_id), self.num_shards) == self.shard
            }
        self.can_load |= set(self.generations)
        self.loaded = set(self.generations)

    async def Search(self, request, context):
        self.calls.append(len(request.queries))
        if self.refuse:
            raise self.refuse
        try:
            await asyncio.sleep(self.search_delay_s)
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        items = self._held(request.generation)
        response = index_pb2.IndexServiceSearchResponse(
            generation=request.generation, shard=self.shard, items=len(items), applied_seq=9
        )
        for query in request.queries:
            vector = unpack(query.embedding, DIM)[0]
            kept = {i: row for i, row in items.items() if i not in set(query.exclude_item_ids)}
            hits = nearest(kept, vector, query.fetch_k)
            entry = response.hits.add(items_matched=len(items))
            entry.dense.item_ids.extend(item_id for item_id, _ in hits)
            entry.dense.scores.extend(score for _, score in hits)
        return response

    def _held(self, generation):
        """Return the items of a generation, or say why not in the words of the real service."""
        if generation in self.loading:
            raise Unavailable("LOADING", "on its way")
        if generation not in self.generations:
            raise NotFound("generation", [generation])
        if generation not in self.loaded:
            raise FailedPrecondition("GENERATION_RETIRED", "gone")
        return self.generations[generation]

    async def GetEmbeddings(self, request, context):
        items = self._held(request.generation)
        found = [item_id for item_id in request.item_ids if item_id in items]
        rows = b"".join(pack(items[item_id]) for item_id in found)
        return index_pb2.GetEmbeddingsResponse(item_ids=found, embeddings=rows, dim=DIM)

    async def Count(self, request, context):
        items = len(self._held(request.generation))
        return index_pb2.CountResponse(items_matched=items, items=items)

    async def DescribeShard(self, request, context):
        self.num_describes += 1
        await asyncio.sleep(self.describe_delay_s)
        loading = [
            index_pb2.LoadedGeneration(generation=g, state=LOADING) for g in sorted(self.loading)
        ]
        loaded = [self._describe(g) for g in sorted(self.loaded - self.loading)]
        return index_pb2.DescribeShardResponse(shard=self.shard, generations=[*loading, *loaded])

    async def LoadGeneration(self, request, context):
        self.loads.append(request.generation)
        if request.generation not in self.can_load:
            raise NotFound("generation", [request.generation])
        await asyncio.sleep(self.load_delay_s)
        self.loaded.add(request.generation)
        return index_pb2.IndexServiceLoadGenerationResponse(
            loaded=self._describe(request.generation)
        )

    async def ReleaseGeneration(self, request, context):
        self.loaded.discard(request.generation)
        return index_pb2.ReleaseGenerationResponse(released=True)

    def _describe(self, generation):
        return index_pb2.LoadedGeneration(
            generation=generation,
            state=READY,
            encoder_id=self.encoder_id,
            compatible_query_encoders=self.compatible_query_encoders,
            dim=DIM,
            num_shards=self.num_shards_of.get(generation, self.num_shards),
            items=len(self.generations[generation]),
            items_total=40,
            applied_seq=9,
            gate=types_pb2.Gate(
                ann_recall_at_10=self.ann_recall, required_ann_recall_at_10=0.99, ef_search=64
            ),
        )


@dataclass
class FakeEncoder(encoder_pb2_grpc.EncoderServiceServicer):
    """Encodes with `vector_of`."""

    encoder_id: str = ENCODER_ID
    delay_s: float = 0.0
    batch_texts_max: int = 256
    text_bytes_max: int = 100_000
    calls: list[list[str]] = field(default_factory=list)
    cancelled: int = 0

    async def DescribeEncoder(self, request, context):
        return encoder_pb2.DescribeEncoderResponse(
            encoder_id=self.encoder_id, dim=DIM, name="fake", batch_texts_max=self.batch_texts_max
        )

    async def Encode(self, request, context):
        self.calls.append(list(request.texts))
        if len(request.texts) > self.batch_texts_max:
            raise InvalidArgument("texts", f"{len(request.texts)} texts", "fewer")
        for place, text in enumerate(request.texts):
            if len(text.encode()) > self.text_bytes_max:
                raise InvalidArgument(f"texts[{place}]", "too long", "shorter texts")
        try:
            await asyncio.sleep(self.delay_s)
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        return encoder_pb2.EncodeResponse(
            embeddings=b"".join(pack(vector_of(text)) for text in request.texts),
            dim=DIM,
            encoder_id=self.encoder_id,
        )


class FakeCatalog:
    """Items that exist as long as somebody asks; `down` makes it fail."""

    kind = "fake"

    def __init__(self):
        self.down = False
        self.reads = 0

    def items_at_hand(self, item_ids):
        return None

    async def get_items(self, item_ids):
        self.reads += 1
        if self.down:
            raise Unavailable("CATALOG_DOWN", "the catalogue is down")
        return {
            item_id: types_pb2.Item(item_id=item_id, title=item_id.upper()).SerializeToString()
            for item_id in item_ids
        }

    async def size(self):
        return CatalogSize(items=40, seq=9)

    async def close(self):
        pass


@dataclass
class Running:
    """A gateway's parts over running fakes."""

    cluster: Cluster
    searcher: Searcher
    generations: Generations
    items: ItemReader
    encoder: FakeEncoder
    encoder_server: grpc.aio.Server
    shards: list[FakeShard]
    shard_servers: list[grpc.aio.Server]
    catalog: FakeCatalog
    settings: GatewaySettings


async def serve(add, servicer):
    """Start a server for one servicer; return it and its address."""
    server = grpc.aio.server(
        interceptors=(CallInterceptor(RpcMetrics("fake", "0"), 1000),),
        options=(("grpc.so_reuseport", 0),),
    )
    add(servicer, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    return server, f"127.0.0.1:{port}"


@asynccontextmanager
async def running(tmp_path, items=None, num_shards=2, replicas=1, look=True, **settings):
    """Run a cluster of fakes, generation 1 promoted, and yield it."""
    items = catalogue() if items is None else items
    encoder = FakeEncoder()
    encoder_server, encoder_address = await serve(
        encoder_pb2_grpc.add_EncoderServiceServicer_to_server, encoder
    )
    shards, shard_servers, targets = [], [], []
    for shard in range(num_shards):
        addresses = []
        for _ in range(replicas):
            fake = FakeShard(shard, num_shards, {1: dict(items)})
            server, address = await serve(index_pb2_grpc.add_IndexServiceServicer_to_server, fake)
            shards.append(fake)
            shard_servers.append(server)
            addresses.append(address)
        targets.append("|".join(addresses))
    write_active(str(tmp_path), Active().promoted(1, "promote", ""))
    options = {
        "encoder": encoder_address,
        "shards": ",".join(targets),
        "catalog": "sqlite:////unused",
        "generations": str(tmp_path),
        "probe_timeout_s": 0.3,
        "startup_grace_s": 1e-9,
    } | settings
    configured = GatewaySettings(**options)
    cluster, catalog = Cluster(configured), FakeCatalog()
    reader = ItemReader(catalog, configured)
    searcher = Searcher(
        cluster, EmbeddingCache(configured.embedding_cache_bytes), reader, configured
    )
    generations = Generations(cluster, configured)
    if look:
        await cluster.look()
    try:
        yield Running(
            cluster, searcher, generations, reader, encoder, encoder_server,
            shards, shard_servers, catalog, configured,
        )  # fmt: skip
    finally:
        await cluster.close()
        await reader.close()
        for server in (encoder_server, *shard_servers):
            await server.stop(grace=0)
