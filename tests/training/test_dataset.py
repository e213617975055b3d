import gzip
import json
from collections import Counter

import pytest

from rpc.terminal import CommandError
from training import dataset, reviews
from training.beir import load_collection
from training.dataset import DatasetOptions, make_dataset, query_entry
from training.duplicates import near_equal
from training.filters import Filters, language_identifier
from training.leakage import leak_of, mask
from training.pairs import Choice, Pair, choose_pairs
from training.reviews import Item, Review, Skipped, read_items, read_reviews
from training.topics import topic_of

COLORS = ("red", "blue", "green", "black", "white", "pink", "grey", "brown", "orange", "violet")
THINGS = ("boots", "scarf", "lamp", "kettle", "tent", "wallet", "drill", "pillow", "mirror", "vase")


def write(path, records):
    lines = [record if isinstance(record, str) else json.dumps(record) for record in records]
    data = "".join(f"{line}\n" for line in lines).encode()
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path


def products():
    """Return a hundred products with titles that share few words, and two reviews of each."""
    items, reviews = [], []
    for number, (color, thing) in enumerate((c, t) for c in COLORS for t in THINGS):
        asin = f"B{number:03d}"
        items.append({"parent_asin": asin, "title": f"{color} {thing}", "store": f"Maker{number}"})
        for text in (
            f"I bought this {thing} for my sister and number {number} is what she wanted",
            f"After {number} days the {color} one number {number} still works, a pleasant surprise",
        ):
            reviews.append({"parent_asin": asin, "rating": 5, "title": "", "text": text})
    return items, reviews


@pytest.fixture
def published(tmp_path):
    items, reviews = products()
    return write(tmp_path / "meta.jsonl.gz", items), write(tmp_path / "reviews.jsonl", reviews)


def made(published, out, **options):
    items, reviews = published
    return make_dataset(DatasetOptions(reviews=[reviews], items=[items], out=out, **options))


def test_records_that_cannot_be_used_are_counted_by_reason_and_skipped(tmp_path):
    path = write(
        tmp_path / "reviews.jsonl.gz",
        [
            "not json",
            "[1]",
            {"parent_asin": "B1", "text": "no stars"},
            {"parent_asin": "B1", "rating": None, "text": "no stars"},
            {"parent_asin": "B1", "rating": 9, "text": "too many stars"},
            {"parent_asin": "B1", "rating": 5, "title": None, "text": None},
            {"parent_asin": "B1", "rating": 5, "text": "<br /><br />"},
            {"rating": 5, "text": "about nothing"},
            {"parent_asin": "B 1", "rating": 5, "text": "an id with a space"},
            "",
            {"asin": "B1", "rating": 4.0, "title": "Nice &amp; warm", "text": "a<br/>b"},
        ],
    )
    skipped = Skipped()
    assert list(read_reviews([path], skipped)) == [Review("B1", 4.0, "Nice & warm. a b")]
    assert skipped.reviews == {
        "not_json": 2,
        "no_rating": 2,
        "invalid_rating": 1,
        "no_text": 2,
        "no_item_id": 1,
        "invalid_item_id": 1,
    }


def test_of_two_items_with_one_id_the_first_is_kept(tmp_path):
    path = write(
        tmp_path / "meta.jsonl",
        [
            {"parent_asin": "B1", "title": "First", "details": {"Brand": "Acme"}},
            {"parent_asin": "B1", "title": "Second"},
            {"parent_asin": "B2", "title": None},
        ],
    )
    skipped = Skipped()
    assert read_items([path], skipped) == {"B1": Item("B1", "First", "Acme", "", "")}
    assert skipped.items == {"duplicate_item_id": 1, "no_title": 1}


def test_items_of_the_sample_catalogue_are_read(tmp_path):
    record = {
        "item_id": "VS1",
        "title": "Linen Dress",
        "texts": {"description": "Breathes well."},
        "attributes": {"brand": "Nordhagen", "category": "Dresses"},
    }
    read = read_items([write(tmp_path / "items.jsonl", [record])], Skipped())
    assert read["VS1"] == Item("VS1", "Linen Dress", "Nordhagen", "Dresses", "Breathes well.")


