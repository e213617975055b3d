"""The made-up shop: repeatable, valid, and hard to search by matching words."""

import gzip
import hashlib
import json
import os
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from gateway.ingest.run import IngestRequest, ingest
from training.sample_catalog import read_vocabulary, words_of, write_sample

NUM_ITEMS = 3_000


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("sample")
    write_sample(made, NUM_ITEMS, seed=7)
    return made


@pytest.fixture(scope="module")
def items(folder: Path) -> dict[str, dict[str, Any]]:
    return {item["item_id"]: item for item in read(folder / "items.jsonl.gz")}


@pytest.fixture(scope="module")
def reviews(folder: Path) -> list[dict[str, Any]]:
    return read(folder / "reviews.jsonl.gz")


def read(path: Path) -> list[dict[str, Any]]:
    with gzip.open(path) as file:
        return [json.loads(line) for line in file]


def digests(folder: Path) -> list[str]:
    return [hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.iterdir())]


def test_the_same_seed_gives_the_same_bytes_in_another_process(tmp_path: Path):
    """Another hash seed too: the order of sets must not show."""
    for name, hash_seed in (("one", "1"), ("two", "2")):
        command = [sys.executable, "-m", "training.sample_catalog", "--items", "300", "--seed", "3"]
        subprocess.run(
            [*command, "--out", str(tmp_path / name)],
            env={**os.environ, "PYTHONHASHSEED": hash_seed},
            check=True,
            capture_output=True,
        )
    assert digests(tmp_path / "one") == digests(tmp_path / "two")


def test_another_seed_gives_another_shop(tmp_path: Path):
    write_sample(tmp_path / "one", 50, seed=1)
    write_sample(tmp_path / "two", 50, seed=2)
    assert not set(digests(tmp_path / "one")) & set(digests(tmp_path / "two"))


def test_the_command_says_what_it_wrote_and_makes_12000_items(tmp_path: Path):
    ended = subprocess.run(
        [sys.executable, "-m", "training.sample_catalog", "--out", str(tmp_path)],
        capture_output=True,
        text=True,
        check=True,
    )
    result = json.loads(ended.stdout)
    assert result["items"] == 12_000 == len(read(tmp_path / "items.jsonl.gz"))
    assert result["reviews"] == len(read(tmp_path / "reviews.jsonl.gz"))
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "items.jsonl.gz",
        "reviews.jsonl.gz",
    ]


def test_every_item_is_accepted_by_ingest(folder: Path, tmp_path: Path):
    request = IngestRequest([folder / "items.jsonl.gz"], format="auto")
    result = ingest(request, f"sqlite://{tmp_path}/catalog.sqlite")
    assert result.items_total == NUM_ITEMS
    assert result.records_skipped == 0


def test_items_have_what_shoppers_filter_on(items: dict[str, dict[str, Any]]):
    wanted = {"brand", "category", "color", "material", "price", "rating", "num_ratings", "gender"}
    for item in items.values():
        assert wanted <= item["attributes"].keys()
        assert 1.0 <= item["attributes"]["rating"] <= 5.0
        assert 0 < item["attributes"]["price"] < 1_500
        assert item["attributes"]["brand"] in item["title"]
        assert item["attributes"]["color"] in item["title"]


def test_titles_are_mostly_distinct(items: dict[str, dict[str, Any]]):
    assert len({item["title"] for item in items.values()}) >= 0.99 * NUM_ITEMS


def test_a_part_of_the_items_has_two_to_four_reviews(
    items: dict[str, dict[str, Any]], reviews: list[dict[str, Any]]
):
    counts: dict[str, int] = {}
    for review in reviews:
        counts[review["parent_asin"]] = counts.get(review["parent_asin"], 0) + 1
    assert set(counts.values()) == {2, 3, 4}
    assert 0.5 < len(counts) / NUM_ITEMS < 0.7
    assert counts.keys() <= items.keys()


def test_reviews_have_the_published_fields(reviews: list[dict[str, Any]]):
    fields = {
        "rating": float,
        "title": str,
        "text": str,
        "images": list,
        "asin": str,
        "parent_asin": str,
        "user_id": str,
        "timestamp": int,
        "helpful_vote": int,
        "verified_purchase": bool,
    }
    for review in reviews:
        assert {name: type(value) for name, value in review.items()} == fields
        assert review["rating"] in (1, 2, 3, 4, 5)
        assert 1_500_000_000_000 < review["timestamp"] < 1_800_000_000_000
        assert len(review["text"].split()) >= 5


def test_all_ratings_are_given_and_most_are_good(reviews: list[dict[str, Any]]):
    ratings = [review["rating"] for review in reviews]
    assert set(ratings) == {1.0, 2.0, 3.0, 4.0, 5.0}
    assert sum(rating >= 4 for rating in ratings) > 0.6 * len(ratings)


def test_reviews_hardly_share_a_word_with_their_items_title(
    items: dict[str, dict[str, Any]], reviews: list[dict[str, Any]]
):
    without_meaning = read_vocabulary().without_meaning
    shares = []
    for review in reviews:
        title = words_of(items[review["parent_asin"]]["title"]) - without_meaning
        said = words_of(f"{review['title']} {review['text']}")
        shares.append(len(title & said) / len(title))
    assert statistics.mean(shares) < 0.02
    assert sum(share > 0 for share in shares) < 0.08 * len(shares)


def test_reviews_never_name_the_brand(
    items: dict[str, dict[str, Any]], reviews: list[dict[str, Any]]
):
    for review in reviews:
        brand = items[review["parent_asin"]]["attributes"]["brand"].lower()
        assert brand not in f"{review['title']} {review['text']}".lower()


def test_reviews_tell_items_apart(reviews: list[dict[str, Any]]):
    """A text that many items share could not lead to any of them."""
    texts = [review["text"] for review in reviews]
    assert len(set(texts)) > 0.99 * len(texts)


def test_the_vocabulary_is_complete():
    vocabulary = read_vocabulary()
    for product in vocabulary.products:
        assert set(product["genders"]) <= vocabulary.genders.keys()
        assert set(product["styles"]) <= vocabulary.styles.keys()
        assert set(product["materials"]) <= vocabulary.materials.keys()
        assert set(product["occasions"]) <= vocabulary.occasions.keys()
        for nickname in product["nicknames"]:
            assert not words_of(product["noun"]) & words_of(nickname)
