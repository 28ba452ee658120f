"""From options to a training in a terminal: what `train` and `reproduce` share."""

from __future__ import annotations

import signal
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from alocc.cli import console
from alocc.cli.cores import use_free_cores
from alocc.config import Config, load_config, preset, with_settings
from alocc.errors import AloccError, ConfigError, DataError

if TYPE_CHECKING:
    from torch import Tensor

    from alocc.data.resizing import ImageFormat
    from alocc.data.sources import ImageSet, Source
    from alocc.detector import Detector
    from alocc.evaluation.monitoring import Looks
    from alocc.map_pictures import Batch, MapPictures, Which
    from alocc.regions import Region
    from alocc.scores import Scores
    from alocc.scoring.journal import Journal
    from alocc.scoring.open import EngineName
    from alocc.scoring.stream import Engine, Rows, Scorer
    from alocc.training.plan import Device, Plan, Settings
    from alocc.training.tiles import Comparison
    from alocc.verdict import Health


def load_settings(preset_name: str | None, config_file: Path | None, settings: Sequence[str]) -> Config:
    """A preset, or a config file on top of the preset that it names, with single keys on top."""
    if preset_name and config_file:
        raise ConfigError("give --preset or --config, not both; a config file names its preset itself")
    config = load_config(config_file) if config_file else preset(preset_name or "robust")
    return with_settings(config, settings)


def load_engine(
    path: Path,
    engine: EngineName | None,
    alpha: float | None,
    device: Device,
    *,
    maps: bool = False,
    review_alpha: float | None = None,
) -> Engine:
    """What scores: a detector, or an exported file, by its name or as the engine says; with maps if it is made anew."""
    from alocc.scoring.open import is_exported, open_engine
    from alocc.training.folds import on_device

    exported = is_exported(path) or engine in ("onnx", "openvino")
    if exported and engine != "torch" and device in ("cuda", "mps"):
        raise ConfigError(f"exported detectors compute on the CPU; omit --device {device}, or use --engine torch")
    if not exported:
        use_free_cores()
    opened = open_engine(path, engine, alpha, console.print_note, maps=maps, review_alpha=review_alpha)
    console.print_health_warning(opened.health)
    return on_device(opened, device)


def train_in_terminal(
    settings: Settings,
    out: Path,
    *,
    watch: str | None = None,
    anomalous: list[str] | None = None,
    watch_every: int | None = None,
    watch_limit: int | None = 250,
    log: Sequence[str] = (),
) -> Detector:
    """Train with a progress bar; Ctrl-C and SIGTERM stop in good order. What is finished is not trained again.

    A watch looks at ``watch_limit`` images of each side. What is in ``log`` watches too: see :mod:`alocc.tracking`.
    """
    if anomalous and not watch:
        raise ConfigError("--anomalous only says which images --watch looks at; give --watch too")
    with console.stop_on_interrupt() as stop_requested:
        from alocc.evaluation.health import check_trained
        from alocc.evaluation.labelled import load_labelled, watch_on
        from alocc.tracking import open_tracking
        from alocc.training.folder import RunFolder
        from alocc.training.loop import Hooks
        from alocc.training.run import run

        use_free_cores()
        plans: list[Plan] = []
        verdicts: list[Health] = []

        def open_watch(plan: Plan) -> Callable[[Detector], Mapping[str, float]]:
            classes, to = plan.images.summary["normal_classes"], plan.frame.image_format
            assert watch is not None
            labelled = load_labelled(watch, to, classes, anomalous, limit=watch_limit, strict=settings.strict)
            return watch_on(labelled)

        def started(plan: Plan, again: bool) -> None:
            plans.append(plan)
            console.print_training_start(plan.images, again)

        def written(detector: Detector) -> None:
            verdicts.append(check_trained(detector, plans[0].images, RunFolder(out)))
            tracking.end(detector, verdicts[0])

        with console.training_progress() as progress, open_tracking(log, out, console.print_warning) as tracking:
            hooks = Hooks(
                progress=progress,
                resumed=console.print_resumed,
                started=started,
                open_watch=open_watch if watch else None,
                watch_every=watch_every,
                stop_requested=stop_requested,
                warned=console.print_warning,
                written=written,
            )
            notes = {"watch": watch, "watch_anomalous": anomalous}
            detector = run(replace(settings, out=out, notes=notes), tracking.added_to(hooks))
    if plans:
        console.print_training_end(detector, out, verdicts[0])
    else:
        console.print_finished(detector, out)
    return detector


