"""Parts of a score without networks, as the tests of this folder use them."""

import pytest
import torch

from alocc.config import preset
from alocc.data.resizing import ImageFormat
from alocc.parts import PARTS, STATISTICS
from alocc.parts.part import Normals, View


class Statistics:
    """The parts that need no network, by name; called with images, it gives what each says of them."""

    def __init__(self, channels, size):
        config = preset("robust")
        self.parts = {name: PARTS[name](ImageFormat(*size, channels), config) for name in STATISTICS}

    def fit(self, images):
        normals = Normals(images)
        with torch.no_grad():
            for part in self.parts.values():
                part.fit(normals)
        return self

    def __getitem__(self, name):
        return self.parts[name]

    def __call__(self, x):
        view = View(x, x, ())
        with torch.no_grad():
            return {name: part(view).image for name, part in self.parts.items()}


@pytest.fixture
def statistics():
    """``statistics(images)``: all parts that need no network, fitted to images (n, C, H, W)."""

    def fitted(images):
        return Statistics(images.shape[1], tuple(images.shape[2:])).fit(images)

    return fitted
