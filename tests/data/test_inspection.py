"""A look before training, on folders with something wrong."""

import numpy as np
import pytest

from alocc.data.images import ImageFormat
from alocc.data.inspection import inspect
from alocc.data.sources import open_source
from alocc.errors import DataError


def texture(seed, side=24):
    return np.random.default_rng(seed).integers(0, 255, (side, side), dtype=np.uint8)


def test_what_is_wrong_is_named(tmp_path, save_image):
    for i in range(6):
        save_image(texture(i), f"good/{i}.png")
    again = texture(2) ^ np.random.default_rng(9).integers(0, 2, (24, 24), dtype=np.uint8)  # noise of one grey level
    save_image(again, "good/again.png")
    save_image(np.full((24, 24), 7, np.uint8), "good/flat.png")
    save_image(np.stack([texture(7, 30)] * 2 + [texture(8, 30)], -1), "bent/colour.png")
    (tmp_path / "bent" / "broken.png").write_bytes(b"nothing")
    found, sheet = inspect(open_source(tmp_path, "train"))
    assert found.n_images == 9
    assert found.classes == {"good": 8, "bent": 1}
    assert found.sizes == {"24×24": 8, "30×30": 1} and found.types == {"grey": 8, "colour": 1}
    assert found.image_format == ImageFormat(24, 24, 3)
    assert found.duplicates == [[f"{tmp_path}/good/2.png", f"{tmp_path}/good/again.png"]]
    assert found.flat == [f"{tmp_path}/good/flat.png"]
    assert [item.name for item in found.skipped] == [f"{tmp_path}/bent/broken.png"]
    warnings = " ".join(found.warnings)
    for word in (
        "only 9 images",
        "2 classes: say which are normal (--normal good)",
        "mixed",
        "2 sizes",
        "1 images are duplicates",
        "1 images show",
        "1 images cannot",
    ):
        assert word in warnings
    assert sheet.size == (20 * 68, 68)


def test_good_images_raise_no_warning(tmp_path):
    np.save(tmp_path / "x.npy", np.stack([texture(i) for i in range(120)]))
    found, _ = inspect(open_source(tmp_path / "x.npy", "train"))
    assert (found.warnings, found.duplicates, found.n_images) == ([], [], 120)


def test_nothing_that_can_be_read_is_refused(tmp_path):
    (tmp_path / "a.png").write_bytes(b"no")
    with pytest.raises(DataError, match=r"a\.png is not a PNG"):
        inspect(open_source(tmp_path, "train"))


def test_few_images_are_warned_of_with_the_alpha_that_they_support(tmp_path):
    np.save(tmp_path / "x.npy", np.stack([texture(i) for i in range(98)]))
    found, _ = inspect(open_source(tmp_path / "x.npy", "train"))
    assert found.warnings == ["only 98 images: alpha can be 0.0102 at best"]
    np.save(tmp_path / "x.npy", np.stack([texture(i) for i in range(99)]))
    assert inspect(open_source(tmp_path / "x.npy", "train"))[0].warnings == []


def test_a_size_is_proposed_where_images_would_be_shrunk(tmp_path):
    """2,048 pixels become 448: a fault of 4 there has 18 before; at 1,024 it has 8."""
    rng = np.random.default_rng(0)
    np.save(tmp_path / "x.npy", rng.integers(0, 255, (20, 2048, 320), dtype=np.uint8))
    *_, warning = inspect(open_source(tmp_path / "x.npy", "train"))[0].warnings
    assert "faults of less than 18 vanish" in warning
    assert "--set images.longest=1024 sees those of 8 at best" in warning
