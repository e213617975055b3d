"""The pointer to the promoted generation: whole or not at all, with its history."""

import pytest

from rpc.active import ACTIVE_FILE, Active, read_active, write_active
from rpc.errors import DataLoss


def test_nothing_is_promoted_where_there_is_no_file(tmp_path):
    assert read_active(str(tmp_path)) == Active(0, 0, ())


@pytest.mark.parametrize("url", ["{}", "{}/", "file://{}"])
def test_what_is_written_is_read_back(tmp_path, url):
    active = Active().promoted(3, "promote", "first").promoted(4, "promote", "")
    write_active(url.format(tmp_path), active)
    assert read_active(url.format(tmp_path)) == active
    assert [path.name for path in tmp_path.iterdir()] == [ACTIVE_FILE]


def test_an_object_store_keeps_it_too():
    url = "memory://generations"
    write_active(url, Active().promoted(2, "promote", ""))
    assert read_active(url).generation == 2


def test_a_rollback_is_a_promotion_of_the_one_before_and_is_kept():
    active = Active().promoted(1, "promote", "").promoted(2, "promote", "faster")
    back = active.promoted(active.previous, "rollback", "worse")
    assert (back.generation, back.previous) == (1, 2)
    assert [(e.generation, e.action, e.reason) for e in back.history] == [
        (1, "promote", ""),
        (2, "promote", "faster"),
        (1, "rollback", "worse"),
    ]


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"generation": 1}', b'{"generation": 1,'])
def test_a_damaged_file_is_data_loss_not_nothing(tmp_path, content):
    (tmp_path / ACTIVE_FILE).write_bytes(content)
    with pytest.raises(DataLoss, match=r"active.json: not a valid pointer"):
        read_active(str(tmp_path))
