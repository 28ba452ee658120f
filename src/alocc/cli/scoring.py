"""A job of `alocc score`: what it is, how it stops, and workers in other processes."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from alocc.cli import console
from alocc.errors import ConfigError
from alocc.stages import stage

if TYPE_CHECKING:
    from alocc.data.sources import Source
    from alocc.map_pictures import Which
    from alocc.scale.scoring import Workers
    from alocc.scoring.journal import Journal
    from alocc.scoring.open import EngineName
    from alocc.scoring.stream import Engine, Rows
    from alocc.scoring.table import Only, Totals
    from alocc.training.plan import Device


def job_of(model: Path, engine: str | None, detector: Engine, source: Source, **options: Any) -> dict[str, Any]:
    """All that the rows of scoring depend on: the identity of a job that can go on."""
    from alocc import __version__
    from alocc.detector import artefact_path
    from alocc.scoring.open import is_exported
    from alocc.storage import digest

    files = [model, model.with_suffix(".bin")] if is_exported(model) else [artefact_path(model)]
    return {
        "version": __version__,
        "detector": [digest(path) for path in files if path.exists()],
        "images": source.identity(),
        "options": {"engine": engine, "alpha": detector.alpha, "review_alpha": detector.review_alpha, **options},
    }


@contextmanager
def stops_kept(journal: Journal, out: Path | None) -> Iterator[None]:
    """Ctrl-C and SIGTERM end scoring with a line that says how to go on; the exit codes are 130 and 143."""
    try:
        with journal:
            yield
    except (KeyboardInterrupt, SystemExit) as stop:
        code = 130 if isinstance(stop, KeyboardInterrupt) else stop.code
        if code not in (130, 143):
            raise
        if journal.path and journal.n_kept:
            scored = f"the scores of {journal.n_kept:,} images are kept beside {out}"
            console.print_note(f"stopped; {scored}; the same command goes on from there")
        else:
            why = "no image was scored" if journal.path else "with --out, an ordinary file, scores would be kept"
            console.print_note(f"stopped; {why}; the same command begins anew")
        raise SystemExit(code) from None


def check_files(out: Path | None, maps: Path | None, regions: Path | None, engine: str | None, *, some: bool) -> None:
    """Refuse files that cannot be written, or overwrite each other; ``some``: whether not all images are listed."""
    from alocc.scoring.table import check_table_path

    if out and not is_in_parts(out, engine):
        check_table_path(out, maps=maps)
    if regions:
        check_table_path(regions, "--regions", maps=maps)
        if out and out.resolve() == regions.resolve():
            raise ConfigError(f"--regions {regions}: that is the file of --out too; give another one")
    if engine == "ray" and (maps or regions):
        raise ConfigError(f"--engine ray makes no maps; leave out {'--maps' if maps else '--regions'}, or --engine ray")
    if is_in_parts(out, engine) and some:
        raise ConfigError(f"--out {out}: a folder holds all images as they are; for --top, --only or --fdr give a file")


def is_in_parts(out: Path | None, engine: str | None) -> bool:
    """Whether the table is a folder, of files that the workers write."""
    return engine == "ray" and out is not None and not out.suffix


def check_rule(alpha: float | None, fdr: float | None) -> None:
    """Refuse two rules for what is called an anomaly, and one that is none."""
    if alpha is not None and fdr is not None:
        raise ConfigError("give --alpha or --fdr, not both: each decides what is called an anomaly")
    if fdr is not None and not 0 < fdr < 1:
        raise ConfigError(f"--fdr must be above 0 and below 1, got {fdr:g}")


def check_only(only: Only | None, maps_of: Which, detector: Engine) -> None:
    """Refuse a person's list, or pictures of it, where the detector has no third verdict."""
    if "review" in (only, maps_of) and detector.review_alpha is None:
        option = "--only review lists" if only == "review" else "--maps-of review draws"
        raise ConfigError(f"{option} what is between two rates; give --review-alpha too, above alpha")


def open_scorer(
    path: Path, engine: EngineName | Literal["ray"] | None, alpha: float | None, device: Device, address: str | None,
    n_workers: int | None, *, maps: bool, review_alpha: float | None = None,
) -> Engine | Workers:  # fmt: skip
    """What scores, here or in other processes: those of a cluster, or one here for each free core; here, with maps."""
    from alocc.cli.cores import count_free_cores
    from alocc.cli.running import load_engine

    if engine != "ray":
        if address or n_workers:
            raise ConfigError(f"{'--address' if address else '--workers'} is for --engine ray; give that too")
        detector = load_engine(path, engine, alpha, device, maps=maps, review_alpha=review_alpha)
        if maps:
            _ = detector.map_threshold  # an exported file without maps is refused before images are read
        return detector
    from alocc.scale.cluster import check_ray
    from alocc.scale.scoring import Workers

    check_ray()
    if device not in ("auto", "cpu"):
        raise ConfigError(f"workers compute on CPUs; omit --device {device}, or --engine ray")
    n = n_workers or (None if address else count_free_cores())
    detector = load_engine(path, None, alpha, "cpu", review_alpha=review_alpha)
    return Workers(detector, path, alpha, address, review_alpha, n)


def engine_of(scorer: Engine | Workers) -> Engine:
    """The one that is loaded here."""
    from alocc.scale.scoring import Workers

    return scorer.detector if isinstance(scorer, Workers) else scorer


def score_source(
    scorer: Engine | Workers, source: Source, journal: Journal, *, fdr: float | None, strict: bool, **drawn: Any
) -> Generator[Rows, None, None]:
    """Rows of a source, with a progress bar, scored here or by workers; those that the journal holds are not again."""
    from alocc.cli.running import stream_in_terminal
    from alocc.scale.scoring import Workers

    if isinstance(scorer, Workers):
        return _from_workers(scorer, source, journal, fdr, strict)
    return stream_in_terminal(scorer, source, fdr=fdr, strict=strict, journal=journal, **drawn)


def _from_workers(
    workers: Workers, source: Source, journal: Journal, fdr: float | None, strict: bool
) -> Generator[Rows, None, None]:
    from alocc.cli.running import at_discovery_rate
    from alocc.data.reading import check_strict
    from alocc.scoring.stream import with_usable

    workers.check(source)

    def score_from(first: int) -> Iterator[Rows]:
        def checked(rows: Rows) -> Rows:
            check_strict(strict, rows.skipped)
            return rows

        with console.image_progress("scoring", len(source), first) as progress:
            scored = map(checked, workers.score(source.after(first), progress))
            yield from with_usable(scored, workers.detector, going_on=first > 0)

    rows = journal.keep(score_from)
    return rows if fdr is None else at_discovery_rate(list(rows), fdr)


def write_parts(workers: Engine | Workers, source: Source, folder: Path | None, *, strict: bool) -> Totals:
    """Let the workers write a folder of Parquet files, which is there once it is complete."""
    from alocc.data.reading import check_strict, none_usable
    from alocc.scale.scoring import Workers, totals_of
    from alocc.storage import making_folder

    assert folder
    assert isinstance(workers, Workers)
    workers.check(source)
    with making_folder(folder) as draft:
        with console.stage_progress():
            stage("scoring", 0, None)
            workers.write(source, draft)
        totals = totals_of(draft)
        check_strict(strict, totals.skipped)
        if not totals.n_images:
            raise none_usable(totals.skipped)
    return totals
