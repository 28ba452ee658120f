"""What a terminal shows: text as it is, tables, and progress over names of any kind."""

import io

import numpy as np
import pytest
from rich.console import Console

from alocc import progress
from alocc.benchmark.cells import Cell
from alocc.benchmark.running import Result
from alocc.cli import console
from alocc.scores import Scores


@pytest.fixture
def printed(monkeypatch):
    """Everything that is printed, 100 columns wide."""
    text = io.StringIO()
    for module, name in ((console, "out"), (console, "err"), (progress, "err")):
        monkeypatch.setattr(module, name, Console(file=text, width=100, highlight=False, force_terminal=False))
    return text


@pytest.mark.parametrize("name", ["part[old].png", "lot[/a]", "[bold]x", "[red", "a\\[b]"])
def test_brackets_are_no_markup(printed, name):
    console.print_note(name)
    console.print_error(name)
    console.print_table([(name, name)], name)
    console.print_table([(name, "n"), (name, "1")], header=True)
    console.print_warnings([name])
    assert printed.getvalue().count(name) == 8
    with console.cell_progress(1) as show:
        show(Result(Cell("one-vs-rest", "x", name, "pca", 0), {"auroc": 0.5}), False)
    assert printed.getvalue().endswith(f"1/1  {name}, pca, seed 0: AUROC 0.5000\n")


def test_codes_of_a_terminal_are_shown_not_sent(printed):
    console.print_note("a\x1b[2Jb\x07c\u202ed\udcff é部")
    assert printed.getvalue() == "a\\x1b[2Jb\\x07c\\u202ed\\udcff é部\n"


def test_columns_of_figures_stand_to_the_right_and_headings_have_a_row(printed):
    console.print_table(
        [("figure", "value", "95 %"), ("first",), ("AUROC", "0.9", "0.1 – 0.95"), ("F1", "10.25", "")], header=True
    )
    lines = printed.getvalue().splitlines()
    assert [line.strip("│┃ ") for line in lines if "first" in line] == ["first"]
    aligned = [line for line in lines if "AUROC" in line or "F1" in line]
    assert aligned[0].index("0.9 ") + 3 == aligned[1].index("10.25") + 5  # the last digits are below one another


def test_where_much_is_missed_a_larger_alpha_and_another_preset_are_named(capsys):
    def said(p_value, other_preset, alpha=0.01):
        p_value = np.array(p_value)
        scores = Scores(1 - p_value, p_value, p_value <= alpha, {}, None, alpha)
        console.print_what_finds_more(scores, np.array([True, True, True, False, False]), other_preset=other_preset)
        return capsys.readouterr().err

    missed = [0.01, 0.04, 0.5, 0.05, 0.7]
    larger = "note: --alpha 0.05 would call 2 of the 3 anomalous images, and 1 of the 2 normal ones\n"
    assert said(missed, False) == larger
    assert said(missed, True).endswith("--preset features usually finds more; alocc compare shows both\n")
    assert said(missed, True, alpha=0.05) == said(missed, True).removeprefix(larger)
    assert said([0.01, 0.01, 0.01, 0.05, 0.7], True) == ""
