"""A look at images before anything is trained on them: counts, sizes, duplicates, broken files, what to be wary of."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from alocc.calibration import images_needed, smallest_alpha_text
from alocc.config import LARGEST, preset
from alocc.data.entries import Skipped
from alocc.data.images import ImageFormat, to_unit_range
from alocc.data.reading import BATCH
from alocc.data.sources import Source, check_strict
from alocc.data.splits import MIN_IMAGES

LIKELY = ("good", "ok", "normal")
"""Names that normal images have in many sets."""
SEEN = 4
"""Pixels at the working size, across, that a fault must have to be seen at all."""
SHRUNK_FROM = 1.5
"""Times that images are larger than the working size, from which that is worth a warning."""
THUMBNAIL, ALIKE = 16, 0.7
"""Side of a grey thumbnail, and root mean square difference of two, in grey levels, up to which they are duplicates."""
SHEET_IMAGES, SHEET_WIDTH, SHEET_SIDE, SHEET_GAP = 200, 1360, 64, 4
"""The contact sheet: images at most, evenly spread; its width in pixels; side of a square image; pixels between two."""
BLOCK = 4
"""Side of the blocks of a thumbnail whose means are compared first: 50 times as fast."""
NEIGHBOURS = 8
"""Images nearest to each that are compared with it, so that memory stays bounded where all are alike."""


@dataclass(frozen=True)
class Inspection:
    """What was found."""

    n_images: int
    image_format: ImageFormat  # what training would bring the images to
    classes: dict[str, int]
    sizes: dict[str, int]  # width×height → how many, the most frequent first
    types: dict[str, int]  # grey or colour, as the files say
    duplicates: Sequence[Sequence[str]]  # groups of images that are the same but for noise and compression
    flat: Sequence[str]  # images of a single grey or colour
    skipped: Sequence[Skipped]
    warnings: Sequence[str]


def inspect(
    source: Source, progress: Callable[[int], None] | None = None, strict: bool = False
) -> tuple[Inspection, Image.Image | None]:
    """Read all images once, in bounded memory: what was found, and a contact sheet, none if no image can be used.

    A DataError if not one file can be read as an image, or, if strict, if one cannot be used.
    """
    headers = source.headers()
    image_format = source.infer_format(preset("robust").images)
    names: list[str] = []
    classes: Counter[str] = Counter()
    skipped: list[Skipped] = []
    flat: list[str] = []
    thumbnails: list[Tensor] = []
    pictures: list[Image.Image] = []
    every = max(1, len(source) // SHEET_IMAGES)
    for batch in source.batches(image_format):
        check_strict(strict, batch.skipped)
        skipped += batch.skipped
        if not len(batch):
            continue
        x = to_unit_range(batch.images)
        flat += [batch.names[i] for i in torch.nonzero(_is_flat(x))[:, 0]]
        thumbnails.append(_thumbnails(x))
        sizes_of = batch.sizes or [image_format.size] * len(x)
        pictures += [_picture(x[i], sizes_of[i], image_format) for i in range(len(x)) if (len(names) + i) % every == 0]
        del pictures[SHEET_IMAGES:]  # a batch may bring more than are missing
        names += batch.names
        classes.update(batch.classes.tolist())
        if progress:
            progress(len(batch))
    duplicates = _duplicates(names, torch.cat(thumbnails), set(flat)) if thumbnails else []
    sizes = Counter(f"{header.width}×{header.height}" for header in headers)
    types = Counter("grey" if header.grey else "colour" for header in headers)
    found = Inspection(
        len(names), image_format, dict(classes), dict(sizes.most_common()), dict(types), duplicates, flat, skipped, ()
    )
    warnings = _warnings(found, round(float(np.median([max(header[:2]) for header in headers]))))
    return replace(found, warnings=warnings), _contact_sheet(pictures) if pictures else None


def duplicates(names: Sequence[str], images: Tensor) -> list[list[str]]:
    """Groups of images (n, C, H, W), uint8 or float32 in [0, 1], that are the same but for noise and compression."""
    thumbnails, flat = [], []
    for few in torch.split(images, BATCH):
        x = to_unit_range(few)
        thumbnails.append(_thumbnails(x))
        flat.append(_is_flat(x))
    left_out = {names[i] for i in torch.nonzero(torch.cat(flat))[:, 0]} if flat else set()
    return _duplicates(names, torch.cat(thumbnails), left_out) if thumbnails else []


def _warnings(found: Inspection, large: int) -> list[str]:
    """What to be wary of; ``large`` is the longer side of most images."""
    n_duplicates = sum(len(group) - 1 for group in found.duplicates)
    named = [name for name in found.classes if name]
    likely = next((name for name in named if name in LIKELY), named[0] if named else "")
    n, side = found.n_images, max(found.image_format.size)
    warnings = [
        (n < MIN_IMAGES, f"only {n} images: at least {MIN_IMAGES} are needed to train"),
        (MIN_IMAGES <= n < images_needed(None), f"only {n} images: alpha can be {smallest_alpha_text(n)} at best"),
        (large > SHRUNK_FROM * side, f"images of about {large} pixels a side are brought to "
         f"{found.image_format}, where faults of less than {round(SEEN * large / side)} vanish; "
         f"--set images.longest={LARGEST} sees those of {round(SEEN * max(1, large / LARGEST))} at best"),
        (len(named) > 1, f"{len(named)} classes: say which are normal (--normal {likely})"),
        (len(named) >= 1 and "" in found.classes, f"{found.classes.get('', 0)} images lie beside the class folders"),
        (len(found.types) > 1, "grey and colour images are mixed: whether an image has colour will tell them apart"),
        (len(found.sizes) > 1, f"{len(found.sizes)} sizes: all are stretched to {found.image_format} (width × height)"),
        (n_duplicates > 0, f"{n_duplicates} images are duplicates: a threshold from images that train is too low"),
        (len(found.flat) > 0, f"{len(found.flat)} images show nothing but one grey or colour"),
        (len(found.skipped) > 0, f"{len(found.skipped)} images cannot be used"),
    ]  # fmt: skip
    return [warning for holds, warning in warnings if holds]


def _is_flat(x: Tensor) -> Tensor:
    """Images in which nothing is to be seen, (n,)."""
    return x.flatten(1).std(1) < 0.01


def _thumbnails(x: Tensor) -> Tensor:
    """Grey, 16×16, uint8: (n, 256)."""
    small = F.interpolate(x.mean(1, keepdim=True), size=(THUMBNAIL, THUMBNAIL), mode="bilinear", antialias=True)
    return (small.flatten(1) * 255).round().to(torch.uint8)


def _duplicates(names: Sequence[str], thumbnails: Tensor, left_out: set[str]) -> list[list[str]]:
    """Groups of images whose thumbnails are alike, directly or from one to the next."""
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components
    from scipy.spatial import cKDTree

    kept = np.array([i for i, name in enumerate(names) if name not in left_out], dtype=np.int64)
    if len(kept) < 2:
        return []
    points = thumbnails.numpy()[kept].astype(np.float32)
    blocks = points.reshape(-1, THUMBNAIL // BLOCK, BLOCK, THUMBNAIL // BLOCK, BLOCK).sum((2, 4)).reshape(len(kept), -1)
    # of two images the blocks' means, weighted like this, never differ more than the thumbnails
    tree, furthest = cKDTree(blocks / BLOCK), ALIKE * THUMBNAIL
    found = []
    for few in np.array_split(np.arange(len(kept)), -(-len(kept) // 1_000)):
        near = tree.query(tree.data[few], k=NEIGHBOURS + 1, distance_upper_bound=np.nextafter(furthest, np.inf))[1]
        pairs = np.stack([np.repeat(few, near.shape[1]), near.ravel()], 1)
        pairs = pairs[(pairs[:, 1] < len(kept)) & (pairs[:, 1] != pairs[:, 0])]  # beyond: no image is as near
        found.append(pairs[np.linalg.norm(points[pairs[:, 0]] - points[pairs[:, 1]], axis=1) <= furthest])
    pairs = np.concatenate(found)
    graph = coo_matrix((np.ones(len(pairs)), (pairs[:, 0], pairs[:, 1])), shape=(len(kept), len(kept)))
    groups: dict[int, list[str]] = {}
    for i, label in zip(kept, connected_components(graph, directed=False)[1], strict=True):
        groups.setdefault(int(label), []).append(names[i])
    return [group for group in groups.values() if len(group) > 1]


def _picture(x: Tensor, size: tuple[int, int], usual: ImageFormat) -> Image.Image:
    """(C, H, W) small, so that many take little memory, with the aspect of its own size, height and width.

    All pictures are of one height, at which one of the usual aspect has as many pixels as a square one would.
    """
    pixels = (x.expand(3, -1, -1).permute(1, 2, 0) * 255).round().to(torch.uint8).numpy()
    height = round(SHEET_SIDE * math.sqrt(usual.height / usual.width))
    width = min(SHEET_WIDTH, max(1, round(height * size[1] / size[0])))
    return Image.fromarray(pixels).resize((width, height))


def _contact_sheet(pictures: Sequence[Image.Image]) -> Image.Image:
    """Pictures of one height, in rows."""
    places, left, row, step = [], 0, 0, pictures[0].height + SHEET_GAP
    for picture in pictures:
        if left and left + picture.width > SHEET_WIDTH:
            left, row = 0, row + 1
        places.append((left, row * step))
        left += picture.width + SHEET_GAP
    sheet = Image.new("RGB", (SHEET_WIDTH, (row + 1) * step), "white")
    for picture, place in zip(pictures, places, strict=True):
        sheet.paste(picture, place)
    return sheet
