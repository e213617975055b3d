import pytest

from training.duplicates import TITLE_OVERLAP, key_of, near_equal

NUM_PAIRS = 200


def test_titles_of_symbols_alone_are_not_one():
    assert len({key_of(title) for title in ("***", "!!!", "\N{BLACK STAR}")}) == 3
    assert near_equal(["***", "!!!", " *** "], 1, TITLE_OVERLAP, "comparing").numbers() == [0, 1, 0]


def test_a_letter_is_one_however_it_is_written():
    assert key_of("Cafe\N{COMBINING ACUTE ACCENT} \N{FULLWIDTH LATIN CAPITAL LETTER A}") == (
        key_of("CAF\N{LATIN SMALL LETTER E WITH ACUTE} a")
    )


@pytest.mark.parametrize(
    ("shared", "own", "missed_max"),
    [(8, 1, 0.08), (17, 1.5, 0.02), (18, 1, 0.0)],
    ids=["0.80", "0.85", "0.90"],
)
def test_titles_just_above_the_least_overlap_are_nearly_all_found(shared, own, missed_max):
    texts = []
    for pair in range(NUM_PAIRS):
        same = [f"p{pair}w{word}" for word in range(shared)]
        left, right = int(own), int(2 * own) - int(own)
        texts.append(" ".join([*same, *(f"p{pair}l{word}" for word in range(left))]))
        texts.append(" ".join([*same, *(f"p{pair}r{word}" for word in range(right))]))
    groups = near_equal(texts, words=1, overlap=TITLE_OVERLAP, what="comparing").numbers()
    found = sum(groups[place] == groups[place + 1] for place in range(0, len(texts), 2))
    assert NUM_PAIRS - found <= missed_max * NUM_PAIRS
    assert len(set(groups)) == len(texts) - found  # and no others
