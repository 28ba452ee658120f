"""Arguments and options that several commands share, so that each is written and explained once."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from typer.core import TyperCommand

USAGE_ERROR: type[Exception] = typer.BadParameter.__mro__[
    1
]  # the parser's own error, of which Typer exports only this child

Data = Annotated[
    str,
    typer.Argument(
        metavar="DATA",
        help="Images: a folder, a pattern, a table of paths, an archive, a video, an array file, an address, or mnist.",
    ),
]
Strict = Annotated[bool, typer.Option(help="Stop at the first image that cannot be used, instead of naming it.")]
Stride = Annotated[int, typer.Option(min=1, help="Of a video, take every so many frames.")]
Model = Annotated[Path, typer.Argument(metavar="RUN_OR_MODEL", help="A run folder, or a detector's .safetensors file.")]
Scoring = Annotated[
    Path, typer.Argument(metavar="RUN_OR_MODEL", help="A run folder, or a detector's .safetensors, .onnx or .xml file.")
]
Engine = Annotated[
    Literal["torch", "onnx", "openvino"] | None,
    typer.Option(help="What computes. Default: torch, or what an exported file is for."),
]
Normal = Annotated[
    list[str] | None,
    typer.Option("--normal", metavar="CLASS…", help="Normal classes, by sub-folder or digit: --normal 1 7, or 1,7."),
]
Anomalous = Annotated[
    list[str] | None,
    typer.Option("--anomalous", metavar="CLASS…", help="Anomalous classes; all but the normal ones if left out."),
]
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
Device = Annotated[Literal["auto", "cpu", "cuda", "mps"], typer.Option(help="Where to compute.")]
Alpha = Annotated[
    float | None,
    typer.Option(help="False-positive rate to keep. Default: 0.01, or the smallest that the normal images support."),
]
OwnAlpha = Annotated[float | None, typer.Option("--alpha", help="False-positive rate. Default: the detector's own.")]


class ClassListCommand(TyperCommand):
    """A command whose class lists take several words: ``--normal 1 7`` is ``--normal 1 --normal 7``.

    The words after the first are moved only where the line could not be understood without that.
    """

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse, and parse again with the words moved if there are too many arguments."""
        try:
            return super().parse_args(ctx, list(args))
        except USAGE_ERROR:
            spelled_out = _spelled_out(args)
            if spelled_out == args:
                raise
            return super().parse_args(ctx, spelled_out)


def class_names(values: Sequence[str] | None) -> list[str] | None:
    """Class names from an option that was repeated, or holds several between commas."""
    if not values:
        return None
    return list(dict.fromkeys(name for value in values for name in value.split(",") if name))


def _spelled_out(args: Sequence[str]) -> list[str]:
    spelled: list[str] = []
    option = ""
    for arg in args:
        if arg.startswith("-"):
            option = arg if arg in ("--normal", "--anomalous", "--methods", "--classes") else ""
        elif option and spelled[-1] != option:
            spelled.append(option)
        spelled.append(arg)
    return spelled
