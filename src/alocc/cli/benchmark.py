"""``alocc benchmark``: protocols over classes, methods and seeds."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from alocc.cli import console
from alocc.cli.options import Address, ClassListCommand, ConfigKeys, Data, Json, class_names
from alocc.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from alocc.benchmark.cells import Cell
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
        help="Presets (robust, features, article, paper, ognet) and baselines (5-nn, pca, ocsvm, iforest, "
        "lof, pyod-ae, pyod-vae, pyod-dsvdd). Default: robust and the first five baselines.",
    ),
]
Classes = Annotated[
    list[str] | None, typer.Option("--classes", metavar="CLASS…", help="Normal classes, each in turn. Default: all.")
]
Seeds = Annotated[int, typer.Option(min=1, help="How many seeds: 0, 1, ….")]
Processes = Annotated[
    int | None,
    typer.Option(
        min=1, help="Runs at a time; they share the cores. Default: 1, with --engine ray one for each free core."
    ),
]
Engine = Annotated[Literal["ray"] | None, typer.Option(help="What starts the processes, if not this one: ray.")]


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
    processes: Processes = None,
    engine: Engine = None,
    address: Address = None,
    set_: ConfigKeys = None,
    json: Json = False,
) -> None:
    """Each class in turn is normal, all others are anomalous: AUROC on the test images, at the last step.

    Built-in data has its own test split; of a folder with a sub-folder for each class, a fifth of the images tests.
    """
    from alocc.benchmark.protocols import auroc_table, make_cells, method_configs

    configs = method_configs(class_names(methods), set_ or [])
    options: dict[str, Any] = {"normals": normals, "contamination": contamination, "watch": watch}
    cells = make_cells("one-vs-rest", data, configs, seeds, class_names(classes), **options)
    title = f"AUROC, one class of {data} against the rest"
    _run(cells, out, _spread(processes, engine, address), json, lambda results: auroc_table(results, title))


@benchmark.command("outliers", cls=ClassListCommand)
def outliers(
    data: Data,
    out: Out,
    methods: Methods = None,
    classes: Classes = None,
    seeds: Seeds = 1,
    processes: Processes = None,
    engine: Engine = None,
    address: Address = None,
    set_: ConfigKeys = None,
    json: Json = False,
) -> None:
    """Each class in turn is the inlier, with 10 % to 50 % outliers among the test images: F1, inliers positive.

    60 % of the class train, 20 % are a validation fold and 20 % test. The table has the papers' threshold, the best on
    the validation fold with its labels, and our own ones, from normal images alone.
    """
    from alocc.benchmark.protocols import make_cells, method_configs, outliers_table

    configs = method_configs(class_names(methods), set_ or [])
    cells = make_cells("outliers", data, configs, seeds, class_names(classes))
    _run(
        cells,
        out,
        _spread(processes, engine, address),
        json,
        lambda results: outliers_table(results, f"F1 of the inliers, {data}"),
    )


@benchmark.command("real", cls=ClassListCommand)
def real(
    data: Annotated[list[Path], typer.Argument(metavar="FOLDER…", help="Each with train/good and test/.")],
    out: Annotated[Path, typer.Option(help="Folder for the results.")] = Path("runs/real"),
    methods: Annotated[
        list[str] | None,
        typer.Option(
            "--methods",
            metavar="METHOD…",
            help="Presets, baselines of pixels (5-nn, pyod-ae, …), and of places (patchcore-like, padim-like). "
            "Default: robust, features, both of places, 5-nn, and PyOD's if installed.",
        ),
    ] = None,
    seeds: Seeds = 1,
    processes: Processes = None,
    engine: Engine = None,
    address: Address = None,
    set_: ConfigKeys = None,
    json: Json = False,
) -> None:
    """Photographs in the layout of industrial sets: image and pixel AUROC, PRO, recall and false alarms, seconds.

    train/good trains; test/good and test/<defect> test, with masks in ground_truth/<defect> if there are any.
    """
    from alocc.benchmark.folders import PLACE_BASELINES, SHOWN, default_methods, folder_cells, folder_rows
    from alocc.benchmark.protocols import method_configs
    from alocc.benchmark.running import run_cells
    from alocc.storage import write_text

    configs = method_configs(class_names(methods) or default_methods(), set_ or [], PLACE_BASELINES)
    cells = folder_cells(data, configs, seeds)
    with console.cell_progress(len(cells)) as progress:
        results = run_cells(cells, out, progress=progress, **_spread(processes, engine, address))
    rows = folder_rows(results)
    lines = [f"| {' | '.join(row)} |" for row in rows]
    lines.insert(1, "|---" * len(rows[0]) + "|")
    write_text(out / "table.md", "\n".join([*lines, ""]))
    if json:
        console.print_json([dict(zip(rows[0], row, strict=True)) for row in rows[1:]])
    else:
        console.print_table(folder_rows(results, SHOWN), "photographs", header=True)
    console.print_note(f"{out / 'table.md'} written; every run's figures are in {out / 'cells'}")


def _spread(processes: int | None, engine: str | None, address: str | None) -> dict[str, Any]:
    """How many runs there are at a time, and who starts them."""
    from alocc.benchmark.running import Ray
    from alocc.cli.cores import count_free_cores
    from alocc.scale.cluster import check_ray

    if engine is None:
        if address:
            raise ConfigError("--address is for --engine ray; give that too")
        return {"processes": processes or 1}
    check_ray()
    return {"ray": Ray(address, processes or (None if address else count_free_cores()))}


def _run(
    cells: Sequence[Cell],
    out: Path,
    spread: dict[str, Any],
    as_json: bool,
    table_of: Callable[[Sequence[Result]], Table],
) -> None:
    from alocc.benchmark.running import run_cells

    with console.cell_progress(len(cells)) as progress:
        table = table_of(run_cells(cells, out, progress=progress, **spread))
    table.write(out)
    if as_json:
        console.print_json(table.as_json())
    else:
        console.print_table(table.as_rows(), table.title, header=True)
    console.print_note(f"{out / 'table.md'} and table.json written; every run's figures are in {out / 'cells'}")
