"""Files in other layouts into a real catalogue: as Amazon publishes them, and flat."""

import csv
import json
from collections.abc import Iterable
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import ClassVar

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from protos.vitrine.v1.types_pb2 import Item
from rpc.terminal import CommandError
from tests.gateway.ingesting import Write, nested, run, schema, stored


class TestAmazonFormat:
    PUBLISHED: ClassVar[dict[str, object]] = {
        "main_category": "AMAZON FASHION",
        "title": "Women's Wrap Dress",
        "average_rating": 4.2,
        "rating_number": 17,
        "features": ["Soft", "Machine wash"],
        "description": ["Light.", "For summer."],
        "price": 24.99,
        "images": [
            {
                "thumb": "https://i/t.jpg",
                "large": "https://i/l.jpg",
                "variant": "MAIN",
                "hi_res": None,
            }
        ],
        "videos": [{"title": "Look", "url": "https://v/1", "user_id": ""}],
        "store": "Nordhagen",
        "categories": [],
        "details": {"Color": "Sage", "Fabric Type": "Linen", "Item Weight": "3 oz"},
        "parent_asin": "B01",
        "bought_together": None,
    }

    def ingested(self, url: str, write: Write, **changes: object) -> Item:
        run(url, write({**self.PUBLISHED, **changes}))
        return stored(url)["B01"]

    def test_a_published_record_becomes_an_item(self, url: str, write: Write):
        item = self.ingested(url, write)
        assert item.title == "Women's Wrap Dress"
        assert dict(item.texts) == {
            "features": "Soft Machine wash",
            "description": "Light. For summer.",
        }
        keywords = {name: value.keyword for name, value in item.attributes.items() if value.keyword}
        assert keywords == {
            "brand": "Nordhagen",
            "category": "AMAZON FASHION",
            "color": "Sage",
            "material": "Linen",
        }
        assert item.attributes["price"].number == 24.99
        assert item.attributes["rating"].number == 4.2
        assert item.attributes["num_ratings"].number == 17
        assert "categories" not in item.attributes
        assert dict(item.metadata["images"][0]) == {
            "large": "https://i/l.jpg",
            "thumb": "https://i/t.jpg",
        }
        assert list(item.metadata["videos"]) == ["https://v/1"]
        assert item.metadata["details"]["Item Weight"] == "3 oz"

    @pytest.mark.parametrize(
        ("price", "number"),
        [
            ("None", None),
            ("—", None),
            ("", None),
            (None, None),
            ("$5.00 - $9.00", None),
            (-1, None),
            ("$12.99", 12.99),
            ("from 9.99", 9.99),
            ("1,299.00", 1299.0),
            (7, 7.0),
        ],
    )
    def test_a_price_is_a_number_or_left_out(
        self, url: str, write: Write, price: object, number: float | None
    ):
        attributes = self.ingested(url, write, price=price).attributes
        assert (attributes["price"].number if "price" in attributes else None) == number

    def test_details_may_be_json_text(self, url: str, write: Write):
        details = json.dumps({"Color": "Red", "Brand": "Kelda"})
        attributes = self.ingested(url, write, details=details, store=None).attributes
        assert attributes["color"].keyword == "Red"
        assert attributes["brand"].keyword == "Kelda"

    def test_media_may_be_an_object_of_lists(self, url: str, write: Write):
        images = {"hi_res": [None, None], "large": ["l1", "l2"], "thumb": ["t1", None]}
        item = self.ingested(url, write, images=images, videos={"title": [], "url": []})
        assert [dict(image) for image in item.metadata["images"]] == [
            {"large": "l1", "thumb": "t1"},
            {"large": "l2"},
        ]
        assert "videos" not in item.metadata

    @pytest.mark.parametrize(
        "deep",
        [
            {"images": [{"large": nested(40)}]},
            {"videos": [{"url": nested(40, lists=True)}]},
            {"details": {"Care": nested(40)}},
            {"features": nested(900, lists=True)},
        ],
    )
    def test_fields_nested_too_deeply_are_refused(
        self, url: str, write: Write, deep: dict[str, object]
    ):
        file = write({**self.PUBLISHED, **deep})
        with pytest.raises(CommandError, match=r":1: .* nested too deeply"):
            run(url, file)

    def test_media_in_parquet_may_hold_bytes_and_times(self, url: str, tmp_path: Path):
        media = {
            "images": [{"large": b"\xff", "thumb": datetime(2024, 5, 1)}],
            "videos": [{"url": b"\xff"}],
        }
        record = {"parent_asin": "B01", "title": "Hat", "store": "Kelda", **media}
        pq.write_table(pa.Table.from_pylist([record]), tmp_path / "meta.parquet")
        run(url, tmp_path / "meta.parquet")
        metadata = stored(url)["B01"].metadata
        assert metadata["images"][0]["thumb"] == "2024-05-01T00:00:00"
        assert metadata["videos"][0] == str(b"\xff")

    def test_nothing_but_id_and_title_is_needed(self, url: str, write: Write):
        nothing = dict.fromkeys(self.PUBLISHED, None)
        item = self.ingested(url, write, **{**nothing, "title": "Hat", "parent_asin": "B01"})
        assert not item.attributes
        assert not item.texts

    def test_the_same_parent_asin_twice_is_a_duplicate(self, url: str, write: Write):
        result = run(url, write(self.PUBLISHED, self.PUBLISHED), on_error="skip")
        assert result.skipped == {"duplicate_item_id": 1}