def test_a_file_that_ends_early_is_refused(tmp_path):
    path = write(tmp_path / "reviews.jsonl.gz", [{"asin": "B1", "rating": 5, "text": "x" * 500}])
    path.write_bytes(path.read_bytes()[:-12])
    with pytest.raises(CommandError, match="not a whole gzip file"):
        list(read_reviews([path], Skipped()))
    path.write_bytes(path.read_bytes()[:10] + b"\xff" + path.read_bytes()[11:])
    with pytest.raises(CommandError, match=r"not a whole gzip file: .* invalid block type"):
        list(read_reviews([path], Skipped()))
    with pytest.raises(CommandError, match="no such file"):
        list(read_reviews([tmp_path / "none.jsonl"], Skipped()))


@pytest.mark.parametrize("name", ["reviews.jsonl", "reviews.jsonl.gz"])
def test_a_line_that_is_too_long_is_one_that_is(tmp_path, name, monkeypatch):
    monkeypatch.setattr(reviews, "LINE_BYTES_MAX", 100)
    short = {"asin": "B1", "rating": 5, "text": "x" * 40}
    records = [short | {"text": "x" * 350}, short, short | {"text": "x" * 99}]
    skipped = Skipped()
    assert len(list(read_reviews([write(tmp_path / name, records)], skipped))) == 1
    assert skipped.reviews == {"too_long": 2}


def test_a_text_in_lists_in_lists_is_read(tmp_path):
    text = "[" * 900 + '"Soft and warm"' + "]" * 900
    line = f'{{"asin": "B1", "rating": 5, "text": {text}}}'
    [review] = read_reviews([write(tmp_path / "reviews.jsonl", [line])], Skipped())
    assert review.text == "Soft and warm"


@pytest.mark.parametrize(
    ("text", "language"),
    [
        ("The zipper broke after a week, very disappointed", "en"),
        ("THESE SANDALS ARE VERY COMFORTABLE AND LOOK GREAT", "en"),
        ("Muy bueno, me encanta este vestido para el verano", "es"),
        ("Die Schuhe passen perfekt und sind sehr bequem", "de"),
        ("とても可愛いワンピースです", "ja"),
    ],
)
def test_languages_are_told_apart(text, language):
    assert language_identifier()(text) == language


def chosen(reviews, items=("B1", "B2"), num_pairs=100, seed=7):
    skipped = Counter()
    known = {item_id: Item(item_id, f"title {item_id}", "", "", "") for item_id in items}
    choice = Choice(Filters(), lambda text: "fr" if "bonjour" in text else "en", num_pairs, seed)
    return choose_pairs(reviews, known, choice, skipped), skipped


def test_only_liked_long_english_reviews_of_known_items_are_chosen():
    pairs, skipped = chosen(
        [
            Review("B1", 4.0, "one two three four five"),
            Review("B1", 3.0, "one two three four five six"),
            Review("B1", 5.0, "one two three four"),
            Review("B1", 5.0, "bonjour two three four five"),
            Review("B9", 5.0, "about an item that nobody knows"),
        ]
    )
    assert [(pair.query, pair.item_id) for pair in pairs] == [("one two three four five", "B1")]
    expected = {"low_rating": 1, "too_short": 1, "other_language": 1, "unknown_item": 1}
    assert +skipped == expected


def test_a_review_that_stands_under_two_items_answers_for_both_titles():
    pairs, skipped = chosen(
        [
            Review("B1", 5.0, "these socks are warm and I will buy them again soon"),
            Review("B2", 5.0, "These SOCKS are warm, and I will buy them again soon!"),
            Review("B2", 5.0, "these socks are warm and I will buy them again soon enough"),
        ]
    )
    assert [set(pair.title_keys) for pair in pairs] == [{"title b1", "title b2"}]
    assert (skipped["duplicate_text"], skipped["near_duplicate_text"]) == (1, 1)


def test_what_is_drawn_does_not_depend_on_the_order_of_the_file():
    reviews = [Review("B1", 5.0, f"word{number} is what this is about") for number in range(300)]
    forwards, skipped = chosen(reviews, num_pairs=20)
    backwards, _ = chosen(reversed(reviews), num_pairs=20)
    other_seed, _ = chosen(reviews, num_pairs=20, seed=8)
    assert len(forwards) == 20
    assert forwards == backwards != other_seed
    assert skipped["not_drawn"] == 280


def test_near_equal_texts_are_in_one_group():
    wallet = "black leather wallet for men with coin pocket and space for twelve cards"
    texts = [wallet, f"{wallet} NEW", "stainless steel kettle", wallet.title()]
    assert near_equal(texts, words=1, overlap=0.75, what="comparing").numbers() == [0, 0, 2, 0]


