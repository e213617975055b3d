"""Files of products, good and bad, into a real catalogue."""

import json
import os
import subprocess
import sys
import time
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from gateway.catalog.store import open_bulk_catalog
from protos.vitrine.v1.search_pb2 import Result, SearchResponse
from rpc.errors import VitrineError
from rpc.terminal import CommandError
from tests.gateway.ingesting import Write, command, nested, run, schema, stored

DRESS = {"item_id": "d1", "title": "Linen dress", "attributes": {"color": "green", "price": 59.9}}
COAT = {"item_id": "c1", "title": "Wool coat", "attributes": {"color": "navy"}}


class TestVitrineFormat:
    def test_every_kind_of_field_arrives(self, url: str, write: Write):
        record = {
            "item_id": "d1",
            "title": "  Linen dress ",
            "texts": {"description": "Breathes."},
            "attributes": {
                "brand": "Acme",
                "sizes": ["S", "M"],
                "price": 59,
                "in_stock": False,
                "listed": {"time": "2024-05-01T12:00:00+02:00"},
                "unknown": None,
            },
            "metadata": {"image": "https://example.com/d1.jpg", "stock": {"EU": 3}},
        }
        run(url, write(record))
        item = stored(url)["d1"]
        assert item.title == "Linen dress"
        assert dict(item.texts) == {"description": "Breathes."}
        assert item.attributes["brand"].keyword == "Acme"
        assert list(item.attributes["sizes"].keywords.values) == ["S", "M"]
        assert item.attributes["price"].number == 59.0
        assert item.attributes["in_stock"].WhichOneof("kind") == "flag"
        assert item.attributes["listed"].time.ToDatetime(UTC) == datetime(
            2024, 5, 1, 10, tzinfo=UTC
        )
        assert "unknown" not in item.attributes
        assert item.metadata["stock"]["EU"] == 3
        assert schema(url)["listed"] == "time"

    def test_a_second_run_changes_nothing(self, url: str, write: Write):
        file = write(DRESS, COAT)
        first = run(url, file)
        second = run(url, file)
        assert (first.items_written, first.items_unchanged, first.seq) == (2, 0, 2)
        assert (second.items_written, second.items_unchanged, second.seq) == (0, 2, 2)

    def test_items_of_earlier_runs_stay_unless_replaced(self, url: str, write: Write):
        run(url, write(DRESS, COAT))
        assert run(url, write({**DRESS, "title": "Silk dress"})).items_total == 2
        result = run(url, write(DRESS), replace=True)
        assert (result.items_total, result.items_deleted) == (1, 1)
        assert list(stored(url)) == ["d1"]

    def test_a_replacement_may_change_an_attributes_kind(self, url: str, write: Write):
        run(url, write(DRESS))
        other = write({"item_id": "d1", "title": "Dress", "attributes": {"price": "cheap"}})
        with pytest.raises(CommandError, match="price is a keyword here and a number in the cat"):
            run(url, other)
        run(url, other, replace=True)
        assert schema(url) == {"price": "keyword"}

    def test_a_replacement_that_fails_leaves_all_as_it_was(self, url: str, write: Write):
        run(url, write(DRESS, COAT))
        before = stored(url), schema(url)
        with pytest.raises(CommandError):
            run(url, write({"item_id": "new", "title": "New"}, "not json"), replace=True)
        assert (stored(url), schema(url)) == before

    @pytest.mark.parametrize(
        ("field", "fragment"),
        [
            ({"colour": "red"}, "unknown field colour; allowed attributes, item_id"),
            ({"attributes": {"2nd": "x"}}, "attributes is '2nd'; allowed names"),
            ({"attributes": {"x": {"a": 1}}}, "attributes.x is not a string, a number"),
            ({"attributes": {"x": []}}, "attributes.x is not"),
            ({"attributes": {"x": {"time": "yesterday"}}}, "attributes.x is not"),
            ({"attributes": {"x": "y" * 1025}}, "attributes.x is '1025 bytes'"),
            ({"attributes": {f"x{n}": 1 for n in range(257)}}, "257 of them"),
            ({"texts": {"description": 5}}, "texts.description is no string"),
            ({"texts": {"description": "é" * 50_001}}, "100002 bytes"),
            ({"title": "t" * 10_001}, "title is '10001 bytes'"),
            ({"metadata": {"blob": "x" * 262_145}}, "metadata is"),
            ({"metadata": ["a"]}, "metadata is no JSON object"),
            ({"metadata": {"m": nested(31)}}, "metadata is nested too deeply; allowed at most 30"),
            ({"metadata": {"m": nested(31, lists=True)}}, "nested too deeply"),
            ({"metadata": {"m": nested(900)}}, "nested too deeply"),
        ],
    )
    def test_a_field_beyond_the_contract_is_refused(
        self, url: str, write: Write, field: dict[str, Any], fragment: str
    ):
        file = write(COAT, {**DRESS, **field})
        with pytest.raises(CommandError) as refused:
            run(url, file)
        assert str(refused.value).startswith(f"{file}:2: ")
        assert fragment in str(refused.value)

    @pytest.mark.parametrize("lists", [False, True])
    def test_metadata_as_deep_as_allowed_can_be_sent(self, url: str, write: Write, lists: bool):
        run(url, write({**DRESS, "metadata": {"m": nested(30, lists=lists)}}))
        response = SearchResponse(results=[Result(item=stored(url)["d1"])])
        assert SearchResponse.FromString(response.SerializeToString()) == response