def follow_in_terminal(device: Device) -> None:
    """Train with the first of the processes that a launcher started; that one says what there is to say.

    Raises:
        typer.Exit: with code 1, if the training stopped.
    """
    from alocc.training.loop import Hooks
    from alocc.training.processes import follow

    signals: list[int] = []  # which the first one is sent too: it says so, and when to leave
    for which in (signal.SIGINT, signal.SIGTERM):
        signal.signal(which, lambda signum, _: signals.append(signum))
    try:
        follow(device, Hooks(progress=lambda _: None, stop_requested=lambda: bool(signals)))
    except AloccError:
        raise typer.Exit(1) from None


def compare_tiles(source: Source, to: ImageFormat) -> Comparison | None:
    """Whole images beside tiles, by the default preset; none where there is nothing to choose.

    Where there are classes, nobody has said which are normal; and a video would have to be read to its end again.
    """
    from alocc.data.inspection import SHRUNK_FROM
    from alocc.training.tiles import IMAGES, compare

    size = source.original_size()
    if len(source.class_names) > 1 or not len(source) or max(size) <= SHRUNK_FROM * max(to.size):
        return None
    use_free_cores()
    found = None
    with console.stage_progress(), suppress(DataError):  # none of these few can be read
        found = compare(source.some(IMAGES).load(to), preset("robust"), size)
    return found


def stream_in_terminal(
    detector: Engine,
    source: Source,
    *,
    fdr: float | None = None,
    maps: tuple[Path, Which] | None = None,
    regions: bool = False,
    strict: bool,
    each: Callable[[ImageSet, Scores, Sequence[Sequence[Region]]], None] | None = None,
    journal: Journal | None = None,
) -> Generator[Rows, None, None]:
    """Score a source with a progress bar, and give its rows batch after batch; with regions where something needs them.

    Pictures are written meanwhile: ``maps`` is their folder, and says of which images. Rows that the journal holds are
    not scored again. Where nothing looks at ``each`` batch, a note says in the end whether the images, of those that
    were scored now, are obviously of another kind than the detector's.
    """
    from alocc.evaluation.monitoring import Looks
    from alocc.scoring.journal import Journal
    from alocc.scoring.stream import score_batches

    kept, looks = journal or Journal(None, {}), Looks()

    def scored(
        scorer: Scorer = detector, scored_before: Callable[[Rows, int], None] = lambda *_: None, **hooks: Any
    ) -> Generator[Rows, None, None]:
        def score_from(first: int) -> Iterator[Rows]:
            batches = source.after(first).batches(detector.image_format)
            batches = batches if each else looks.of(batches)  # who looks at each batch does that too
            hooks.update(strict=strict, with_classes=bool(source.class_names), going_on=first > 0)
            with console.image_progress("scoring", len(source) or None, first) as progress:
                yield from score_batches(scorer, batches, progress=progress, **hooks)

        return kept.keep(score_from, scored_before)

    if maps or regions:
        from alocc.map_pictures import MapPictures

        pictures = MapPictures(detector, *maps, source.where) if maps else None
        rows = _with_places(detector, source, scored, fdr, pictures)
    else:
        rows = scored(each=each) if fdr is None else at_discovery_rate(list(scored(each=each)), fdr)
    return rows if each else _with_looks(detector, rows, looks)


