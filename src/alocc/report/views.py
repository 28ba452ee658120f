"""Enlarged views of images for the page: the image at the detector's size, its map as a layer, its regions."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from alocc.calibration import NORMAL
from alocc.data.images import ImageFormat, to_unit_range
from alocc.detector import Detector
from alocc.overlays import heat, in_colour, rgb
from alocc.regions import find_regions
from alocc.report.pictures import LARGEST, by_interest, encoded
from alocc.report.results import Results, printable
from alocc.stages import stage

LARGEST_ORIGINAL = 1024
"""Pixels of the longer side of a picture that is not called normal, at most: the image's own resolution up to there."""
LONGEST = 448
"""Pixels of the longer side of a view, at most; small images are shown a whole number of times larger."""
LAYER = 112
"""Pixels of the longer side of a map's layer, at most, which the browser enlarges: maps are smooth."""
BUDGET, BUDGET_OF_SMALL = 4_000_000, 1_600_000
"""Bytes of the page that all views take together, at most, and those of images that the table shows whole."""
FIRST = 30
"""Images of each kind of interest that come first: see :func:`alocc.report.pictures.by_interest`."""
AT_ONCE = 16


@dataclass(frozen=True)
class Views:
    """Enlarged views of some images, the interesting ones first."""

    width: int
    height: int
    """On the page, in pixels."""
    grows: bool
    """Whether that is larger than the images are."""
    items: list[dict[str, Any]]
    """Of each: name, what is said of it, image and map as base64 of WebP files, size (height, width) before it was
    resized, regions as (x, y, width, height, what is said of it), and how many there are."""
    of: list[int]
    """Index of the image of each."""
    n_bytes: int
    """Of the page, that they take."""

    def places(self, n_images: int) -> NDArray[np.int64]:
        """Which view each image has, (n,); −1 for none."""
        place = np.full(n_images, -1)
        place[self.of] = np.arange(len(self.of))
        return place


def view_size(image_format: ImageFormat) -> tuple[int, int]:
    """Width and height of a view: a whole multiple of a small image, a large one as large as there is room for."""
    longer = max(image_format.size)
    scale = LONGEST // longer or LONGEST / longer
    return max(1, round(image_format.width * scale)), max(1, round(image_format.height * scale))


def make_views(detector: Detector, results: Results, budget: int | None = None) -> Views:
    """Views of as many images as the budget allows, those first that people will want to look at."""
    width, height = view_size(detector.image_format)
    if budget is None:
        budget = BUDGET if max(detector.image_format.size) > LARGEST else BUDGET_OF_SMALL
    order = by_interest(results, detector.threshold, FIRST)
    items: list[dict[str, Any]] = []
    n_bytes = 0
    stage("drawing large pictures")
    for item in _drawn(detector, results, order):
        size = len(json.dumps(item))
        if n_bytes + size > budget:
            break
        n_bytes += size
        items.append(item)
        stage("drawing large pictures", len(items))
    grows = width > detector.image_format.width
    return Views(width, height, grows, items, order[: len(items)].tolist(), n_bytes)


def _drawn(detector: Detector, results: Results, order: NDArray[np.int64]) -> Iterator[dict[str, Any]]:
    find = partial(find_regions, threshold=detector.map_threshold, map_maxima=detector.map_maxima)
    suspect = results.scores.verdict != NORMAL
    for start in range(0, len(order), AT_ONCE):
        indices = order[start : start + AT_ONCE]
        images = results.images[indices]
        pixels, maps = to_unit_range(images.images).numpy(), detector.anomaly_map(images.images)
        sizes = images.sizes or [detector.image_format.size] * len(images)
        of_each = zip(indices.tolist(), pixels, maps, sizes, strict=True)
        for number, (i, image, anomaly_map, size) in enumerate(of_each):
            is_suspect = bool(suspect[i])
            regions = find(anomaly_map, image, size=size) if is_suspect else []
            yield {
                "name": printable(results.images.names[i]),
                "said": f"score {results.scores.anomaly_score[i]:.2f}, p {results.scores.p_value[i]:.3g}",
                "image": _file(in_colour(images.reader(number)()), LARGEST_ORIGINAL)
                if is_suspect
                else _file(rgb(image), LONGEST),
                "map": _layer(anomaly_map * is_suspect, detector.map_threshold),
                "size": size,
                "regions": [(r.x, r.y, r.width, r.height, f"{r.reason}; p {r.p_value:.3g}") for r in regions],
                "n_regions": regions[0].n_regions if regions else 0,
            }


def _layer(anomaly_map: NDArray[np.float32], threshold: float) -> str:
    """What lies over the image: the map's colours, transparent where nothing is unusual."""
    small = np.asarray(_at_most(Image.fromarray(anomaly_map), LAYER))
    colour, opacity = heat(small, threshold)
    return _file(np.dstack([colour, 255 * opacity]).round().astype(np.uint8), LAYER)


def _file(picture: NDArray[np.uint8], longest: int) -> str:
    """Base64 of a picture's WebP file; small ones keep every pixel."""
    pixels = np.asarray(_at_most(Image.fromarray(picture), longest))
    return base64.b64encode(encoded(pixels, lossless=max(picture.shape) <= LARGEST)).decode()


def _at_most(picture: Image.Image, longest: int) -> Image.Image:
    """A picture whose longer side is not longer."""
    scale = min(1.0, longest / max(picture.size))
    width, height = (max(1, round(side * scale)) for side in picture.size)
    return picture if scale == 1 else picture.resize((width, height), Image.Resampling.BOX)
