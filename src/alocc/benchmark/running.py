"""Many cells, over processes, each written as soon as it is done: what is there is not run again."""

from __future__ import annotations

import json
import multiprocessing
import os
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from alocc.benchmark.cells import Cell, Task, UnavailableError, run_cell
from alocc.errors import ArtefactError
from alocc.storage import json_text, write_text


@dataclass(frozen=True)
class Result:
    """A cell and its figures; no figures if its images are not on this machine."""

    cell: Cell
    figures: dict[str, Any]
    missing: str = ""
    """Why there are no figures."""


@dataclass(frozen=True)
class Ray:
    """A cluster of Ray's that runs cells."""

    address: str | None = None
    """Where it is, with the same files; none: processes of this machine."""
    workers: int | None = None
    """Cells at a time; none: as many as it has CPUs."""


def run_cells(
    cells: Iterable[Cell],
    folder: Path,
    processes: int = 1,
    progress: Callable[[Result, bool], None] | None = None,
    load: Callable[[Cell], Task] | None = None,
    ray: Ray | None = None,
) -> list[Result]:
    """Run the cells that ``folder`` does not hold yet, as ``cells/<name>.json``; the results are in the cells' order.

    Args:
        cells: what to run.
        folder: where each result is written.
        processes: how many run at a time; the machine's cores are shared out among them.
        progress: told of each finished cell, and whether it was there already.
        load: reads or makes the images of a cell, in any process; none: those of a source.
        ray: where processes run, if Ray starts them.

    Raises:
        ArtefactError: if the folder holds other cells under the same names.
    """
    cells = list(cells)
    results: dict[str, Result] = {}

    def keep(result: Result, was_there: bool = False) -> None:
        if not result.missing and not was_there:
            content = {"cell": result.cell, "figures": result.figures}
            write_text(_path(result.cell, folder), json_text(content, indent=1))
        results[result.cell.name] = result
        if progress:
            progress(result, was_there)

    for known in filter(None, (_read(cell, folder) for cell in cells)):
        keep(known, was_there=True)
    todo = [cell for cell in cells if cell.name not in results]
    if ray:
        from alocc.scale.cluster import call_each

        for result in call_each(_run, [(cell, load) for cell in todo], ray.address, ray.workers) if todo else ():
            keep(result)
    elif processes == 1:
        for cell in todo:
            keep(_run(cell, load))
    elif todo:
        threads = max(1, (os.cpu_count() or 1) // processes)
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(processes, context, initializer=torch.set_num_threads, initargs=(threads,)) as pool:
            futures = [pool.submit(_run, cell, load) for cell in todo]
            try:
                for future in as_completed(futures):
                    keep(future.result())
            except BaseException:
                pool.shutdown(cancel_futures=True)
                raise
    return [results[cell.name] for cell in cells]


def _run(cell: Cell, load: Callable[[Cell], Task] | None) -> Result:
    try:
        return Result(cell, run_cell(cell, load))
    except UnavailableError as error:
        return Result(cell, {}, str(error))


def _path(cell: Cell, folder: Path) -> Path:
    return folder / "cells" / f"{cell.name}.json"


def _read(cell: Cell, folder: Path) -> Result | None:
    path = _path(cell, folder)
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise ArtefactError(f"{path} cannot be read ({error}); delete it to run it again") from None
    if content["cell"] != json.loads(json_text(cell)):
        raise ArtefactError(f"{path} is of a benchmark with other settings; choose another --out, or delete it")
    return Result(cell, content["figures"])
