"""How fast alocc is, in one go on one machine: writes docs/results/speed.md and its figures.

    make bench                                                # everything; keep the machine quiet meanwhile
    .venv/bin/python benchmarks/speed.py --only scoring,files    # these sections again; the others stay as they are
    .venv/bin/python benchmarks/speed.py --quick --out page.md   # two minutes, to see that it runs

The first run makes an environment for Chainer in benchmarks/.chainer-venv. Peers that are not installed are left out
with the reason (``pip install '.[baselines]'`` in the clone), and so is what needs the full MNIST ($ALOCC_DATA) or an
engine that is not there.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

os.environ.setdefault("GOMP_SPINCOUNT", "10000")  # as the command line has it; read when torch is loaded

from measuring import IMAGES, Bench, provenance
from speed_quality import quality
from speed_scaling import scaling
from speed_scoring import files, memory, scoring, startup
from speed_training import peak, training

RESULTS = IMAGES.parent / "results" / "speed.md"
TITLE = """# Speed

Written by `benchmarks/speed.py`; each section says when, where and with what. Medians, programs in turn. Threads that wait
spin for a moment, then sleep, as in the command line.
"""


class Section(NamedTuple):
    """A part of the page."""

    title: str
    write: Callable[[Bench], str]
    seconds: float
    """How long it takes, about."""
    quick_seconds: float


SECTIONS = {
    "training": Section("Training", training, 180, 6),
    "peak": Section("Share of the machine's peak", peak, 60, 8),
    "quality": Section("Time to quality", quality, 900, 30),
    "scoring": Section("Scoring", scoring, 300, 20),
    "files": Section("The whole command on files", files, 300, 15),
    "memory": Section("Memory", memory, 120, 10),
    "scaling": Section("Scaling", scaling, 600, 40),
    "startup": Section("Start-up", startup, 60, 10),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", help=f"some of {', '.join(SECTIONS)}, with commas between; the others stay")
    parser.add_argument("--quick", action="store_true", help="a smoke run: its figures mean nothing")
    parser.add_argument("--rounds", type=int, help="rounds of timing (default 5; 1 with --quick)")
    parser.add_argument("--no-chainer", action="store_true", help="leave Chainer out")
    parser.add_argument("--out", type=Path, default=RESULTS, help="Markdown file to write")
    parser.add_argument("--images", type=Path, default=IMAGES, help="folder for the figures")
    options = parser.parse_args()
    chosen = options.only.split(",") if options.only else list(SECTIONS)
    if unknown := [name for name in chosen if name not in SECTIONS]:
        parser.error(f'there is no section "{unknown[0]}"; the sections are: {", ".join(SECTIONS)}')

    planned = {name: SECTIONS[name].quick_seconds if options.quick else SECTIONS[name].seconds for name in chosen}
    rounds = options.rounds or (1 if options.quick else 5)
    with tempfile.TemporaryDirectory(prefix="alocc-speed-") as folder:
        bench = Bench(options.quick, rounds, Path(folder), options.images, not options.no_chainer, planned)
        for name in chosen:
            bench.begin(name)
            text = SECTIONS[name].write(bench)
            write_section(options.out, name, f"{facts()}\n{text}")
            bench.end()


def facts() -> str:
    """The table that says where figures come from."""
    return provenance([".venv/bin/python", "benchmarks/speed.py", *sys.argv[1:]], {})


def write_section(path: Path, name: str, text: str) -> None:
    """Put a section into the page in place of its older self; the others stay, each with its own date."""
    sections = read_sections(path) | {SECTIONS[name].title: text.strip()}
    path.parent.mkdir(parents=True, exist_ok=True)
    order = [section.title for section in SECTIONS.values()]
    parts = [f"\n## {title}\n\n{sections[title]}\n" for title in order if title in sections]
    path.write_text(TITLE + "".join(parts), encoding="utf-8")


def read_sections(path: Path) -> Mapping[str, str]:
    """The page's sections by their titles."""
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    return {part.partition("\n")[0]: part.partition("\n")[2].strip() for part in text.split("\n## ")[1:]}


if __name__ == "__main__":
    main()
