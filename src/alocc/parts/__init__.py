"""The parts of a score and of a map. A new one is a file here, a line in :data:`PARTS`, and its tests.

Config, weights, saving, loading, devices, export and tables follow from the registry.
"""

from __future__ import annotations

import difflib

from torch import nn

from alocc.config import Config
from alocc.data.frame import Frame
from alocc.errors import ConfigError
from alocc.parts.cells import Cells
from alocc.parts.descriptions import Quarters, Sixteenths, Spectrum, Texture
from alocc.parts.discriminator import D
from alocc.parts.features import Features, Scene
from alocc.parts.neighbours import Neighbours
from alocc.parts.part import Part
from alocc.parts.places import Places
from alocc.parts.reconstruction import Mse

PARTS: dict[str, type[Part]] = {
    "d": D,
    "mse": Mse,
    "spectrum": Spectrum,
    "texture": Texture,
    "quarters": Quarters,
    "sixteenths": Sixteenths,
    "neighbours": Neighbours,
    "cells": Cells,
    "features": Features,
    "scene": Scene,
    "places": Places,
}
STATISTICS = ("neighbours", "spectrum", "texture", "quarters", "sixteenths")
"""Parts that need no network: they tell which kinds of pseudo-anomaly look normal, before D is trained."""


def check_parts(config: Config) -> None:
    """Refuse a config with a part that does not exist, or that nothing trains.

    Raises:
        ConfigError: saying what to change.
    """
    for section, names in (("scoring", config.scoring), ("maps", config.maps)):
        for name in names:
            if name not in PARTS:
                near = difflib.get_close_matches(name, PARTS, n=1)
                meant = f'did you mean "{near[0]}"? ' if near else ""
                raise ConfigError(f'{section}: there is no part "{name}"; {meant}parts are: {", ".join(PARTS)}')
            if not (PARTS[name].of_images if section == "scoring" else PARTS[name].of_places):
                other = "maps" if section == "scoring" else "scoring"
                raise ConfigError(f"{section}: part {name} has no say there; it goes into {other} alone")
            PARTS[name].check(config)


def check_installed(config: Config) -> None:
    """Refuse to begin a training that would end for want of a package.

    Raises:
        ConfigError: saying what to install.
    """
    for name in {*config.scoring, *config.maps}:
        PARTS[name].check_installed()


def build_part(name: str, config: Config, frame: Frame) -> Part:
    """A part, nothing fitted yet, for what it sees of an image."""
    kind = PARTS[name]
    return kind(frame.crop_format if kind.sees_all_pixels else frame.thumbnail_format, config)


def build_parts(config: Config, frame: Frame) -> nn.ModuleDict:
    """All parts that a config's score and map need, by name in one order."""
    return nn.ModuleDict({name: build_part(name, config, frame) for name in sorted({*config.scoring, *config.maps})})