BAD_LINES = [
    ("not_json", '{"item_id": "x", "title": ', "not JSON"),
    ("not_json", '["x"]', "a JSON array, not an object"),
    ("not_json", '{"item_id": "x", "title": "\\ud800"}', "not JSON"),
    ("invalid_utf8", b'{"item_id": "x", "title": "caf\xe9"}', "invalid UTF-8 at byte 31"),
    ("no_item_id", {"title": "Dress"}, "no item id"),
    ("no_item_id", {"item_id": "", "title": "Dress"}, "no item id"),
    ("no_item_id", {"item_id": 2**64 + 1, "title": "Dress"}, "no item id"),
    ("invalid_item_id", {"item_id": "x" * 257, "title": "Dress"}, "1..256 bytes of UTF-8"),
    ("invalid_item_id", {"item_id": "x\ty", "title": "Dress"}, "without control characters"),
    ("no_title", {"item_id": "x"}, "no title"),
    ("no_title", {"item_id": "x", "title": "  "}, "no title"),
    (
        "attribute_kind",
        {"item_id": "x", "title": "X", "attributes": {"price": "cheap"}},
        "attribute price is a keyword here and a number in the catalogue",
    ),
    ("duplicate_item_id", DRESS, "item_id 'd1' came on line 1"),
    ("duplicate_item_id", {"item_id": "d1", "title": "Other"}, "item_id 'd1' came on line 1"),
]


