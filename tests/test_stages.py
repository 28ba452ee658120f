"""What a long computation says that it is doing, and what a terminal, or a file, shows of it."""

import time

from alocc import progress
from alocc.progress import stage_progress
from alocc.stages import counted, in_stage, listening, stage


def test_nobody_need_listen():
    stage("reading", 1, 2)
    assert list(in_stage("fitting", [3, 4])) == [3, 4]


def test_who_listens_is_told_of_each_step_and_only_within():
    told = []
    with listening(lambda *step: told.append(step)):
        stage("reading")
        for _ in in_stage("fitting", ["a", "b"]):
            stage("within")
        advance = counted("scoring", 10)
        advance(4)
        advance(6)
    stage("afterwards")
    assert told == [
        ("reading", 0, None), ("fitting", 0, 2), ("within", 0, None), ("fitting", 1, 2), ("within", 0, None),
        ("fitting", 2, 2), ("scoring", 0, 10), ("scoring", 4, 10), ("scoring", 10, 10),
    ]  # fmt: skip


def test_without_a_terminal_lines_come_also_while_nothing_is_told(monkeypatch, capsys):
    monkeypatch.setattr(progress, "PLAIN_LINE_EVERY", 0.05)
    with stage_progress():
        stage("reading", 0, 40)
        time.sleep(0.18)
        stage("reading", 20, 40)
        time.sleep(0.12)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) >= 4
    assert lines[0].startswith("reading 0/40")
    assert lines[-1].startswith("reading 20/40") and lines[-1].endswith("a few seconds left")
    before = len(lines)
    time.sleep(0.12)
    assert len(capsys.readouterr().err.splitlines()) == 0 and before == len(lines)
