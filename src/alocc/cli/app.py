"""The commands."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import Annotated, Literal

import typer

from alocc.cli import console
from alocc.cli.benchmark import benchmark
from alocc.cli.options import (
    Address,
    Alpha,
    Anomalous,
    ClassListCommand,
    ConfigKeys,
    Data,
    Device,
    Engine,
    Json,
    MapsOf,
    Model,
    NewAlpha,
    Newer,
    Normal,
    OwnAlpha,
    OwnReviewAlpha,
    ReviewAlpha,
    RunOut,
    Scoring,
    ScoringEngine,
    Strict,
    Stride,
    Workers,
    class_names,
    images_of_maps,
)
from alocc.errors import ConfigError

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    help="Show it only normal images; it learns them, then says of any new image how abnormal it is.\n\n"
    "[bold]alocc train[/bold] good_parts/ --out run, then [bold]alocc score[/bold] run new_parts/ --out scores.csv.",
)
reproduce = typer.Typer(no_args_is_help=True, help="Repeat published experiments.")
app.add_typer(reproduce, name="reproduce")
app.add_typer(benchmark, name="benchmark")


def _version(wanted: bool) -> None:
    if wanted:
        from alocc import __version__

        print(f"alocc {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


@app.command(cls=ClassListCommand)
def train(
    data: Data,
    out: RunOut,
    normal: Normal = None,
    preset: Annotated[str | None, typer.Option(help="robust (default), features, article, paper or ognet.")] = None,
    config: Annotated[Path | None, typer.Option(help="TOML file on top of a preset.")] = None,
    set_: ConfigKeys = None,
    ignore: Annotated[
        list[str] | None,
        typer.Option("--ignore", metavar="WHAT…", help="What is normal too: light, focus, shift, turn, mirror."),
    ] = None,
    seed: Annotated[
        int | None, typer.Option(min=0, help="Seed of everything random. Default: the config's, 0.")
    ] = None,
    iterations: Annotated[int | None, typer.Option(min=1, help="Updates of R; other phases in proportion.")] = None,
    epochs: Annotated[int | None, typer.Option(min=1, help="The same as passes over the images.")] = None,
    alpha: Alpha = None,
    review_alpha: ReviewAlpha = None,
    contamination: Annotated[
        float | None,
        typer.Option(min=0, max=0.25, help="Share of the training images that may be anomalies. Default: 0."),
    ] = None,
    watch: Annotated[
        str | None, typer.Option(metavar="DATA", help="Labelled images to draw curves on; they never steer anything.")
    ] = None,
    anomalous: Anomalous = None,
    watch_every: Annotated[int | None, typer.Option(min=1, help="Iterations between two looks.")] = None,
    log: Annotated[
        list[str] | None,
        typer.Option("--log", metavar="WHERE…", help="Show the training in tensorboard, mlflow, or both."),
    ] = None,
    device: Device = "auto",
    processes: Annotated[int, typer.Option(min=1, help="Folds that train side by side, each in its process.")] = 1,
    devices: Annotated[
        int | None,
        typer.Option(min=1, help="GPUs, or processes where there is none, that train the same networks together."),
    ] = None,
    nodes: Annotated[int | None, typer.Option(min=1, help="Machines of a training that torchrun starts.")] = None,
    overwrite: Annotated[bool, typer.Option(help="Replace another training in the run folder.")] = False,
    again: Annotated[
        bool, typer.Option("--again", help="Train again what is finished; the earlier detector stays as a version.")
    ] = False,
    strict: Strict = False,
) -> None:
    """Learn normal images and write a run folder with the detector in it.

    The folder holds the detector (model.safetensors), config.toml, history.csv and run.json. A training that was
    stopped, with Ctrl-C or by whatever else, goes on where it was when the same command is given again; of one that is
    finished, the command says so.
    """
    from alocc.cli.running import follow_in_terminal, load_settings, train_in_terminal
    from alocc.config import with_ignored, with_settings
    from alocc.training.plan import Settings
    from alocc.training.ranks import follows

    if follows():
        follow_in_terminal(device)
        return
    chosen = with_settings(with_ignored(load_settings(preset, config, []), class_names(ignore) or ()), set_ or [])
    settings = Settings(
        data, class_names(normal, data, "train"), chosen, seed, iterations, epochs,
        alpha, contamination, device, overwrite=overwrite, strict=strict, again=again,
        processes=processes, devices=devices, nodes=nodes, review_alpha=review_alpha,
    )  # fmt: skip
    names = class_names(anomalous, watch)
    train_in_terminal(settings, out, watch=watch, anomalous=names, watch_every=watch_every, log=class_names(log) or ())


@app.command(cls=ClassListCommand)
def score(
    model: Scoring,
    data: Data,
    out: Annotated[Path | None, typer.Option(help=".csv, .jsonl or .parquet. Default: CSV to standard output.")] = None,
    alpha: OwnAlpha = None,
    review_alpha: OwnReviewAlpha = None,
    fdr: Annotated[
        float | None, typer.Option(help="False-discovery rate: at most this share of the called anomalies is normal.")
    ] = None,
    maps: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Folder for pictures of anomalies, with where they are.")
    ] = None,
    maps_of: MapsOf = None,
    regions: Annotated[
        Path | None,
        typer.Option(help="Where anomalies are, .csv or .jsonl: box in the image's own pixels, p_value, what is seen."),
    ] = None,
    stride: Stride = 1,
    top: Annotated[int | None, typer.Option(min=1, help="List only so many images, the most anomalous first.")] = None,
    only: Annotated[
        Literal["anomalies", "review"] | None,
        typer.Option(help="List only anomalies, or only what is for a person (review); the most anomalous first."),
    ] = None,
    strict: Strict = False,
    engine: ScoringEngine = None,
    address: Address = None,
    workers: Workers = None,
    device: Device = "auto",
    json: Json = False,
) -> None:
    """Score every image: path, anomaly_score, p_value, is_anomaly, and error for an image that cannot be read.

    Where images have classes, class is a column too; with a review alpha, verdict is: anomalous, can't tell or normal.
    With --maps or --regions, images that are not called normal have the box of their strongest place: box_left,
    box_top, box_right, box_bottom. With --maps they are listed in suspects.csv, beside their pictures. Images are read,
    scored and released a few hundred at a time, so memory does not limit their number.
    """
    from functools import partial

    from alocc.cli.scoring import (
        check_files,
        check_only,
        check_rule,
        engine_of,
        is_in_parts,
        job_of,
        open_scorer,
        score_source,
        stops_kept,
        write_parts,
    )  # fmt: skip
    from alocc.data.sources import open_source
    from alocc.scoring.journal import Journal
    from alocc.scoring.table import RegionTable, Row, Totals, most_anomalous, write_table

    check_files(out, maps, regions, engine, some=bool(top or only or fdr))
    check_rule(alpha, fdr)
    which, with_boxes = images_of_maps(maps_of, maps, only), bool(maps or regions)
    scorer = open_scorer(model, engine, alpha, device, address, workers, maps=with_boxes, review_alpha=review_alpha)
    detector, in_parts = engine_of(scorer), is_in_parts(out, engine)
    check_only(only, which, detector)
    source = open_source(data, "test", stride=stride)
    options = {"fdr": fdr, "strict": strict, "maps": str(maps.resolve()) if maps else None, "regions": bool(regions)}
    job = job_of(model, engine, detector, source, device=device, maps_of=which, **options) if out else {}
    journal = Journal(None if in_parts else out, job, [regions] if regions else [], console.print_note)
    choose = partial(most_anomalous, top=top, only=only) if top or only else iter
    table = RegionTable(regions) if regions else None
    totals = Totals(with_boxes=with_boxes, with_regions=bool(regions))
    with stops_kept(journal, out):
        images: list[Row] = []
        if in_parts:
            totals = write_parts(scorer, source, out, strict=strict)
        else:
            drawn = (maps, which) if maps else None
            rows = score_source(scorer, source, journal, fdr=fdr, maps=drawn, regions=bool(regions), strict=strict)
            with closing(table.beside(rows) if table else rows) as rows:  # else a draft of a table that failed stays
                if out or not json:
                    totals = write_table(rows, out, choose, with_boxes=with_boxes)
                else:
                    images += choose(totals.rows(rows))
    console.print_skipped(totals.skipped)
    console.print_seen(totals.n_seen)
    if json:
        console.print_json(
            {
                "n_images": totals.n_images,
                "n_anomalies": totals.n_anomalies,
                "n_review": None if detector.review_alpha is None else totals.n_review,
                "alpha": detector.alpha,
                "review_alpha": detector.review_alpha,
                "fdr": fdr,
                "threshold": detector.threshold,
                "skipped": totals.skipped,
                "out": out,
                "maps": maps,
                "regions": regions,
                "images": images,
            }
        )
    written = "".join(f"; {path} written" for path in (out, regions) if path)
    console.print_note(f"{totals.summary(detector, fdr)}{written}")
    if table and table.n_shortened:
        console.print_note(f"{table.n_shortened:,} of them have more regions than are written; the highest peaks are")


@app.command(cls=ClassListCommand)
def evaluate(
    model: Scoring,
    data: Data,
    normal: Normal = None,
    anomalous: Anomalous = None,
    alpha: OwnAlpha = None,
    review_alpha: OwnReviewAlpha = None,
    bootstrap: Annotated[
        int, typer.Option(min=0, help="Resamples for the 95 % intervals; 0 for those of classes alone.")
    ] = 300,
    strict: Strict = False,
    engine: Engine = None,
    device: Device = "auto",
    json: Json = False,
) -> None:
    """Compare the verdicts with labels: class by class, at the detector's own threshold, then over all thresholds."""
    import torch

    from alocc.cli.running import load_engine
    from alocc.data.appearance import appearance
    from alocc.data.frame import thinned
    from alocc.detector import Detector
    from alocc.evaluation.labelled import evaluate as compare
    from alocc.evaluation.labelled import load_labelled

    detector = load_engine(model, engine, alpha, device, review_alpha=review_alpha)
    classes = class_names(normal, data) or detector.training["normal_classes"]
    with console.stage_progress():
        labelled = load_labelled(data, detector.image_format, classes, class_names(anomalous, data), strict=strict)
    console.print_sides(labelled)
    with console.image_progress("scoring", len(labelled.images)) as progress:
        scores = detector.score(labelled.images.images, progress)
    with console.stage_progress():
        evaluation = compare(detector, labelled, scores, bootstrap)
    n_seen = int(detector.was_seen(labelled.images.images).sum())
    if json:
        found = {"n_seen_in_training": n_seen, "skipped": labelled.images.skipped}
        console.print_json(evaluation.as_json() | found)
    else:
        up_to = "" if evaluation.review_alpha is None else f", can't tell up to {evaluation.review_alpha:g}"
        title = f"by class at alpha {evaluation.alpha:g}{up_to}; AUROC against all normal images"
        console.print_table(evaluation.as_class_rows(), title, header=True)
        title = f"{evaluation.n_normal:,} normal and {evaluation.n_anomalous:,} anomalous images"
        console.print_table(evaluation.as_rows(), title, header=True)
        other_preset = (
            isinstance(detector, Detector)
            and detector.config.preset != "features"
            and detector.scorer.frame.has_thumbnails
        )
        console.print_what_finds_more(scores, labelled.is_anomalous, other_preset=other_preset)
    console.print_skipped(labelled.images.skipped)
    console.print_seen(n_seen)
    normals = labelled.images.images[torch.from_numpy(~labelled.is_anomalous)]
    console.print_other_images(detector, [appearance(thinned(normals, 200))])


