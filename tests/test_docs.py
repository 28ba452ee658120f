"""The documents say what is so: links lead somewhere, commands and options exist, examples and snippets run."""

import re
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from types import ModuleType

import pytest

import alocc

ROOT = Path(__file__).parent.parent
DOCUMENTS = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("src/**/*.md")])
ALOCC = Path(sys.executable).with_name("alocc")


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_relative_links_lead_to_files(document):
    links = re.findall(r"\]\(([^)#]+)", document.read_text(encoding="utf-8"))
    missing = [link for link in links if "://" not in link and not (document.parent / link).exists()]
    assert missing == []


def test_methods_formulas_name_what_exists():
    text = (ROOT / "docs/method.md").read_text(encoding="utf-8")
    formulas = text.partition("## Formula → function\n")[2].partition("\n## ")[0]
    names = re.findall(r"`([A-Za-z_]+(?:\.\w+)+)`", formulas)
    assert len(names) > 15
    for name in names:
        found = alocc
        for depth, word in enumerate(words := name.split("."), 1):
            if isinstance(found, ModuleType) and not hasattr(found, word):
                import_module(".".join(("alocc", *words[:depth])))
            found = getattr(found, word)


def commands_in_documents():
    for document in DOCUMENTS:
        for block in re.findall(r"```sh\n(.*?)```", document.read_text(encoding="utf-8"), re.DOTALL):
            for line in block.splitlines():
                if line.startswith("alocc "):
                    yield line.partition("#")[0].strip()


def test_the_architecture_has_a_line_for_every_module():
    text = (ROOT / "docs/architecture.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (`[^|]+) \|", text.partition("## File by file\n")[2].partition("\n## ")[0], re.MULTILINE)
    named = set()
    for row in rows:  # `data/arrays.py` · `video.py`: a name without its folder is in the folder of the first
        first, *others = re.findall(r"`([^`]+)`", row)
        folder = Path(first).parent
        named |= {first, *((folder / other).as_posix() for other in others)}
    sources = ROOT / "src/alocc"
    modules = {path.relative_to(sources).as_posix() for path in sources.rglob("*.py")}
    described = {name for name in modules if not name.endswith(("__init__.py", "__main__.py"))}
    assert described <= named
    assert {name for name in named if not (sources / name).exists()} == set()


def test_changes_go_into_files_that_exist():
    rows = re.findall(r"^\| \d+ \|.*$", (ROOT / "docs/where-changes-go.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert len(rows) == 15
    named = [name for row in rows for name in re.findall(r"`([\w/]+(?:\.py|/))`", row)]
    assert [name for name in named if not (ROOT / "src/alocc" / name).exists()] == []


def test_commands_in_documents_exist_with_their_options():
    commands = sorted(set(commands_in_documents()))
    assert commands
    for command in commands:
        words = command.split()[1:]
        path = words[:2] if words[0] == "reproduce" else words[:1]
        shown = subprocess.run([ALOCC, *path, "--help"], capture_output=True, text=True, env={"COLUMNS": "300"})
        assert shown.returncode == 0, command
        for option in re.findall(r"--[a-z-]+", command):
            assert option in shown.stdout, f"{command}: no {option}"


def test_what_is_promised_is_shown_by_tests_that_exist():
    rows = [line for line in (ROOT / "docs/reliability.md").read_text(encoding="utf-8").splitlines() if ".py::" in line]
    assert len(rows) >= 25
    for row in rows:
        path = ""
        for file, name in re.findall(r"`([\w/.]*)::(\w+)`", row):  # without a file: of the one before
            path = file or path
            assert f"\ndef {name}(" in (ROOT / "tests" / path).read_text(encoding="utf-8"), f"{path}::{name}"


EXAMPLES = {"from_arrays.py": "60", "scikit_learn.py": "60", "textures.py": "10 --normal brick --page page.md"}


def test_every_example_is_run():
    """Those that draw what the tutorials need are run there."""
    drawn = {"make_boards.py", "make_parts.py", "make_video.py"}
    assert {path.name for path in ROOT.glob("examples/*.py")} == EXAMPLES.keys() | drawn


@pytest.mark.slow
@pytest.mark.parametrize("example", EXAMPLES)
def test_examples_run(example, tmp_path):
    command = [sys.executable, ROOT / "examples" / example, *EXAMPLES[example].split()]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert re.search(r"digit 0|AUROC", done.stdout)
