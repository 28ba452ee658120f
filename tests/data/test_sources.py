"""What a data argument means: folders, files, built-in data and arrays."""

import numpy as np
import pytest
import torch

from alocc.config import ImagesConfig
from alocc.data import mnist
from alocc.data.images import ImageFormat
from alocc.data.sources import ArraySource, ImageSet, Skipped, known_classes, open_normals, open_source
from alocc.errors import DataError

OPEN = ImagesConfig()


@pytest.fixture
def folder(tmp_path, save_image):
    """Classes a and b, the latter with a sub-folder of its own, and every kind of file that is no image."""
    for i, name in enumerate(["a/2.png", "a/1.PNG", "b/deep/er/3.png", "b/4.png", ".hidden/5.png", "a/.6.png"]):
        save_image(np.full((20, 20), i, np.uint8), name)
    (tmp_path / "a" / "notes.txt").write_text("no image")
    return tmp_path


def names_of(images, root):
    return [str(name).removeprefix(f"{root}/") for name in images.names]


def test_class_is_the_first_sub_folder_and_hidden_files_are_passed_over(folder):
    source = open_source(folder, "train")
    images = source.load(ImageFormat(20, 20, 1))
    assert source.class_names == ("a", "b")
    assert names_of(images, folder) == ["a/1.PNG", "a/2.png", "b/4.png", "b/deep/er/3.png"]
    assert images.classes.tolist() == ["a", "a", "b", "b"]
    assert images.images[:, 0, 0, 0].tolist() == [1, 0, 3, 2]
    assert images.skipped == ()


def test_only_asked_classes_are_loaded(folder):
    source = open_source(str(folder), "train", ["b"])
    images = source.load(ImageFormat(20, 20, 1))
    assert set(images.classes) == {"b"}
    assert len(images) == 2


def test_single_file_is_a_source_without_classes(folder):
    source = open_source(folder / "a" / "2.png", "test")
    assert source.class_names == ()
    assert source.load(ImageFormat(20, 20, 1)).classes.tolist() == [""]


def test_images_beside_sub_folders_have_no_class(folder, save_image):
    save_image(np.zeros((20, 20), np.uint8), "top.png")
    source = open_source(folder, "train")
    assert source.class_names == ("a", "b")
    assert source.load(ImageFormat(20, 20, 1)).classes.tolist()[0] == ""


def test_bad_image_among_many_is_skipped_and_named(folder):
    bad = folder / "a" / "bad.png"
    bad.write_bytes((folder / "a" / "2.png").read_bytes()[:50])
    source = open_source(folder, "train")
    assert source.infer_format(OPEN) == ImageFormat(20, 20, 1)
    images = source.load(ImageFormat(20, 20, 1))
    assert len(images) == len(images.names) == len(images.classes) == 4
    (skipped,) = images.skipped
    assert skipped.name == str(bad)
    assert str(bad) in skipped.reason


def test_folder_of_bad_images_only_is_refused(tmp_path):
    for i in range(3):
        (tmp_path / f"{i}.png").write_text("no pixels")
    source = open_source(tmp_path, "train")
    with pytest.raises(DataError, match=r"none of the 3 files"):
        source.infer_format(OPEN)
    with pytest.raises(DataError, match=r"none of the 3 images can be used; the first: .*0\.png"):
        source.load(ImageFormat(16, 16, 1))


def test_folder_without_images_is_refused(tmp_path):
    (tmp_path / "notes.txt").write_text("no image")
    with pytest.raises(DataError, match=r"holds no image files \(\.bmp"):
        open_source(tmp_path, "train")


def test_unknown_class_gets_the_nearest_name(save_image, tmp_path):
    save_image(np.zeros((4, 4), np.uint8), "good/1.png")
    save_image(np.zeros((4, 4), np.uint8), "scratch/1.png")
    with pytest.raises(DataError, match=r'no class "scratched"; did you mean "scratch"\? its classes are: good, scr'):
        open_source(tmp_path, "train", ["good", "scratched"])
    with pytest.raises(DataError, match=r'mnist has no class "11"'):
        open_source("mnist", "test", ["11"])


def test_class_of_a_flat_folder_is_refused(save_image, tmp_path):
    save_image(np.zeros((4, 4), np.uint8), "1.png")
    with pytest.raises(DataError, match=r'no class "good"; it has no classes'):
        open_source(tmp_path, "train", ["good"])


def test_no_classes_are_not_all_classes(save_image, tmp_path):
    save_image(np.zeros((4, 4), np.uint8), "good/1.png")
    for data in (tmp_path, "mnist"):
        with pytest.raises(DataError, match="no class is named"):
            open_source(data, "test", [])


