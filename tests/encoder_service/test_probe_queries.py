import pytest

from encoder_service.probe_queries import read_queries
from rpc.terminal import CommandError


def test_distinct_queries_are_read_in_their_order(tmp_path, capsys):
    file = tmp_path / "queries.txt"
    file.write_text("red boots\n\n  Straße 赤い \r\nred boots\nlamp", encoding="utf-8")
    assert read_queries(file, 10) == ["red boots", "Straße 赤い", "lamp"]
    assert "has 3 queries; with fewer than 100" in capsys.readouterr().err


def test_of_many_the_same_some_are_taken_from_all_over(tmp_path, capsys):
    file = tmp_path / "queries.txt"
    lines = [f"query {number}" for number in range(2000)]
    file.write_text("\n".join(lines))
    some = read_queries(file, 300)
    assert some == read_queries(file, 300)
    assert len(set(some)) == 300
    assert some == sorted(some, key=lines.index)
    assert sum(lines.index(each) < 1000 for each in some) == pytest.approx(150, abs=40)
    assert not capsys.readouterr().err


@pytest.mark.parametrize(
    ("content", "said"),
    [(None, "cannot be read"), (b"\xff\xfe", "cannot be read"), (b" \n\t\n", "has no queries")],
)
def test_what_is_no_file_of_queries_is_refused(tmp_path, content, said):
    file = tmp_path / "queries.txt"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(CommandError, match=said):
        read_queries(file, 10)