@app.command(cls=ClassListCommand)
def compare(
    detectors: Annotated[
        list[str],
        typer.Argument(metavar="RUN_OR_MODEL… [DATA]", help="Two or more detectors; images, if the last is none."),
    ],
    normal: Normal = None,
    anomalous: Anomalous = None,
    alpha: Annotated[float | None, typer.Option(help="False-positive rate of all. Default: of each its own.")] = None,
    strict: Strict = False,
    json: Json = False,
) -> None:
    """Set detectors side by side: what they are, and what each says of the same images, with labels or without."""
    from alocc.cli.cores import use_free_cores
    from alocc.detector import is_artefact
    from alocc.evaluation.comparison import compare_detectors, comparison_json, comparison_rows

    *models, last = detectors
    data = None if is_artefact(last) else last
    paths = [Path(each) for each in (models if data else detectors)]
    if len(paths) < 2:
        raise ConfigError(f"compare needs two detectors or more, got {len(paths)}: run folders or .safetensors files")
    if data is None and (normal or anomalous):
        raise ConfigError("--normal and --anomalous say which classes of DATA are what; give DATA too")
    use_free_cores()
    with console.image_progress("scoring", None) as progress:
        compared = compare_detectors(
            paths, data, class_names(normal, data), class_names(anomalous, data),
            alpha=alpha, strict=strict, progress=progress,
        )  # fmt: skip
    if json:
        console.print_json(comparison_json(compared))
    else:
        console.print_table(comparison_rows(compared), header=True)
    console.print_skipped(compared[0].skipped)
    for one in compared:
        if one.n_seen:
            console.print_note(f"warning: {one.detector} was trained or calibrated on {one.n_seen:,} of these images")


