"""Published files as they are, where the development data lies beside the checkout."""

from pathlib import Path

import pytest

from gateway.export import export
from gateway.ingest.run import IngestRequest, ingest

DATA = Path(__file__).parents[3] / "shared" / "data"


@pytest.mark.shared_data
@pytest.mark.skipif(not DATA.is_dir(), reason="needs the development data in ../shared/data")
def test_real_item_metadata_is_ingested_whole(tmp_path: Path):
    url = f"sqlite://{tmp_path}/catalog.sqlite"
    result = ingest(IngestRequest([DATA / "reviews" / "meta.jsonl.gz"]), url)
    assert (result.items_total, result.records_skipped) == (12_370, 0)
    assert export(url, tmp_path)["items"] == 12_370
