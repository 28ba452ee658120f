"""Every tutorial runs, in order, through the real command line, and prints what it says it prints."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
TUTORIALS = ROOT / "docs/tutorials"
GROUPS = (
    ("my-folder-of-good-parts.md", "choosing-alpha.md", "reading-the-report.md", "exporting.md"),
    ("faults-by-kind.md",),
    ("a-video.md",),
    ("from-python-with-arrays.md",),
)
"""Tutorials that go on from one another share a folder."""
ENVIRONMENT = {
    **os.environ,
    "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
    "COLUMNS": "200",
    "NO_COLOR": "1",
}
SHORT = 10
EXIT_CODES = {"alocc monitor run parts/later": 3}
"""Commands whose exit code the tutorial announces."""


def shortened(code):
    """The same with a short training on small images."""
    code = re.sub(
        r"^(alocc train .*)$", rf"\1 --iterations {SHORT} --set images.size=[32,32]", code, flags=re.MULTILINE
    )
    code = re.sub(r"alocc\.train\((.*)\)", rf"alocc.train(\1, iterations={SHORT})", code)
    return code.replace("iterations=100", f"iterations={SHORT}")


def steps_of(tutorial):
    """(language, code, shown texts) in order; blocks of Python that follow one another are one script."""
    steps = []
    for language, exact, code in re.findall(r"^```(sh|python|text)( exact)?\n(.*?)^```", tutorial, re.M | re.S):
        if language == "text":
            steps[-1][2].append((code, bool(exact)))
        elif language == "python" and steps and steps[-1][0] == "python":
            steps[-1][1] += code
        else:
            steps.append([language, code, []])
    return steps


def run(command, folder, expected=0):
    done = subprocess.run(command, cwd=folder, env=ENVIRONMENT, capture_output=True, text=True)
    assert done.returncode == expected, f"{command}\n{done.stdout}{done.stderr}"
    return done.stdout + done.stderr


def plain(text, is_exact):
    """Lines without frames and runs of spaces; unless they are meant exactly, with # for each number."""
    lines = (" ".join(re.sub(r"[\u2500-\u257f]", " ", line).split()) for line in text.splitlines())
    return [line if is_exact else re.sub(r"\d[\d.,]*", "#", line) for line in lines if line]


def run_step(language, code, folder):
    """All that it prints."""
    if language == "python":
        return run([sys.executable, "-c", shortened(code)], folder)
    printed = ""
    for line in shortened(code).splitlines():
        expected = next((code for start, code in EXIT_CODES.items() if line.startswith(start)), 0)
        printed += run(shlex.split(line), folder, expected)
    return printed


@pytest.mark.slow
@pytest.mark.parametrize("group", GROUPS, ids=lambda group: group[0].removesuffix(".md"))
def test_tutorials_run_and_print_what_they_show(group, tmp_path):
    shutil.copytree(ROOT / "examples", tmp_path / "examples")
    for name in group:
        for language, code, shown in steps_of((TUTORIALS / name).read_text(encoding="utf-8")):
            printed = run_step(language, code, tmp_path)
            for text, is_exact in shown:
                missing = [line for line in plain(text, is_exact) if line not in plain(printed, is_exact)]
                assert missing == [], f"{name} shows what is not printed:\n{printed}"


def test_every_tutorial_is_run_and_listed():
    index = (TUTORIALS / "README.md").read_text(encoding="utf-8")
    names = {path.name for path in TUTORIALS.glob("*.md")} - {"README.md"}
    assert names == set(re.findall(r"\]\(([\w-]+\.md)\)", index))
    with_code = {name for name in names if steps_of((TUTORIALS / name).read_text(encoding="utf-8"))}
    assert with_code == {name for group in GROUPS for name in group}