def _with_looks(detector: Engine, rows: Generator[Rows, None, None], looks: Looks) -> Generator[Rows, None, None]:
    """The same rows, and behind the last a note where the images are obviously of another kind."""
    from alocc.calibration import smallest_alpha

    floor, at_floor = smallest_alpha(len(detector.held_out_scores)), True
    for part in rows:
        at_floor = at_floor and bool((part.scores.p_value <= floor).all())
        yield part
    console.print_other_images(detector, looks.appearance, at_floor)


def _with_places(
    detector: Engine,
    source: Source,
    scored: Callable[..., Generator[Rows, None, None]],
    fdr: float | None,
    pictures: MapPictures | None,
) -> Generator[Rows, None, None]:
    """Rows with regions, and pictures; maps are computed once, with the scores.

    A false-discovery rate takes a pass without maps before that, as its verdicts depend on all images.
    """
    from alocc.scoring.stream import WithMaps, score_batches

    calibration = detector.calibration
    if fdr is not None:
        import numpy as np

        from alocc.evaluation.discoveries import discoveries

        p_values = np.concatenate([rows.scores.p_value for rows in scored()])
        calibration = replace(calibration, alpha=p_values[discoveries(p_values, fdr)].max(initial=0))

    def find(images: ImageSet, scores: Scores) -> list[list[Region]]:
        return detector.regions(images.images, scores, sizes=images.sizes)

    scorer = WithMaps(detector, calibration)
    if not pictures:
        yield from scored(scorer, regions=find)
        return
    pictures.threshold = calibration.threshold

    def score_again(first: int) -> Batch:
        found: list[Batch] = []
        batches = source.after(first).batches(detector.image_format)
        next(score_batches(scorer, batches, regions=find, each=lambda *batch: found.append(batch)))
        return found[0]

    def scored_before(rows: Rows, first: int) -> None:
        pictures.add_earlier(rows, partial(score_again, first))

    yield from scored(scorer, scored_before, regions=find, each=pictures.add)
    pictures.finish()
    console.print_note(pictures.summary)


def at_discovery_rate(parts: Sequence[Rows], rate: float) -> Generator[Rows, None, None]:
    """The same rows, with as many images called anomalies as the rate allows among all of them."""
    import numpy as np

    from alocc.evaluation.discoveries import discoveries

    verdicts = discoveries(np.concatenate([part.scores.p_value for part in parts]), rate)
    ends = np.cumsum([len(part.names) for part in parts])
    for part, is_anomaly in zip(parts, np.split(verdicts, ends[:-1]), strict=True):
        yield part._replace(scores=replace(part.scores, is_anomaly=is_anomaly))


def load_normals(detector: Detector, data: str, normal: list[str] | None, strict: bool) -> ImageSet:
    """Fresh normal images for a detector: none that it was trained or calibrated on."""
    from alocc.data.sources import open_normals
    from alocc.errors import DataError

    source = open_normals(data, "train", normal, detector.training["normal_classes"])
    images = source.load(detector.image_format, strict)
    fresh = images[~detector.was_seen(images.images)]
    if not len(fresh):
        where = f"{data} (of its train part, if it has one)"
        raise DataError(f"the detector was trained or calibrated on all normal images of {where}; give newer ones")
    return fresh


def some_training_images(detector: Detector, path: Path, most: int = 24) -> Tensor | None:
    """A few of the images that a detector was trained on, in its format, (n, C, H, W); none if they are not near it."""
    from alocc.data.frame import thinned
    from alocc.data.sources import open_normals
    from alocc.evaluation.notes import noted_data

    with suppress(AloccError):
        run = path.parent if path.name == "model.safetensors" else path
        data = noted_data(detector.training["data"], run)
        source = open_normals(data, "train", None, detector.training["normal_classes"])
        for batch in source.batches(detector.image_format):  # the first ones may bring nothing but what was skipped
            seen = batch.images[detector.was_seen(batch.images)]
            if len(seen):
                return thinned(seen, most)
    return None
