"""Made-up titles out of a catalogue's own."""

import gzip

import orjson
import pytest

from benchmarks.spliced_titles import splice, spliced, titles_by_category
from rpc.terminal import CommandError

HOSES = ["Elm Soft Garden Hose", "Oak Long Rubber Pipe", "Ash Thin Water Line"]
SHELVES = ["Birch Wall Shelf Red", "Larch Small Board Tan", "Pine Wide Rack Blue"]


def test_titles_are_new_and_of_one_category():
    made = list(spliced([HOSES, SHELVES], 8, seed=3))
    assert len({*made, *HOSES, *SHELVES}) == len(made) + len(HOSES) + len(SHELVES)
    words = [{word for title in titles for word in title.split()} for titles in (HOSES, SHELVES)]
    assert all(any(set(title.split()) <= known for known in words) for title in made)
    assert made == list(spliced([HOSES, SHELVES], 8, seed=3))
    assert made != list(spliced([HOSES, SHELVES], 8, seed=4))


def test_too_few_titles_are_said():
    with pytest.raises(CommandError, match="only 0 titles"):
        list(spliced([["Garden Hose"]], 1, seed=0))


def test_titles_are_read_by_category_and_once(tmp_path):
    items = [
        {"title": "Oak Wall Shelf", "main_category": "Home"},
        {"title": "Oak Wall Shelf", "main_category": "Home"},
        {"title": "Shelf", "main_category": "Home"},
        {"title": None, "main_category": "Home"},
        {"title": "Garden Hose", "main_category": "Garden"},
    ]
    path = tmp_path / "items.jsonl.gz"
    path.write_bytes(gzip.compress(b"\n".join(map(orjson.dumps, items))))
    assert titles_by_category([path]) == [["Oak Wall Shelf"], ["Garden Hose"]]


def test_halves_meet_in_the_middle():
    assert splice("a b c d", "e f g h") == "a b g h"
    assert splice("a b c", "d e") == "a b e"
