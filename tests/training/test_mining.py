import numpy as np
import pytest

from training.examples import read_examples
from training.mining import Window, mine

NUM_QUERIES, NUM_ITEMS = 30, 80


@pytest.fixture(scope="module")
def vectors():
    draw = np.random.default_rng(3)
    rows = draw.normal(size=(NUM_QUERIES + NUM_ITEMS, 8)).astype(np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    return rows[:NUM_QUERIES], rows[NUM_QUERIES:]


ITEM_GROUPS = [str(row // 2) for row in range(NUM_ITEMS)]  # two titles a product
POSITIVES = np.arange(NUM_QUERIES, dtype=np.int64)
QUERY_GROUPS = [ITEM_GROUPS[row] for row in POSITIVES]


def mined(vectors, window, seed=1):
    return mine(*vectors, QUERY_GROUPS, ITEM_GROUPS, POSITIVES, window, seed)


def allowed(vectors, query, window):
    """Rows that may be taken, by sorting everything."""
    queries, items = vectors
    scores = items @ queries[query]
    others = [row for row in np.argsort(-scores) if ITEM_GROUPS[row] != QUERY_GROUPS[query]]
    positive = scores[POSITIVES[query]]
    limit = positive - window.margin * abs(positive)
    ranked = others[window.rank_first - 1 : window.rank_last]
    return {int(row) for row in ranked if scores[row] <= limit}


@pytest.mark.parametrize(
    "window",
    [Window(1, 1, 10, 0.0), Window(3, 5, 20, 0.0), Window(2, 1, 50, 0.3), Window(4, 60, 78, 0.1)],
)
def test_negatives_are_of_the_ranks_and_below_the_margin_and_of_another_product(vectors, window):
    chosen = mined(vectors, window)
    assert chosen.shape == (NUM_QUERIES, window.per_pair)
    for query, rows in enumerate(chosen.tolist()):
        may = allowed(vectors, query, window)
        taken = [row for row in rows if row >= 0]
        assert set(taken) <= may
        assert len(taken) == len(set(taken)) == min(window.per_pair, len(may))
        assert all(ITEM_GROUPS[row] != QUERY_GROUPS[query] for row in taken)


def test_a_margin_that_nothing_leaves_gives_no_negative(vectors):
    items = vectors[1]
    # A query that is its item's opposite: everything scores above it.
    chosen = mine(-items[:1], items, ["0"], ITEM_GROUPS, np.array([0]), Window(2, 1, 5, 0.5), 1)
    assert chosen.tolist() == [[-1, -1]]


def test_another_epoch_takes_others_and_the_same_seed_the_same(vectors):
    window = Window(1, 1, 40, 0.0)
    assert np.array_equal(mined(vectors, window, 1), mined(vectors, window, 1))
    assert not np.array_equal(mined(vectors, window, 1), mined(vectors, window, 2))


def test_a_negative_is_never_of_a_product_that_its_batch_asks_for(tiny_data):
    examples = read_examples(tiny_data, None, None)
    batch = [0, 2, 4]  # products 0, 1, 2
    # The first's negative is what the second asks for; the second has none; the third's is free.
    negatives = np.full((len(examples.queries), 1), -1, dtype=np.int64)
    negatives[0, 0], negatives[4, 0] = 1, 20
    queries, items, others = examples.columns(batch, negatives)
    assert len(queries) == len(items) == len(others) == 3
    assert others[2] == examples.items[20]
    assert not set(others) & set(items)
    assert examples.columns(batch, negatives) == [queries, items, others]


def test_the_one_product_that_a_batch_does_not_ask_for_is_found(tiny_data):
    examples = read_examples(tiny_data, None, None)
    free = examples.groups[0]
    batch = [place for place, group in enumerate(examples.groups) if group != free]
    negatives = np.full((len(examples.queries), 1), -1, dtype=np.int64)
    [_, _, others] = examples.columns(batch, negatives)
    groups = dict(zip(examples.items, examples.item_groups, strict=True))
    assert {groups[item] for item in others} == {free}


def test_a_pair_without_mined_negatives_gets_another_item_in_each_column(tiny_data):
    examples = read_examples(tiny_data, None, None)
    batch = list(range(0, 16, 2))
    negatives = np.full((len(examples.queries), 3), -1, dtype=np.int64)
    columns = examples.columns(batch, negatives)[2:]
    assert len({tuple(column) for column in columns}) == 3
    assert [len({*texts}) for texts in zip(*columns, strict=True)].count(3) > len(batch) / 2
    # One negative a pair is drawn as it was before there could be more.
    assert examples.columns(batch, negatives[:, :1])[2] == columns[0]
