"""The benchmark of speed, as a smoke run: it writes its page and its figures."""

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "speed.py"


@pytest.mark.slow
def test_a_smoke_run_writes_its_section_and_leaves_the_others(tmp_path):
    page = tmp_path / "speed.md"
    page.write_text("# Speed\n\n## Scoring\n\nas it was\n")
    words = ["--quick", "--no-chainer", "--only", "training", "--out", page, "--images", tmp_path]
    done = subprocess.run([sys.executable, SCRIPT, *words], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    text = page.read_text()
    assert "as it was" in text and "## Training" in text
    assert "line-by-line PyTorch port" in text and "R's forward pass shared by both updates" in text
    assert (tmp_path / "speed-training.svg").exists()


def test_unknown_sections_are_refused(tmp_path):
    done = subprocess.run([sys.executable, SCRIPT, "--only", "nonsense"], capture_output=True, text=True)
    assert done.returncode == 2 and 'no section "nonsense"' in done.stderr