class TestFlatFormat:
    def write_csv(self, path: Path, rows: Iterable[Iterable[object]], delimiter: str = ",") -> Path:
        with path.open("w", newline="", encoding="utf-8") as file:
            csv.writer(file, delimiter=delimiter).writerows(rows)
        return path

    def write_parquet(self, path: Path, **columns: pa.Array) -> Path:
        ids, titles = pa.array(["0", "1", "2"]), pa.array(["Sock"] * 3)
        pq.write_table(pa.table({"id": ids, "title": titles, **columns}), path)
        return path

    @pytest.mark.parametrize("delimiter", [",", ";", "\t"])
    def test_columns_of_a_csv_file_find_their_kinds(self, url: str, tmp_path: Path, delimiter: str):
        long = "Soft. " * 30
        rows = [
            ["SKU", "Product Name", "Price", "stock", "listed", "zip", "about", "image", "color"],
            ["1", "Red; a, b", "9.5", "true", "2024-05-01", "00123", long, "http://i/1", "red"],
            ["2", "Blue shoe", "", "false", "2024-05-02T10:00Z", "00456", "Nice", "http://i/2", ""],
        ]  # fmt: skip
        run(url, self.write_csv(tmp_path / "shop.csv", rows, delimiter))
        assert schema(url) == {
            "price": "number",
            "stock": "bool",
            "listed": "time",
            "zip": "keyword",
            "color": "keyword",
        }
        shoe, blue = stored(url)["1"], stored(url)["2"]
        assert shoe.title == "Red; a, b"
        assert shoe.attributes["price"].number == 9.5
        assert "price" not in blue.attributes
        assert blue.attributes["stock"].flag is False
        assert dict(shoe.texts) == {"about": long.strip()}
        assert dict(shoe.metadata) == {"image": "http://i/1"}

    def test_numbers_may_set_thousands_apart(self, url: str, tmp_path: Path):
        rows = [["sku", "title", "price"], ["1", "Watch", "1,199.00"], ["2", "Refund", "-2,000"]]
        run(url, self.write_csv(tmp_path / "shop.csv", rows, ","))
        prices = [stored(url)[item_id].attributes["price"].number for item_id in ("1", "2")]
        assert prices == [1199.0, -2000.0]

    def test_lines_of_csv_are_counted_through_quoted_newlines(self, url: str, tmp_path: Path):
        rows = [["id", "title"], ["1", "two\nlines"], ["2", "fine"], ["3", "x", "one too many"]]
        file = self.write_csv(tmp_path / "shop.csv", rows)
        with pytest.raises(CommandError, match=r"shop.csv:5: 3 values under 2 columns"):
            run(url, file)

    def test_invalid_utf8_in_csv_has_its_line(self, url: str, tmp_path: Path):
        file = tmp_path / "shop.csv"
        file.write_bytes(b"id,title\n1,Dress\n2,caf\xe9\n3,Coat\n")
        with pytest.raises(CommandError, match=r"shop.csv:3: invalid UTF-8"):
            run(url, file)
        assert run(url, file, on_error="skip").skipped == {"invalid_utf8": 1}

    def test_column_names_that_are_no_utf8_are_refused(self, url: str, tmp_path: Path):
        file = tmp_path / "shop.csv"
        file.write_bytes("id,title,Größe-URL\n1,Dress,http://x\n".encode("latin-1"))
        with pytest.raises(CommandError, match=r"invalid UTF-8 in the first line; save the file"):
            run(url, file, on_error="skip")

    def test_an_open_quote_in_csv_is_told_with_its_line(self, url: str, tmp_path: Path):
        file = tmp_path / "shop.csv"
        file.write_text('id,title\n1,Dress\n2,"Coat\n3,Hat\n4,Sock\n')
        with pytest.raises(CommandError, match=r"shop.csv:3: a quote stays open to .* line 5; cl"):
            run(url, file)
        result = run(url, file, on_error="skip")
        assert result.skipped == {"open_quote": 1}
        assert list(stored(url)) == ["1"]

    def test_an_open_quote_in_a_long_csv_file_is_told_with_its_line(self, url: str, tmp_path: Path):
        file = tmp_path / "shop.csv"
        file.write_text('id,title\n1,Dress\n2,"Coat\n' + "3,Hat\n" * 1_500_000)
        with pytest.raises(CommandError, match=r"begins on line 3: field larger .*; close the quo"):
            run(url, file, on_error="skip")

    @pytest.mark.parametrize("end", ["", "\n"])
    def test_quotes_that_close_are_no_open_ones(self, url: str, tmp_path: Path, end: str):
        file = tmp_path / "shop.csv"
        file.write_text(f'id,title\n1,"Dress"s\n2,5" heel\n3,"two\nlines"{end}')
        run(url, file)
        titles = [item.title for item in stored(url).values()]
        assert titles == ["Dresss", '5" heel', "two\nlines"]

    def test_padded_cells_of_csv_are_absent(self, url: str, tmp_path: Path):
        rows = [["id", "title", "price"], ["1", "Hat", "5"], ["2", "Coat", " " * 10]]
        run(url, self.write_csv(tmp_path / "shop.csv", rows))
        assert schema(url) == {"price": "number"}
        assert not stored(url)["2"].attributes

    def test_parquet_keeps_its_types(self, url: str, tmp_path: Path):
        table = pa.table(
            {
                "product_id": [1, 2],
                "name": ["Dress", "Coat"],
                "price": pa.array([9.5, float("nan")]),
                "sizes": [["S", "M"], []],
                "listed": pa.array([datetime(2024, 5, 1), None], pa.timestamp("us")),
                "supplier": [{"name": "Kelda"}, None],
            }
        )
        pq.write_table(table, tmp_path / "shop.parquet")
        run(url, tmp_path / "shop.parquet")
        dress, coat = stored(url)["1"], stored(url)["2"]
        assert schema(url) == {"price": "number", "sizes": "keyword_list", "listed": "time"}
        assert list(dress.attributes["sizes"].keywords.values) == ["S", "M"]
        assert dress.attributes["listed"].time.ToJsonString() == "2024-05-01T00:00:00Z"
        assert dress.metadata["supplier"]["name"] == "Kelda"
        assert not coat.attributes

    def test_decimals_in_parquet_are_numbers(self, url: str, tmp_path: Path):
        self.write_parquet(tmp_path / "shop.parquet", price=pa.array([Decimal("9.50")] * 3))
        run(url, tmp_path / "shop.parquet")
        assert schema(url) == {"price": "number"}
        assert stored(url)["1"].attributes["price"].number == 9.5

    def test_whole_decimals_in_parquet_may_be_ids(self, url: str, tmp_path: Path):
        ids, titles = pa.array([Decimal(7), Decimal(10**20)]), pa.array(["Lamp", "Hat"])
        pq.write_table(pa.table({"item_id": ids, "title": titles}), tmp_path / "shop.parquet")
        run(url, tmp_path / "shop.parquet")
        assert sorted(stored(url)) == [f"{10**20}", "7"]

    @pytest.mark.parametrize(
        ("reason", "fragment", "values"),
        [
            ("invalid_utf8", "invalid UTF-8 in column x", pa.array([b"a", b"caf\xe9", b"b"])),
            (
                "invalid_field",
                "column x cannot be read",
                pa.array([1, 2**62, 3], pa.timestamp("us")),
            ),
            ("invalid_field", "column x cannot be read", pa.array([1, 10**8, 3], pa.date32())),
            (
                "invalid_field",
                "column x cannot be read",
                pa.array(
                    [None, [({"key": 1}, "value")], []],
                    pa.map_(pa.struct([("key", pa.int64())]), pa.string()),
                ),
            ),
        ],
    )
    def test_rows_of_parquet_with_unreadable_values_are_rejected(
        self, url: str, tmp_path: Path, reason: str, fragment: str, values: pa.Array
    ):
        if values.type == pa.binary():
            values = pa.Array.from_buffers(pa.string(), len(values), values.buffers())
        file = self.write_parquet(tmp_path / "shop.parquet", x=values)
        with pytest.raises(CommandError, match=f"shop.parquet:2: {fragment}"):
            run(url, file)
        assert run(url, file, on_error="skip").skipped == {reason: 1}
        assert sorted(stored(url)) == ["0", "2"]

    def test_nanoseconds_in_parquet_are_cut_off(self, url: str, tmp_path: Path):
        nanoseconds = pa.timestamp("ns", "UTC")
        moments = pa.array([1_999, 1_000, None], nanoseconds)
        file = self.write_parquet(
            tmp_path / "shop.parquet",
            listed=moments,
            worn=pa.array([1_999] * 3, pa.duration("ns")),
            opens=pa.array([1_999] * 3, pa.time64("ns")),
            seen=pa.array([[{"at": 1_999}]] * 3, pa.list_(pa.struct([("at", nanoseconds)]))),
            made=pa.array([[1_999]] * 3, pa.large_list(nanoseconds)),
            sold=pa.array([[("EU", 1_999)]] * 3, pa.map_(pa.string(), nanoseconds)),
        )
        run(url, file)
        item = stored(url)["0"]
        assert item.attributes["listed"].time.ToDatetime(UTC) == datetime(
            1970, 1, 1, microsecond=1, tzinfo=UTC
        )
        assert item.metadata["worn"] == "0:00:00.000001"
        assert item.metadata["opens"] == "00:00:00.000001"
        assert item.metadata["seen"][0]["at"] == "1970-01-01T00:00:00.000001+00:00"
        assert item.metadata["made"][0] == "1970-01-01T00:00:00.000001+00:00"
        assert item.metadata["sold"]["EU"] == "1970-01-01T00:00:00.000001+00:00"

    def test_a_damaged_parquet_file_is_an_error(self, url: str, tmp_path: Path):
        (tmp_path / "shop.parquet").write_bytes(b"PAR1 and nothing more")
        with pytest.raises(CommandError, match=r"shop.parquet: cannot be read as parquet"):
            run(url, tmp_path / "shop.parquet")

    def test_a_value_of_another_kind_than_its_column_is_refused(self, url: str, write: Write):
        rows = [{"id": n, "title": "Sock", "price": n} for n in range(1_000)]
        file = write(*rows, {"id": "last", "title": "Sock", "price": "cheap"})
        with pytest.raises(CommandError, match=r":1001: attribute price is 'cheap'; its kind is n"):
            run(url, file)

    def test_an_id_column_must_be_found_or_named(self, url: str, write: Write):
        file = write({"code": "7", "name": "Hat", "colour": "red"})
        with pytest.raises(CommandError, match=r"it has code, name, colour: name one with --map"):
            run(url, file)

    def test_two_columns_of_one_name_do_not_lose_data(self, url: str, write: Write):
        run(url, write({"id": "1", "title": "Hat", "Main Color": "red", "main-color": "blue"}))
        item = stored(url)["1"]
        assert item.attributes["main_color"].keyword == "red"
        assert item.metadata["main-color"] == "blue"
