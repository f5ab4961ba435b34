"""Dtypes of a site against methods: what is not supported is refused in words, nothing is wrong.

CI runs the whole map (``python -m benchmarks.support_map``); this is a part of it.
"""

import pathlib
import re

import pytest

from benchmarks import support_map


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("framework", "dtype"),
    [("contract", "bool"), ("contract", "bfloat16"), ("contract", "complex64"), ("named", "uint8")],
)
def test_every_method_is_right_or_refused_in_words(framework, dtype):
    rows = support_map.measure((framework,), (dtype,))
    assert len(rows) == len(support_map.METHODS)
    assert [row for row in rows if row["verdict"] not in ("supported", "refused")] == []


def test_a_wrong_number_and_a_still_one_are_found(monkeypatch):
    setting = support_map.make_setting("contract", "float32")
    right = support_map.METHODS["patch"]
    wrong = right._replace(oracle=lambda s: right.oracle(s) + 0.01)
    still = right._replace(ours=right.still, oracle=right.still)
    for method, said in ((wrong, "off by"), (still, "nothing moved")):
        monkeypatch.setitem(support_map.METHODS, "patch", method)
        verdict, text = support_map.judge("patch", setting)
        assert (verdict, said in text) == ("silent", True)


def test_the_page_says_that_nothing_is_silently_wrong():
    path = pathlib.Path(__file__).parents[2] / ".docs" / "pages" / "dtypes.md"
    text = path.read_text()
    assert " 0 errors, 0 silently wrong" in text
    assert not re.search("ERROR|WRONG", text)
    for method in support_map.METHODS:
        assert f"| {method} |" in text