@app.command(cls=ClassListCommand)
def report(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run folder.")],
    data: Annotated[
        str | None, typer.Argument(metavar="[DATA]", help="Images to show. Default: those watched, or trained on.")
    ] = None,
    normal: Normal = None,
    anomalous: Anomalous = None,
    out: Annotated[Path | None, typer.Option(help="HTML file. Default: report.html in the run folder.")] = None,
) -> None:
    """Write one self-contained HTML file: figures, curves, histogram, pictures, config."""
    from alocc.detector import artefact_path
    from alocc.report import build_report
    from alocc.verdict import read_health

    console.print_health_warning(read_health(artefact_path(run)))
    with console.stage_progress():
        written = build_report(run, data, class_names(normal, data), class_names(anomalous, data), out)
    console.print_note(f"{written} written; open it in a browser")


@app.command(cls=ClassListCommand)
def check(
    model: Model,
    data: Annotated[
        str | None, typer.Argument(metavar="[DATA]", help="Fresh normal images. Default: those held out, if found.")
    ] = None,
    normal: Normal = None,
    second_seed: Annotated[bool, typer.Option(help="Train with another seed, four times shorter; compare.")] = True,
    strict: Strict = False,
    json: Json = False,
) -> None:
    """Is this detector fit for use? Asked without a single anomaly: good, doubtful or useless, with reasons.

    It must call noise, stripes, flat images and changed normal images anomalous, fresh normal images not; D must have
    meant the same all through training; and a second seed must agree. Exit code 3 for useless.
    """
    from alocc.cli.cores import use_free_cores
    from alocc.evaluation.health import check_run

    if normal and data is None:
        raise ConfigError("--normal says which classes of DATA are normal; give DATA too, or leave the option out")
    use_free_cores()
    with console.stage_progress():
        health = check_run(model, data, class_names(normal, data), second_seed=second_seed, strict=strict)
    if json:
        console.print_json(health)
    else:
        console.print_table(health.measures.as_rows())
        console.print_note(
            "AUROC of 0.5 is chance; of the changes alone, only their mean counts: docs/method.md, Health"
        )
    console.print_skipped(health.skipped)
    console.print_health(health)
    if health.verdict == "useless":
        raise typer.Exit(3)


