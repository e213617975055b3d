"""Bad catalogue files: told with file and line, and either a stop or a skip."""

import gzip
from pathlib import Path

import orjson
import pytest

from tests.system.processes import Ran, vitrine

GOOD = [
    b'{"item_id": "a", "title": "Linen dress"}',
    b'{"item_id": "b", "title": "Wool coat"}',
    b'{"item_id": "c", "title": "Straw hat"}',
]
BAD = {
    "a duplicate item_id": (b'{"item_id": "a", "title": "Again"}', "item_id 'a' came"),
    "an item without title": (b'{"item_id": "d"}', "no title"),
    "a blank title": (b'{"item_id": "d", "title": "  "}', "no title"),
    "an item without id": (b'{"title": "Nobody"}', "no item id"),
    "a line that is not JSON": (b'{"item_id": "d", "title"', "not JSON"),
    "a line that is no object": (b'["d", "Dress"]', "a JSON array, not an object"),
    "invalid UTF-8": (b'{"item_id": "d", "title": "\xff\xfe"}', "invalid UTF-8 at byte "),
    "an id too long": (b'{"item_id": "' + b"d" * 257 + b'", "title": "x"}', "allowed 1..256 bytes"),
    "a number that is none": (
        b'{"item_id": "d", "title": "x", "attributes": {"price": null, "size": {}}}',
        "attributes.size is not",
    ),
}


def write(path: Path, *lines: bytes) -> Path:
    path.write_bytes(b"\n".join(lines) + b"\n")
    return path


def build(home: Path, bundle: Path, items: Path, *options: object) -> Ran:
    arguments = ["--home", home, "--bundle", bundle, "--items", items, "--shards", 1, "--json"]
    return vitrine("build", *arguments, "--format", "vitrine", *options)


@pytest.mark.parametrize("name", BAD)
def test_a_bad_record_stops_the_build_with_its_line(minilm_bundle, tmp_path, name):
    bad, words = BAD[name]
    items = write(tmp_path / "items.jsonl", *GOOD, bad, b'{"item_id": "z", "title": "Last"}')
    home = tmp_path / "home"
    ran = build(home, minilm_bundle, items)
    assert ran.status == 1
    assert ran.out == ""
    assert f"error: {items}:4: " in ran.err
    assert words in ran.err
    assert "--on-error skip" in ran.err
    assert not list(home.glob("generations/*")), "nothing was built"


def test_bad_records_can_be_skipped_and_are_counted(minilm_bundle, tmp_path):
    lines = [*GOOD, *(bad for bad, _ in BAD.values())]
    items = write(tmp_path / "items.jsonl", *lines)
    ran = build(tmp_path / "home", minilm_bundle, items, "--on-error", "skip")
    assert ran.status == 0, ran.err
    ingested = ran.document["stages"]["ingest"]
    assert ingested["items_read"] == len(lines)
    assert ingested["items_written"] == len(GOOD)
    assert ingested["records_skipped"] == len(BAD)
    assert sum(ingested["skipped"].values()) == len(BAD)
    for number in range(4, 4 + len(BAD)):
        assert f"{items}:{number}: " in ran.err, "each is told with its line"
    assert ran.document["stages"]["index"]["items"] == len(GOOD)


def test_a_file_of_which_nothing_can_be_used_is_no_catalogue(minilm_bundle, tmp_path):
    items = write(tmp_path / "items.jsonl", b"{", b"[]")
    ran = build(tmp_path / "home", minilm_bundle, items, "--on-error", "skip")
    assert ran.status == 1
    assert "no record could be used; the catalogue is as it was" in ran.err


UNREADABLE = {
    "empty.jsonl": (b"", "the file is empty"),
    "cut.jsonl.gz": (gzip.compress(b"\n".join(GOOD) * 200)[:-20], "the gzip data ends early"),
    "noise.parquet": (b"PAR1 and then nothing of the kind", "cannot be read as parquet"),
    "items.xlsx": (b"PK\x03\x04 a spreadsheet", "name it .jsonl, .csv"),
}


@pytest.mark.parametrize("name", UNREADABLE)
def test_an_unreadable_file_is_named_with_a_remedy(minilm_bundle, tmp_path, name):
    content, words = UNREADABLE[name]
    items = tmp_path / name
    items.write_bytes(content)
    ran = vitrine(
        *("build", "--home", tmp_path / "home", "--bundle", minilm_bundle, "--items", items)
    )
    assert ran.status == 1
    assert str(items) in ran.err
    assert words in ran.err


def test_a_csv_with_invalid_utf8_is_told_with_its_line(minilm_bundle, tmp_path):
    items = tmp_path / "items.csv"
    items.write_bytes(b"item_id,title\na,Linen dress\nb,Caf\xe9 blouse\n")
    options = ["--home", tmp_path / "home", "--bundle", minilm_bundle, "--items", items]
    stopped = vitrine("build", *options)
    assert stopped.status == 1
    assert f"{items}:3: invalid UTF-8" in stopped.err
    skipped = vitrine("build", *options, "--shards", 1, "--on-error", "skip", "--json")
    assert skipped.status == 0, skipped.err
    assert orjson.loads(skipped.out)["stages"]["ingest"]["records_skipped"] == 1
