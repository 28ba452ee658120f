"""``alocc benchmark``: protocols over classes, methods and seeds."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from alocc.cli import console
from alocc.cli.options import ClassListCommand, Data, Json, class_names

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from alocc.benchmark.protocols import Table
    from alocc.benchmark.running import Result

benchmark = typer.Typer(
    no_args_is_help=True,
    help="Compare methods over classes. What is done is kept: the same command goes on where it stopped.",
)

Out = Annotated[Path, typer.Option(help="Folder for the results.")]
Methods = Annotated[
    list[str] | None,
    typer.Option(
        "--methods",
        metavar="METHOD…",
        help="Presets (robust, article, paper, ognet) and baselines (5-nn, pca, ocsvm, iforest, lof, pyod-ae, "
        "pyod-vae, pyod-dsvdd). Default: robust and the first five baselines.",
    ),
]
Classes = Annotated[
    list[str] | None, typer.Option("--classes", metavar="CLASS…", help="Normal classes, each in turn. Default: all.")
]
Seeds = Annotated[int, typer.Option(min=1, help="How many seeds: 0, 1, ….")]
Processes = Annotated[int, typer.Option(min=1, help="Runs at a time; they share the cores.")]
Settings = Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="One key of our configs.")]


@benchmark.command("one-vs-rest", cls=ClassListCommand)
def one_vs_rest(
    data: Data,
    out: Out,
    methods: Methods = None,
    classes: Classes = None,
    seeds: Seeds = 1,
    normals: Annotated[int | None, typer.Option(min=10, help="Train on so many normal images. Default: all.")] = None,
    contamination: Annotated[
        float, typer.Option(min=0, max=0.5, help="Share of training images that are anomalies in truth.")
    ] = 0.0,
    watch: Annotated[bool, typer.Option(help="Keep the AUROC of D through training.")] = False,
    processes: Processes = 1,
    set_: Settings = None,
    json: Json = False,
) -> None:
    """Each class in turn is normal, all others are anomalous: AUROC on the test images, at the last step.

    Built-in data has its own test split; of a folder with a sub-folder for each class, a fifth of the images tests.
    """
    from alocc.benchmark.protocols import auroc_table

    _run(
        "one-vs-rest", data, out, class_names(methods), class_names(classes), seeds, processes, set_ or [], json,
        lambda results: auroc_table(results, f"AUROC, one class of {data} against the rest"),
        normals=normals, contamination=contamination, watch=watch,
    )  # fmt: skip


@benchmark.command("outliers", cls=ClassListCommand)
def outliers(
    data: Data,
    out: Out,
    methods: Methods = None,
    classes: Classes = None,
    seeds: Seeds = 1,
    processes: Processes = 1,
    set_: Settings = None,
    json: Json = False,
) -> None:
    """Each class in turn is the inlier, with 10 % to 50 % outliers among the test images: F1, inliers positive.

    60 % of the class train, 20 % are a validation fold and 20 % test. The table has the papers' threshold, the best on
    the validation fold with its labels, and our own ones, from normal images alone.
    """
    from alocc.benchmark.protocols import outliers_table

    _run(
        "outliers", data, out, class_names(methods), class_names(classes), seeds, processes, set_ or [], json,
        lambda results: outliers_table(results, f"F1 of the inliers, {data}"),
    )  # fmt: skip


def _run(
    protocol: str,
    data: str,
    out: Path,
    methods: list[str] | None,
    labels: list[str] | None,
    seeds: int,
    processes: int,
    settings: list[str],
    as_json: bool,
    table_of: Callable[[Sequence[Result]], Table],
    **options: Any,
) -> None:
    from alocc.benchmark.protocols import DEFAULT_METHODS, make_cells, method_configs
    from alocc.benchmark.running import run_cells
    from alocc.config import with_settings

    configs = method_configs(methods or DEFAULT_METHODS, lambda config: with_settings(config, settings))
    cells = make_cells(protocol, data, configs, seeds, labels, **options)
    with console.cell_progress(len(cells)) as progress:
        results = run_cells(cells, out, processes, progress)
    table = table_of(results)
    table.write(out)
    if as_json:
        console.print_json(table.as_json())
    else:
        console.print_table(table.as_rows(), table.title, header=True)
    console.print_note(f"{out / 'table.md'} and table.json written; every run's figures are in {out / 'cells'}")
