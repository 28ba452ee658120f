"""Arguments and options that several commands share, so that each is written and explained once."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, cast

import typer
from typer.core import TyperCommand

from alocc.errors import ConfigError

if TYPE_CHECKING:
    from alocc.map_pictures import Which
    from alocc.scoring.table import Only

MOST_DRAWN = 1_000
"""Most anomalous images of which pictures can be asked for."""
USAGE_ERROR: type[Exception] = typer.BadParameter.__mro__[1]
"""The parser's own error, of which Typer exports only a child."""

Data = Annotated[
    str,
    typer.Argument(
        metavar="DATA",
        help="Images: a folder, a pattern, a table of paths, an archive, a video, an array file, an address, or mnist.",
    ),
]


def _needed(context: typer.Context, value: str | None) -> str | None:
    """The argument, without which --normal means nothing: then one of its words is it."""
    if value is None and context.params.get("normal"):
        raise USAGE_ERROR("Missing argument 'DATA'.", context)
    return value


Newer = Annotated[
    str | None,
    typer.Argument(
        metavar="[DATA]",
        help="Newer normal images. Default: those that it has, with another --alpha or --review-alpha.",
        callback=_needed,
        show_default=False,
    ),
]
RunOut = Annotated[Path, typer.Option("--out", help="Run folder to write.")]
ConfigKeys = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="One key of the config: training.batch_size=32.")
]
Strict = Annotated[bool, typer.Option(help="Stop at the first image that cannot be used, instead of naming it.")]
Stride = Annotated[int, typer.Option(min=1, help="Of a video, take one frame in this many.")]
Model = Annotated[Path, typer.Argument(metavar="RUN_OR_MODEL", help="A run folder, or a detector's .safetensors file.")]
Scoring = Annotated[
    Path, typer.Argument(metavar="RUN_OR_MODEL", help="A run folder, or a detector's .safetensors, .onnx or .xml file.")
]
Engine = Annotated[
    Literal["torch", "onnx", "openvino"] | None,
    typer.Option(help="What computes. Default: torch, or what an exported file is for."),
]
ScoringEngine = Annotated[
    Literal["torch", "onnx", "openvino", "ray"] | None,
    typer.Option(
        help="What computes. Default: torch, or what an exported file is for. ray: the same, in many processes."
    ),
]
Address = Annotated[
    str | None,
    typer.Option(help="With --engine ray: of a cluster, whose machines see the same files. Default: this machine."),
]
Workers = Annotated[
    int | None, typer.Option(min=1, help="With --engine ray: processes at a time. Default: one for each free core.")
]
Normal = Annotated[
    list[str] | None,
    typer.Option("--normal", metavar="CLASS…", help="Normal classes, by sub-folder or digit: --normal 1 7, or 1,7."),
]
Anomalous = Annotated[
    list[str] | None,
    typer.Option("--anomalous", metavar="CLASS…", help="Anomalous classes; all but the normal ones if left out."),
]
MapsOf = Annotated[
    str | None,
    typer.Option(
        metavar="all|anomalies|review|N",
        help="Images that --maps draws; N: the most anomalous. Default: those not called normal, or of --only review.",
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
Device = Annotated[Literal["auto", "cpu", "cuda", "mps"], typer.Option(help="Where to compute.")]
Alpha = Annotated[
    float | None,
    typer.Option(help="False-positive rate to keep. Default: 0.01, or the smallest that the normal images support."),
]
ReviewAlpha = Annotated[
    float | None,
    typer.Option(
        "--review-alpha",
        help="A second, larger rate: between the two a detector can't tell, and a person looks. Default: none.",
    ),
]
OwnReviewAlpha = Annotated[
    float | None,
    typer.Option(
        "--review-alpha", help="Up to this p-value, what is no anomaly is for a person; 0: none. Default: its own."
    ),
]
NewAlpha = Annotated[
    float | None,
    typer.Option(
        "--alpha",
        help="False-positive rate. Default: with DATA, as the training was told; without, the detector's own.",
    ),
]
OwnAlpha = Annotated[float | None, typer.Option("--alpha", help="False-positive rate. Default: the detector's own.")]


def usage_text(error: Any) -> str:
    """What is wrong with a command line, in one line; nothing where the parser showed its help instead."""
    from alocc.config import in_words

    reason, context = error.format_message().strip().rstrip("."), error.ctx
    if error.__cause__ and error.param:  # a value of the wrong kind, of which the parser's own text does not tell
        problem = error.__cause__.errors()[0]
        option = error.param.get_error_hint().replace("'", "")
        reason = f"{option}: {in_words(problem)}, got {str(problem['input'])!r}"
    if reason.startswith("Got unexpected extra arguments"):
        reason = f"{reason[:100]}{'…' if len(reason) > 100 else ''}; a pattern needs quotes: 'parts/*.png'"
    return f"{reason}; see {context.command_path} --help" if reason and context else reason


class ClassListCommand(TyperCommand):
    """A command whose lists take several words, ``--normal 1 7`` for ``--normal 1 --normal 7``, and no empty ones.

    All words behind such an option are its own, but for those at the end that the line cannot be understood without.
    """

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse, with as many words in the lists as can be.

        Raises:
            ConfigError: if a word is empty, as those of a variable that is not set.
        """
        for before, word in zip(["", *args], args, strict=False):
            if not word or (word.startswith("--") and word.endswith("=")):
                name = word[:-1] or (before if before.startswith("--") else "an argument")
                raise ConfigError(f"{name} is empty; is a variable not set?")
        lists = [name for option in self.params if str(option.metavar).endswith("…") for name in option.opts]
        problem: Exception | None = None
        tried: list[str] | None = None
        for n_left in range(len(args) + 1):
            if (spelled := _spelled_out(args, lists, n_left)) == tried:
                break  # no word is left to move
            try:
                return super().parse_args(ctx, list(spelled))
            except USAGE_ERROR as error:
                problem, tried = problem or error, spelled
        assert problem  # there was one way at least
        raise problem


def class_names(
    values: Sequence[str] | None, data: str | None = None, split: Literal["train", "test"] = "test"
) -> list[str] | None:
    """Class names of an option that was repeated, or holds several between commas; a class of ``data`` may have some.

    Raises:
        ConfigError: if there is nothing between the commas.
    """
    if not values:
        return None
    known: Collection[str] = ()
    if data and any("," in value for value in values):
        from alocc.data.sources import known_classes

        known = known_classes(data, split)
    names = [name.strip() for value in values for name in ([value] if value in known else value.split(","))]
    if not any(names):
        raise ConfigError(f"{values[0]!r} names no class")
    return list(dict.fromkeys(filter(None, names)))


def images_of_maps(value: str | None, maps: Path | None, only: Only | None = None) -> Which:
    """The value of ``--maps-of``, which by default is that of ``--only review``.

    Raises:
        ConfigError: if it is none, or there is no ``--maps``.
    """
    if value is not None and maps is None:
        raise ConfigError("--maps-of says which images --maps draws; give --maps too")
    value = value or ("review" if maps and only == "review" else "anomalies")
    if value in ("all", "anomalies", "review"):
        return cast("Which", value)
    if not (value.isascii() and value.isdigit() and int(value)):
        raise ConfigError(f"--maps-of must be all, anomalies, review or a number from 1 on, got {value!r}")
    if int(value) > MOST_DRAWN:
        raise ConfigError(f"--maps-of {value}: at most {MOST_DRAWN:,} are kept until the last image is scored; try all")
    return int(value)


def _spelled_out(args: Sequence[str], lists: Collection[str], n_left: int) -> list[str]:
    """The option of a list before each of its words, but for the last ``n_left``."""
    spelled: list[str] = []
    words: list[str] = []
    for arg in reversed(args):
        if arg in lists:
            moved = words[: max(1, len(words) - n_left)]
            repeated = [word for name in moved for word in (arg, name)] or [arg]
            spelled = [*repeated, *words[len(moved) :], *spelled]
            words = []
        elif arg.startswith("-"):
            spelled, words = [arg, *words, *spelled], []
        else:
            words.insert(0, arg)
    return [*words, *spelled]
