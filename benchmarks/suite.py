"""AUROC of methods on nineteen small image sets, grey and colour, drawn and photographed, with 50 to 6,000 normal images.

    python benchmarks/suite.py --out FOLDER [--methods robust 5-nn pca] [--sets digits washers] [--seeds 3] [--processes 2]

What is done is kept: the same command goes on where it stopped. Photographs need scikit-image.
"""

import argparse
import sys
from pathlib import Path

from image_sets import SUITE, load_task

from alocc.benchmark.protocols import auroc_table, make_cells, method_configs
from alocc.benchmark.running import run_cells
from alocc.cli.console import cell_progress, print_error, print_note, print_table
from alocc.errors import AloccError


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder for the results")
    parser.add_argument("--methods", nargs="+", help="presets and baselines; default: robust and five baselines")
    parser.add_argument("--sets", nargs="+", help="default: all")
    parser.add_argument("--seeds", type=int, default=1, help="how many: 0, 1, …")
    parser.add_argument("--watch", action="store_true", help="keep the AUROC of D through training")
    parser.add_argument("--processes", type=int, default=1, help="runs at a time; they share the cores")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="one key of our configs")
    arguments = parser.parse_args()
    configs = method_configs(arguments.methods, arguments.set)
    cells = make_cells("suite", "suite", configs, arguments.seeds, arguments.sets, list(SUITE), watch=arguments.watch)
    with cell_progress(len(cells)) as progress:
        results = run_cells(cells, arguments.out, arguments.processes, progress, load_task)
    table = auroc_table(results, "AUROC on the suite")
    table.write(arguments.out)
    print_table(table.as_rows(), table.title, header=True)
    print_note(f"{arguments.out / 'table.md'} and table.json written")


if __name__ == "__main__":
    try:
        main()
    except AloccError as error:
        print_error(str(error))
        sys.exit(2)