class TestBadRecords:
    @pytest.mark.parametrize(("reason", "line", "fragment"), BAD_LINES)
    def test_stops_at_the_first_with_its_place_and_a_remedy(
        self, url: str, write: Write, reason: str, line: object, fragment: str
    ):
        file = write(DRESS, line, COAT)
        with pytest.raises(CommandError) as refused:
            run(url, file)
        assert str(refused.value).startswith(f"{file}:2: ")
        assert fragment in str(refused.value)
        assert str(refused.value).endswith("or leave such records out with --on-error skip")
        assert "\n" not in str(refused.value)

    @pytest.mark.parametrize(("reason", "line", "fragment"), BAD_LINES)
    def test_skips_and_counts_by_reason(
        self,
        url: str,
        write: Write,
        capsys: pytest.CaptureFixture[str],
        reason: str,
        line: object,
        fragment: str,
    ):
        file = write(DRESS, line, COAT, line)
        result = run(url, file, on_error="skip")
        assert sorted(stored(url)) == ["c1", "d1"]
        assert result.skipped == {reason: 2}
        assert (result.items_read, result.records_skipped, result.items_written) == (4, 2, 2)
        told = capsys.readouterr().err
        assert f"skipped 2 records: {reason}" in told
        assert f"{file}:2: " in told
        assert fragment in told

    def test_at_most_five_examples_of_a_reason_are_shown(
        self, url: str, write: Write, capsys: pytest.CaptureFixture[str]
    ):
        result = run(url, write(DRESS, *["{"] * 8), on_error="skip")
        assert result.skipped == {"not_json": 8}
        assert capsys.readouterr().err.count("items.jsonl:") == 5 + 1  # and the format's line

    def test_an_id_in_two_files_is_a_duplicate(self, url: str, write: Write):
        first, second = write(DRESS), write(COAT, DRESS, name="more.jsonl")
        with pytest.raises(CommandError, match=r"more.jsonl:2: item_id 'd1' came before"):
            run(url, first, second)

    @pytest.mark.parametrize(
        ("reason", "rejected"),
        [
            ("invalid_field", {"item_id": "x", "metadata": {"blob": "x" * 262_145}}),
            ("duplicate_item_id", {"item_id": "d1"}),
        ],
    )
    def test_a_rejected_record_settles_no_kind(
        self, url: str, write: Write, reason: str, rejected: dict[str, Any]
    ):
        rejected = {**rejected, "title": "X", "attributes": {"size": 41}}
        coat = {"item_id": "c1", "title": "Coat", "attributes": {"size": "M"}}
        result = run(url, write(DRESS, rejected, coat), on_error="skip")
        assert result.skipped == {reason: 1}
        assert schema(url)["size"] == "keyword"

    @pytest.mark.parametrize("later", [{"size": "M"}, {}])
    def test_a_duplicate_of_an_earlier_file_settles_no_kind(
        self, url: str, write: Write, later: dict[str, str]
    ):
        again = {"item_id": "d1", "title": "X", "attributes": {"size": 41}}
        coat = {"item_id": "c1", "title": "Coat", "attributes": later}
        files = write(DRESS), write(again, coat, name="more.jsonl")
        result = run(url, *files, format="vitrine", on_error="skip")
        assert result.skipped == {"duplicate_item_id": 1}
        assert schema(url).get("size") == ("keyword" if later else None)

    def test_rejected_records_do_not_cut_what_is_written_at_once(
        self, url: str, write: Write, monkeypatch: pytest.MonkeyPatch
    ):
        with closing(open_bulk_catalog(url)) as catalog:
            kind_of_catalog = type(catalog)
        written, upsert_many = [], kind_of_catalog.upsert_many

        def noted(self, batch, new_attributes):
            written.append(len(batch))
            return upsert_many(self, batch, new_attributes)

        monkeypatch.setattr(kind_of_catalog, "upsert_many", noted)
        wrong = {"item_id": "x", "title": "X", "attributes": {"price": "cheap"}}
        others = [{"item_id": f"i{n}", "title": "Sock"} for n in range(20)]
        lines = [line for item in others for line in (item, "not JSON", item, wrong)]
        result = run(url, write(DRESS, *lines), format="vitrine", on_error="skip")
        assert result.skipped == {"not_json": 20, "duplicate_item_id": 20, "attribute_kind": 20}
        assert written == [2, 19], "once for the first record that broke a kind, and the rest"

    def test_a_duplicate_far_away_is_found(self, url: str, write: Write):
        many = [{"item_id": f"i{n}", "title": "Sock"} for n in range(5_000)]
        result = run(url, write(*many, many[0], many[4_999]), format="vitrine", on_error="skip")
        assert result.skipped == {"duplicate_item_id": 2}
        assert result.items_total == 5_000

    def test_of_two_faults_the_first_is_told(self, url: str, write: Write):
        with pytest.raises(CommandError, match=r":2: item_id 'd1' came on line 1"):
            run(url, write(DRESS, DRESS, "not json"))

    def test_a_record_too_long_is_refused_without_reading_it_whole(self, url: str, write: Write):
        long = '{"item_id": "x", "title": "' + "x" * (9 << 20) + '"}'
        result = run(url, write(DRESS, long, COAT), on_error="skip")
        assert result.skipped == {"too_long": 1}
        assert result.items_total == 2

    def test_a_file_without_one_good_record_is_an_error(self, url: str, write: Write):
        with pytest.raises(CommandError, match="no record could be used"):
            run(url, write("{", "["), format="vitrine", on_error="skip")

    @pytest.mark.parametrize("name", ["items.jsonl", "items.jsonl.gz", "items.csv"])
    def test_an_empty_file_is_an_error_even_when_skipping(self, url: str, write: Write, name: str):
        with pytest.raises(CommandError, match=r"empty|holds no record"):
            run(url, write(name=name), on_error="skip")

    def test_blank_lines_and_a_byte_order_mark_are_no_records(self, url: str, write: Write):
        result = run(url, write(b"\xef\xbb\xbf" + json.dumps(DRESS).encode(), "", COAT, "  "))
        assert result.items_read == 2

    @pytest.mark.parametrize("on_error", ["stop", "skip"])
    def test_a_truncated_gzip_file_is_an_error(self, url: str, write: Write, on_error: str):
        records = [{"item_id": os.urandom(8).hex(), "title": "Sock"} for _ in range(3_000)]
        file = write(*records, name="items.jsonl.gz")
        file.write_bytes(file.read_bytes()[:-2_000])
        with pytest.raises(CommandError, match=r"items.jsonl.gz: the gzip data ends early"):
            run(url, file, on_error=on_error)

    def test_a_flipped_bit_in_a_gzip_file_is_an_error(self, url: str, write: Write):
        file = write(
            *({"item_id": f"i{n}", "title": "Sock"} for n in range(3_000)), name="i.jsonl.gz"
        )
        content = bytearray(file.read_bytes())
        content[len(content) // 2] ^= 0x10
        file.write_bytes(content)
        with pytest.raises(CommandError):
            run(url, file)

    def test_a_file_of_unknown_kind_is_refused(self, url: str, write: Write):
        with pytest.raises(CommandError, match=r"items.xlsx: cannot tell .* name it .jsonl"):
            run(url, write(DRESS, name="items.xlsx"))

    def test_a_catalogue_of_unknown_kind_is_refused(self, write: Write):
        with pytest.raises(VitrineError, match="sqlite:///ABSOLUTE/PATH"):
            run("mysql://db/shop", write(DRESS))


class TestCommand:
    """The stage as `vitrine build` runs it: a process, its last line and its exit status."""

    def test_prints_one_json_object_on_stdout(self, url: str, write: Write):
        ended = command(write(DRESS, COAT, "{"), "--catalog", url, "--on-error", "skip")
        assert ended.returncode == 0, ended.stderr
        assert json.loads(ended.stdout) == {
            "items_read": 3,
            "items_written": 2,
            "items_unchanged": 0,
            "items_deleted": 0,
            "items_total": 2,
            "records_skipped": 1,
            "skipped": {"not_json": 1},
            "seq": 2,
        }
        assert "format vitrine" in ended.stderr

    def test_errors_are_one_line_with_exit_status_1(self, url: str, write: Write):
        file = write(DRESS, "{")
        ended = command(file, "--catalog", url)
        assert ended.returncode == 1
        assert ended.stdout == ""
        last = ended.stderr.strip().splitlines()[-1]
        assert last.startswith(f"error: {file}:2: not JSON")
        assert "Traceback" not in ended.stderr

    def test_a_missing_file_is_named(self, url: str, tmp_path: Path):
        ended = command(tmp_path / "none.jsonl", "--catalog", url)
        assert ended.returncode == 1
        assert "none.jsonl" in ended.stderr.splitlines()[-1]

    def test_a_printed_mapping_can_be_changed_and_used(
        self, url: str, write: Write, tmp_path: Path
    ):
        file = write({"code": "7", "label": "Hat", "cost": 5, "note": "x"}, name="shop.jsonl")
        maps = ["--map", "item_id=code", "--map", "title=label", "--map", "price=cost"]
        printed = command(file, "--print-mapping", *maps)
        assert printed.returncode == 0, printed.stderr
        mapping = tmp_path / "mapping.toml"
        mapping.write_text(
            printed.stdout.replace('"metadata"', '"drop"').replace('"note"', '"memo"', 1)
        )
        ended = command(file, "--catalog", url, "--mapping", mapping)
        assert ended.returncode == 0, ended.stderr
        attributes = stored(url)["7"].attributes
        assert attributes["price"].number == 5
        assert attributes["memo"].keyword == "x"

    @pytest.mark.parametrize(
        ("options", "fragment"),
        [
            (["--map", "price"], "--map price is not FIELD=COLUMN"),
            (
                ["--map", "price:money=cost"],
                "attributes.NAME[:keyword|keyword_list|number|bool",
            ),
            (["--map", "item_id=code", "--format", "amazon"], "--format amazon has fixed fields"),
            (["--mapping", "MAPPING"], "attributes.price.kind"),
        ],
    )
    def test_wrong_options_are_explained(
        self, url: str, write: Write, tmp_path: Path, options: list[str], fragment: str
    ):
        wrong = 'item_id="a"\ntitle="b"\n[attributes]\nprice={column="c", kind="money"}'
        (tmp_path / "mapping.toml").write_text(wrong)
        options = [str(tmp_path / "mapping.toml") if o == "MAPPING" else o for o in options]
        ended = command(write(DRESS), "--catalog", url, *options)
        assert ended.returncode == 1
        assert fragment in ended.stderr.splitlines()[-1]

    def test_killed_midway_it_goes_on_when_run_again(self, url: str, write: Write):
        file = write(*({"item_id": f"i{n:05}", "title": "Sock"} for n in range(40_000)))
        arguments = [sys.executable, "-m", "gateway.ingest", str(file), "--format", "vitrine"]
        with subprocess.Popen([*arguments, "--catalog", url], stderr=subprocess.DEVNULL) as started:
            with closing(open_bulk_catalog(url)) as catalog:
                while not catalog.size().items and started.poll() is None:
                    time.sleep(0.005)
            started.kill()
        survived = len(stored(url))
        assert survived > 0
        result = run(url, file, format="vitrine")
        assert result.items_total == 40_000
        assert result.items_unchanged == survived