def values_of(source):
    return source.load(ImageFormat(20, 20, 1)).images[:, 0, 0, 0].tolist()


def test_normal_images_are_those_asked_for_else_of_the_training_else_all(folder, save_image):
    assert values_of(open_normals(folder, "train", ["a"], ["b"])) == [1, 0]
    assert values_of(open_normals(folder, "train", None, ["b"])) == [3, 2]
    assert values_of(open_normals(folder / "a", "train", None, ["b"])) == [1, 0]
    assert values_of(open_normals(folder, "test", ["b", "a"])) == [1, 0, 3, 2]
    with pytest.raises(DataError, match=r"say which classes are normal, with --normal; its classes are: a, b$"):
        open_normals(folder, "train")
    with pytest.raises(DataError, match=r'no class "c"'):
        open_normals(folder, "train", None, ["c"])
    array = np.zeros((3, 20, 20), np.uint8)
    assert len(open_normals(array, "train", None, ["a"])) == 3


def test_one_class_is_normal_unless_there_are_images_without_a_class(save_image, tmp_path):
    for i in range(3):
        save_image(np.full((20, 20), i, np.uint8), f"scratch/{i}.png")
    assert values_of(open_normals(tmp_path, "train")) == [0, 1, 2]
    for i in range(2):
        save_image(np.full((20, 20), i, np.uint8), f"{i}.png")
    with pytest.raises(DataError, match=r"its classes are: scratch; 2 images have none"):
        open_normals(tmp_path, "train")
    assert values_of(open_normals(f"{tmp_path}/*.png", "train")) == [0, 1]


def test_built_in_data_are_not_loaded_before_it_is_known_what_for(monkeypatch, tmp_path):
    monkeypatch.setattr(mnist, "MIRRORS", ())
    monkeypatch.setattr(mnist, "cache_folder", lambda: tmp_path)
    monkeypatch.delenv("ALOCC_DATA", raising=False)
    assert len(open_normals("mnist", "train", None, ["1"])) == len(open_normals("mnist", "train", ["1"])) == 6_742
    with pytest.raises(DataError, match=r"say which classes are normal, with --normal; its classes are: 0, 1, 2"):
        open_normals("mnist", "train")
    assert known_classes("mnist", "train") == tuple("0123456789")
    with pytest.raises(DataError, match=r"cannot be downloaded"):
        open_normals("mnist", "train", None, ["7"])


def test_empty_data_is_not_the_working_directory(monkeypatch, folder):
    monkeypatch.chdir(folder)
    with pytest.raises(DataError, match="DATA is empty"):
        open_source("", "train")
    assert len(open_source(".", "train")) == 4


def test_unknown_data_gets_the_nearest_name(tmp_path):
    with pytest.raises(DataError, match=r'minst does not exist; did you mean "mnist"\?'):
        open_source("minst", "train")
    with pytest.raises(
        DataError,
        match=r"give a folder, an image, a pattern .*, an archive .*, an address .* or mnist$",
    ):
        open_source(tmp_path / "pictures", "train")


def test_format_is_the_median_size(save_image, tmp_path):
    for i, (height, width) in enumerate([(20, 30), (24, 36), (64, 17)]):
        save_image(np.zeros((height, width), np.uint8), f"{i}.png")
    assert open_source(tmp_path, "train").infer_format(OPEN) == ImageFormat(24, 30, 1)


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ((64, 64), (64, 64)),
        ((28, 28), (28, 28)),
        ((128, 64), (64, 32)),
        ((300, 400), (48, 64)),
        ((8, 8), (16, 16)),
        ((8, 12), (16, 24)),
        ((100, 10), (160, 16)),  # both limits cannot hold: the shorter side is kept usable
    ],
)
def test_format_is_capped_to_64_and_at_least_16(size, expected):
    assert open_source(np.zeros((3, *size), np.uint8), "train").infer_format(OPEN).size == expected


def test_grey_pixels_in_rgb_files_give_one_channel(save_image, tmp_path):
    grey = np.repeat(np.arange(256, dtype=np.uint8).reshape(16, 16, 1), 3, axis=2)
    for i in range(3):
        save_image(grey, f"{i}.png")
    assert open_source(tmp_path, "train").infer_format(OPEN).channels == 1
    grey[3, 4, 0] += 1
    save_image(grey, "2.png")
    assert open_source(tmp_path, "train").infer_format(OPEN).channels == 3


