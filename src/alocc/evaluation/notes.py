"""Images that the notes of a run name. Notes may be a stranger's: on their word only what lies near is opened."""

from __future__ import annotations

import os
from pathlib import Path

from alocc.data.entries import MANIFESTS, has_suffix
from alocc.data.sources import BUILT_IN
from alocc.errors import DataError


def noted_data(noted: object, run: str | Path) -> str:
    """The data argument that the notes of a run folder, or of a detector's file, give, as far as it may be trusted.

    That is a built-in data set, or what lies below the current directory, or below the one that holds the run folder:
    no address, no path that leads elsewhere, and no table, whose rows may lead anywhere.

    Raises:
        DataError: if it is anything else, or is not there.
    """
    if noted in BUILT_IN:
        return str(noted)
    hint = "give DATA on the command line (to alocc check: fresh normal images, and --no-second-seed)"
    if noted == "arrays":
        raise DataError(f"{run} was trained on arrays or a list of files, which are not kept; {hint}")
    roots = [Path.cwd().resolve(), Path(run).resolve().parent]
    for root in roots:
        if root != root.parent and (found := _below(root, str(noted))):
            return str(noted) if root == roots[0] else found
    tried = " or ".join(dict.fromkeys(map(str, roots)))
    raise DataError(
        f'{run} names "{noted}" as its images; what a run folder names is opened only below {tried}, and tables and '
        f"addresses are not followed: run the command in a folder above the images, or {hint}"
    )


def _below(root: Path, noted: str) -> str | None:
    """The path of images below a folder; none if there are none, or it leads out of the folder."""
    path = Path(os.path.normpath(root / noted))  # compared before any part of it is looked up
    try:
        inside = path.is_relative_to(root) and path.resolve().is_relative_to(root)
        found = inside and not has_suffix(path, MANIFESTS)
        found = found and (path.exists() or any(root.glob(str(path.relative_to(root)))))
    except (OSError, ValueError):  # a name that no file can have
        return None
    return str(path) if found else None