@app.command(cls=ClassListCommand)
def info(model: Model, json: Json = False) -> None:
    """Print what a detector is: preset, format, threshold, training, versions."""
    from alocc.detector import Detector

    detector = Detector.load(model)
    if not json:
        console.print_detector(detector)
        return
    facts = {
        "preset": detector.config.preset,
        "images": str(detector.image_format),
        "alpha": detector.alpha,
        "review_alpha": detector.review_alpha,
        "threshold": detector.threshold,
        "score": {part: f"× {weight:g}" for part, weight in detector.scorer.fusion.weights.items()},
        "seed": detector.config.seed,
        "health": detector.health.verdict if detector.health else None,
        **detector.training,
    }
    console.print_json({**facts, "config": detector.config.model_dump(mode="json")})


@reproduce.command("article", cls=ClassListCommand)
def reproduce_article(
    out: RunOut = Path("runs/article"),
    iterations: Annotated[int, typer.Option(min=1, help="Updates of R.")] = 100_000,
    seed: Annotated[int, typer.Option(min=0, help="Seed of everything random.")] = 0,
    set_: ConfigKeys = None,
    device: Device = "auto",
    json: Json = False,
) -> None:
    """The article's experiment: ALOCC on MNIST, 1 normal, 0 anomalous, with its figures beside the article's claim.

    It takes one to three hours on two cores, and goes on where it was if it is stopped and started again.
    """
    from alocc.cli.running import load_settings, train_in_terminal
    from alocc.evaluation.reproduction import EXPERIMENT, compare_with_article
    from alocc.report import build_report
    from alocc.training.folder import RunFolder
    from alocc.training.plan import Settings

    settings = Settings(
        EXPERIMENT.data, EXPERIMENT.normal, load_settings("article", None, set_ or []), seed, iterations, device=device
    )
    every = min(500, max(1, iterations // 20))
    anomalous = list(EXPERIMENT.anomalous)
    train_in_terminal(settings, out, watch=EXPERIMENT.data, anomalous=anomalous, watch_every=every, watch_limit=None)
    comparison = compare_with_article(RunFolder(out).history)
    written = build_report(out)
    if json:
        console.print_json(comparison.as_json())
    else:
        console.print_table(comparison.as_rows(), "the article's experiment", header=True)
        console.out.print(console.plain(comparison.verdict))
    console.print_note(f"{written} written; open it in a browser")


@app.command(cls=ClassListCommand)
def inspect(
    data: Data,
    sheet: Annotated[Path | None, typer.Option(metavar="PNG", help="Contact sheet of up to 200 images.")] = None,
    stride: Stride = 1,
    strict: Strict = False,
    json: Json = False,
) -> None:
    """Look at images before training: counts, sizes, duplicates, broken files, and what to be wary of."""
    from alocc.cli.running import compare_tiles
    from alocc.data.inspection import inspect as examine
    from alocc.data.sources import open_source
    from alocc.storage import replacing

    if sheet and sheet.suffix.lower() != ".png":
        raise ConfigError(f"--sheet {sheet}: the file must end in .png")
    with console.stage_progress():
        source = open_source(data, "train", stride=stride)
    with console.image_progress("reading", len(source) or None) as progress:
        found, picture = examine(source, progress, strict)
    compared = compare_tiles(source, found.image_format)
    if sheet and picture:
        with replacing(sheet) as temporary:
            picture.save(temporary, "PNG")
    if json:
        advice = compared and {**vars(compared), "advice": str(compared)}
        console.print_json({**vars(found), "whole_or_tiles": advice, "sheet": sheet if picture else None})
    else:
        console.print_inspection(found)
    console.print_skipped(found.skipped)
    console.print_warnings(found.warnings)
    if compared and not json:
        console.print_note(str(compared))
    if sheet and picture:
        console.print_note(f"{sheet} written")


@app.command(cls=ClassListCommand)
def calibrate(
    model: Model,
    data: Newer = None,
    normal: Normal = None,
    alpha: NewAlpha = None,
    review_alpha: OwnReviewAlpha = None,
    out: Annotated[
        Path | None, typer.Option(help="Detector file. Default: the run's; the earlier one stays as a version.")
    ] = None,
    undo: Annotated[bool, typer.Option("--undo", help="Bring the detector before this one back.")] = False,
    history: Annotated[bool, typer.Option("--history", help="List the run's detectors.")] = False,
    strict: Strict = False,
    json: Json = False,
) -> None:
    """Set the threshold anew, without training: from newer normal images, or for another rate.

    A run folder keeps its earlier detectors as versions/1.safetensors, 2, …; --undo brings back the last of them.
    """
    from alocc.cli.calibrating import calibrate_again
    from alocc.cli.cores import use_free_cores
    from alocc.training.folder import RunFolder

    if json and not history:
        raise ConfigError("--json is for --history; leave it out, or give both")
    if not (undo or history):
        use_free_cores()
        calibrate_again(model, data, class_names(normal, data, "train"), alpha, review_alpha, out, strict)
        return
    if (undo and history) or any(given is not None for given in (data, normal, alpha, review_alpha, out)):
        raise ConfigError("give RUN and --undo, or RUN and --history, and nothing else")
    if (folder := RunFolder.of(model)) is None:
        raise ConfigError(f"{model} is not in a run folder, which alone keeps earlier detectors")
    if undo:
        with folder.locked():
            back = folder.undo()
        which = f"threshold {back.threshold:.3f} at alpha {back.alpha:.4g} of {back.date[:16]} UTC"
        console.print_note(f"{which} is back; {folder.model} written")
    elif json:
        console.print_json(folder.all_versions())
    else:
        console.print_versions(folder.all_versions())


@app.command(cls=ClassListCommand)
def export(
    model: Model,
    format_: Annotated[Literal["onnx", "openvino"], typer.Option("--format", help="For which engine.")] = "onnx",
    out: Annotated[Path | None, typer.Option(help="Default: model.onnx, or model.xml, in the run folder.")] = None,
    layout: Annotated[Literal["nhwc", "nchw"], typer.Option(help="Order of the axes of the graph's images.")] = "nhwc",
    size: Annotated[
        Literal["any", "fixed"], typer.Option(help="Whether the graph resizes, or takes the detector's size alone.")
    ] = "any",
    int8: Annotated[bool, typer.Option("--int8", help="R's and D's convolutions in 8 bits; needs --data.")] = False,
    data: Annotated[
        str | None, typer.Option(metavar="DATA", help="Normal images for --int8, never trained on.")
    ] = None,
    normal: Normal = None,
    maps: Annotated[bool, typer.Option("--maps", help="Give anomaly_map too, so that scoring can show where.")] = False,
    strict: Strict = False,
    json: Json = False,
) -> None:
    """Write the detector as one ONNX or OpenVINO file that scores without torch, with the same numbers.

    Images go in as whole numbers (uint8) of any size; anomaly_score, p_value and is_anomaly come out, and
    anomaly_map with --maps. No file is left unless these are the detector's. --int8 makes another detector, with a
    threshold of its own.
    """
    from alocc.cli.running import load_normals, some_training_images
    from alocc.detector import Detector, artefact_path
    from alocc.export import check_target
    from alocc.export import export as write
    from alocc.scoring.open import SUFFIX_OF
    from alocc.storage import digest

    suffix = SUFFIX_OF[format_]
    if int8 and not data:
        raise ConfigError("--int8 needs --data: normal images that training never saw, for ranges and the threshold")
    if data and not int8:
        raise ConfigError("--data is for --int8; leave it out, or give both")
    if out and out.suffix != suffix:
        raise ConfigError(f"--out {out}: a file for --format {format_} must end in {suffix}")
    source = artefact_path(model)
    path = out or source.with_name(("model-int8" if int8 else "model") + suffix)
    check_target(path, maps=maps, int8=int8)
    made_from, detector = digest(source), Detector.load(source)
    console.print_health_warning(detector.health)
    with console.stage_progress():
        fresh = load_normals(detector, data, class_names(normal, data, "train"), strict) if data else None
        images = fresh.images if fresh else None
        real = None if fresh else some_training_images(detector, source)
        written = write(
            detector, path, layout=layout, size=size, fresh=images, made_from=made_from, real=real, maps=maps
        )
    console.print_skipped(fresh.skipped if fresh else ())
    if json:
        console.print_json({"out": path, "n_bytes": written.n_bytes, "parity": written.parity, "shift": written.shift})
    near = written.parity or written.shift
    console.print_note(f"{path} written ({written.n_bytes / 1e6:.1f} MB); {near}")


@app.command(cls=ClassListCommand)
def monitor(
    model: Scoring,
    data: Data,
    window: Annotated[int, typer.Option(min=10, help="Images of a window.")] = 100,
    chart: Annotated[Path | None, typer.Option(metavar="SVG", help="Draw the drift.")] = None,
    alpha: OwnAlpha = None,
    stride: Stride = 1,
    strict: Strict = False,
    engine: Engine = None,
    device: Device = "auto",
    json: Json = False,
) -> None:
    """Tell whether incoming images still look like those that the threshold came from; exit code 3 if not.

    Images are taken in the order of their names, a hundred at a time; their scores are compared with the held-out ones.
    """
    from alocc.cli.running import load_engine, stream_in_terminal
    from alocc.data.sources import open_source
    from alocc.evaluation.monitoring import Looks
    from alocc.evaluation.monitoring import monitor as compare
    from alocc.scoring.stream import Rows
    from alocc.storage import write_text

    if chart and chart.suffix.lower() != ".svg":
        raise ConfigError(f"--chart {chart}: the file must end in .svg")
    detector = load_engine(model, engine, alpha, device)
    looks = Looks()
    source = open_source(data, "test", stride=stride)
    rows = Rows.joined(list(stream_in_terminal(detector, source, strict=strict, each=looks.note)))
    drift = compare(detector, rows.names, rows.scores, window, looks)
    if chart:
        from alocc.report.figures import drift_figure

        write_text(chart, drift_figure(drift))
    if json:
        console.print_json(vars(drift) | {"skipped": rows.skipped})
    else:
        console.print_table(drift.as_rows(), header=True)
    console.print_skipped(rows.skipped)
    console.print_seen(rows.n_seen)
    console.print_note(drift.verdict)
    if drift.has_drifted:
        raise typer.Exit(3)


@app.command(cls=ClassListCommand)
def serve(
    models: Annotated[
        list[str],
        typer.Argument(
            metavar="RUN_OR_MODEL [RUN_OR_MODEL…]",
            help="Run folders, or .safetensors, .onnx or .xml files; NAME=PATH names one. The first is the default.",
        ),
    ],
    host: Annotated[str, typer.Option(help="Address to listen at.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port; 0 for any that is free.")] = 8000,
    token_file: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="File with the token that clients must know. Or ALOCC_TOKEN, a variable."),
    ] = None,
    no_token: Annotated[
        bool, typer.Option("--no-token", help="Let everybody in who can reach another --host than this machine's own.")
    ] = False,
    store: Annotated[
        Path, typer.Option(metavar="DIR", help="Folder of the history and of images that are kept.")
    ] = Path("station"),
    database: Annotated[
        str | None,
        typer.Option(metavar="URL", help="Database of the history: postgresql://… Default: SQLite in the store."),
    ] = None,
    allow_host: Annotated[
        list[str] | None, typer.Option(metavar="NAME…", help="Further names by which requests may call the server.")
    ] = None,
    allow_origin: Annotated[
        list[str] | None, typer.Option(metavar="ORIGIN…", help="Pages of other servers that may use this one.")
    ] = None,
    allow_address: Annotated[
        list[str] | None,
        typer.Option(metavar="PREFIX…", help="How addresses must begin whose images a batch may fetch. Default: none."),
    ] = None,
    allow_private: Annotated[
        bool, typer.Option("--allow-private", help="Such addresses may lie in a private network.")
    ] = False,
    alpha: OwnAlpha = None,
    review_alpha: OwnReviewAlpha = None,
    engine: Engine = None,
    device: Device = "auto",
    keep: Annotated[
        Literal["page", "suspects", "all"],
        typer.Option(help="Images kept where a client does not say: the page's; what is not called normal, too; all."),
    ] = "page",
    keep_days: Annotated[float, typer.Option(help="Days for which images and rows of the history are kept.")] = 30,
    keep_gb: Annotated[float, typer.Option(help="Gigabytes of images that are kept.")] = 10,
    limit: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=VALUE…", help="Another limit, of those in docs/serving.md: images=256 per_second=5."
        ),
    ] = None,
    json_log: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write a line of JSON for each request, without images.")
    ] = None,
) -> None:
    """Serve detectors over HTTP, with a page to work on, a history, marks and recalibration; Ctrl-C ends it.

    Requests that were accepted are answered before it ends. docs/serving.md says what can be asked.
    """
    from alocc.cli.cores import use_free_cores
    from alocc.cli.serving import check_libraries, named_limits, named_models, read_token, settings_of

    check_libraries()
    from alocc.serving.security import check_exposure
    from alocc.serving.server import run

    settings = settings_of(
        models=named_models(models), host=host, port=port, token=read_token(token_file, no_token=no_token),
        hosts=tuple(allow_host or ()), origins=tuple(allow_origin or ()), store=store, database=database,
        addresses=tuple(allow_address or ()), private_addresses=allow_private, keep=keep, keep_days=keep_days,
        keep_gb=keep_gb, engine=engine, device=device, alpha=alpha, review_alpha=review_alpha,
        limits=named_limits(limit or ()),
    )  # fmt: skip
    check_exposure(settings, without_token=no_token)
    use_free_cores()
    run(settings, console.print_note, console.print_warning, json_log)