def test_no_title_is_in_two_splits(published, tmp_path):
    report = made(published, tmp_path / "out")
    titles = {}
    for split in ("train", "dev", "test"):
        collection = load_collection(tmp_path / "out", split)
        titles[split] = {item for judged in collection.qrels.values() for item in judged}
        assert len(titles[split]) == report["splits"][split]["titles"] > 0
    assert sum(map(len, titles.values())) == len(set.union(*titles.values())) == 100


def test_items_of_one_title_are_all_relevant(tmp_path):
    items, reviews = products()
    copies = [{**item, "parent_asin": f"{item['parent_asin']}-copy"} for item in items]
    paths = (
        write(tmp_path / "meta.jsonl", [*items, *copies]),
        write(tmp_path / "reviews.jsonl", reviews),
    )
    made(paths, tmp_path / "out")
    qrels = load_collection(tmp_path / "out", "test").qrels
    assert all(len(judged) == 2 for judged in qrels.values())


def test_the_same_files_give_the_same_bytes(published, tmp_path):
    for name in ("one", "two"):
        made(published, tmp_path / name)
    for path in (tmp_path / "one").rglob("*.*"):
        assert (
            path.read_bytes()
            == (tmp_path / "two" / path.relative_to(tmp_path / "one")).read_bytes()
        )


def test_pairs_to_train_on_are_those_of_the_train_split(published, tmp_path):
    report = made(published, tmp_path / "out")
    with gzip.open(tmp_path / "out" / "pairs.jsonl.gz") as file:
        ids = {json.loads(line)["_id"] for line in file}
    assert ids == set(load_collection(tmp_path / "out", "train").query_ids)
    assert len(ids) == report["splits"]["train"]["pairs"]


def test_an_empty_split_is_refused(tmp_path):
    items, reviews = products()
    paths = (
        write(tmp_path / "meta.jsonl", items[:1]),
        write(tmp_path / "reviews.jsonl", reviews[:2]),
    )
    with pytest.raises(CommandError, match=r"the split .* is empty: 2 pairs of 1 products"):
        made(paths, tmp_path / "out")


def test_no_usable_review_is_refused_with_the_reasons(tmp_path):
    items, reviews = products()
    sad = [{**review, "rating": 1} for review in reviews]
    paths = (write(tmp_path / "meta.jsonl", items), write(tmp_path / "reviews.jsonl", sad))
    with pytest.raises(CommandError, match=r"low_rating.*200"):
        made(paths, tmp_path / "out")


def test_running_out_of_memory_is_a_sentence(published, tmp_path, monkeypatch):
    def too_much(*arguments):
        raise MemoryError

    monkeypatch.setattr(dataset, "read_items", too_much)
    with pytest.raises(CommandError, match=r"out of memory: lower --pairs \(now 9\)"):
        made(published, tmp_path / "out", num_pairs=9)


def test_an_unknown_item_field_is_refused(published, tmp_path):
    with pytest.raises(CommandError, match="item field is 'colour'; allowed title, brand"):
        made(published, tmp_path / "out", item_fields=("title", "colour"))


def test_other_forms_of_a_title_s_words_are_masked_too():
    assert mask("Love these dresses, watches!", "Wrap Dress Watch", "") == "Love these , !"
    assert leak_of("Needs two batteries", "Battery", "").whole_title
    assert leak_of("I like this", "This", "").title_share == 0.0


def test_a_review_says_how_much_of_its_title_it_has():
    item = Item("B1", "Acme Rain Boots", "Acme", "Shoes", "")
    for review, segment in [
        ("Dry feet, all winter long.", "0 %"),
        ("These boots are warm.", "25-49 %"),
        ("The best rain boots of all.", "50-100 %"),
    ]:
        pair = Pair(review, "B1", ("acme rain boots",), 1)
        found = topic_of(query_entry("r0", pair, {"B1": item}), "here").segments
        assert found["title words in the review"] == segment


def test_a_masked_review_gives_nothing_of_the_product_away():
    review = "These Acme Boots are my third pair of boots; Acme's rain boot keeps me dry."
    leak = leak_of(review, "Acme Rain Boots", "Acme")
    assert (leak.title_share, leak.whole_title, leak.brand) == (1.0, True, True)
    masked = leak_of(mask(review, "Acme Rain Boots", "Acme"), "Acme Rain Boots", "Acme")
    assert (masked.title_share, masked.whole_title, masked.brand) == (0.0, False, False)