def test_wanted_size_and_channels_win(save_image, tmp_path):
    save_image(np.zeros((20, 20), np.uint8), "1.png")
    wanted = ImagesConfig(size=(32, 40), channels=3)
    assert open_source(tmp_path, "train").infer_format(wanted) == ImageFormat(32, 40, 3)
    assert open_source(np.zeros((2, 20, 20)), "train").infer_format(wanted) == ImageFormat(32, 40, 3)


def test_array_is_a_source_named_by_index():
    array = np.random.default_rng(0).integers(0, 256, (3, 16, 18, 3), dtype=np.uint8)
    source = open_source(array, "train")
    assert source.infer_format(OPEN) == ImageFormat(16, 18, 3)
    images = source.load(ImageFormat(16, 18, 3))
    assert images.names == ["0", "1", "2"]
    assert images.classes.tolist() == ["", "", ""]
    np.testing.assert_array_equal(images.images.numpy(), array.transpose(0, 3, 1, 2))


def test_array_and_folder_of_its_images_are_loaded_alike(save_image, tmp_path):
    array = np.random.default_rng(0).integers(0, 256, (4, 30, 22), dtype=np.uint8)
    for i, image in enumerate(array):
        save_image(image, f"{i}.png")
    to = ImageFormat(16, 16, 3)
    from_folder = open_source(tmp_path, "train").load(to)
    assert torch.equal(from_folder.images, open_source(array, "train").load(to).images)


@pytest.mark.parametrize(
    ("shape", "told"),
    [
        ((), r"\(\) holds no images; images are \(n, H, W\)"),
        ((5,), r"\(5,\) holds no images"),
        ((5, 8), r"\(5, 8\) looks like one image; give image\[None\]"),
        ((5, 8, 3), r"\(5, 8, 3\) looks like one image"),
        ((5, 0, 8), r"\(5, 0, 8\) holds no images"),
        ((5, 8, 8, 2), r"\(5, 8, 8, 2\) holds no images"),
        ((5, 3, 8, 8), r"\(5, 3, 8, 8\) holds no images.*; channels come last"),
    ],
    ids=str,
)
def test_array_of_another_shape_is_a_data_error(shape, told):
    with pytest.raises(DataError, match=told):
        source = open_source(np.zeros(shape), "train")
        source.load(source.infer_format(OPEN))


def test_classes_of_an_array_are_refused():
    with pytest.raises(DataError, match=r"class"):
        open_source(np.zeros((4, 16, 16)), "train", ["1"])


def test_built_in_data_have_classes_and_stable_names():
    source = open_source("mnist", "test", ["7", "0"])
    images = source.load(ImageFormat(28, 28, 1))
    assert source.class_names == ("0", "7")
    assert len(images) == 980 + 1028
    assert images.names[:3] == ["mnist/test/7/0", "mnist/test/0/0", "mnist/test/0/1"]
    alone = open_source("mnist", "test", ["0"]).load(ImageFormat(28, 28, 1))
    assert set(alone.names) < set(images.names)
    assert torch.equal(alone.images, images[images.classes == "0"].images)


def test_part_of_a_set_is_taken_by_mask_or_indices():
    images = ImageSet(
        torch.arange(4).view(4, 1, 1, 1), ["a", "b", "c", "d"], np.array(["x", "y", "x", "y"]), (Skipped("e", "bad"),)
    )
    by_mask, by_index = images[np.array([True, False, False, True])], images[np.array([0, 3])]
    for part in (by_mask, by_index):
        assert part.images.flatten().tolist() == [0, 3]
        assert part.names == ["a", "d"]
        assert part.classes.tolist() == ["x", "y"]
        assert part.skipped == images.skipped


def test_source_of_an_array_lists_classes_once():
    source = ArraySource(np.zeros((3, 16, 16)), np.array(["b", "", "b"]))
    assert source.class_names == ("b",)


def test_a_large_npy_file_is_read_in_parts_and_its_names_are_made_when_asked_for(tmp_path):
    images = np.arange(600 * 16, dtype=np.uint32).astype(np.uint8).reshape(600, 4, 4)
    np.save(tmp_path / "many.npy", images)
    source = open_source(tmp_path / "many.npy", "test")
    batches = list(source.batches(ImageFormat(4, 4, 1)))
    assert len(batches) > 1
    np.testing.assert_array_equal(torch.cat([batch.images for batch in batches])[:, 0], images)
    assert [name for batch in batches for name in batch.names] == [f"{tmp_path}/many.npy#{i}" for i in range(600)]
