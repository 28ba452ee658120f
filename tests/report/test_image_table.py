import pytest

from alocc.data.sources import Skipped
from alocc.report.page_data import common_folder
from alocc.report.results import printable, printable_reasons


@pytest.mark.parametrize(
    ("names", "folder"),
    [
        (["a/b/1.png", "a/b/2.png", "a/b/c/3.png"], "a/b/"),
        (["a/bad/1.png", "a/bald/1.png"], "a/"),
        ([r"C:\a\1.png", r"C:\a\2.png"], "C:\\a\\"),
        (["1", "2"], ""),
        (["a/1.png"], ""),
        ([], ""),
    ],
)
def test_common_folder_ends_with_a_separator(names, folder):
    assert common_folder(names) == folder


def test_names_that_are_no_text_can_be_written():
    assert printable("a\udcff.png") == "a\\udcff.png"
    lines = printable_reasons([Skipped("a.png", "a.png is empty"), Skipped("b.png", "too\udc80 long")])
    assert lines == ["a.png is empty", "b.png: too\\udc80 long"]
