"""A page token says where to go on, and only in its own search and generation."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.page_token import read_page_token, write_page_token
from rpc.errors import FailedPrecondition, InvalidArgument

UINT64 = st.integers(0, 2**64 - 1)


@given(UINT64, UINT64, st.integers(0, 1000))
def test_a_token_reads_back_as_written(generation, fingerprint, offset):
    token = write_page_token(generation, fingerprint, offset)

    assert read_page_token(token, generation, fingerprint) == offset


@given(st.text(min_size=1, max_size=60))
def test_any_other_text_is_an_invalid_argument(text):
    with pytest.raises(InvalidArgument):
        read_page_token(text, generation=1, fingerprint=2**63 + 12345)


def test_a_token_of_another_search_is_an_invalid_argument():
    with pytest.raises(InvalidArgument):
        read_page_token(write_page_token(1, 2, 10), generation=1, fingerprint=3)


def test_a_token_of_another_generation_is_a_failed_precondition():
    with pytest.raises(FailedPrecondition) as caught:
        read_page_token(write_page_token(1, 2, 10), generation=7, fingerprint=2)

    assert (caught.value.expected, caught.value.got) == ("7", "1")


def test_no_token_means_the_first_page():
    assert read_page_token("", generation=1, fingerprint=2) == 0
