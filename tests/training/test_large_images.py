"""The preset for photographs: cells see all pixels, networks see thumbnails, from training to an exported file."""

import numpy as np
import pytest
import torch
from PIL import Image

import alocc
from alocc.config import preset, with_settings
from alocc.data.frame import Frame
from alocc.data.resizing import ImageFormat
from alocc.detector import Detector
from alocc.export import export
from alocc.parts.part import Normals
from alocc.runtime import Runtime
from alocc.scorer import Scorer

SIZE = (130, 170)


@pytest.fixture(scope="module")
def detector(plates):
    config = with_settings(preset("robust"), ["networks.width=4"])
    return alocc.train(plates(60, 0), config=config, iterations=10)


@pytest.mark.slow
def test_networks_see_thumbnails_and_cells_all_pixels(detector, plates):
    assert detector.image_format == ImageFormat(*SIZE, 1)
    assert detector.scorer.frame.thumbnail_format == ImageFormat(49, 64, 1)
    assert detector.scorer.parts["cells"].image_format == detector.image_format
    noisy, x_hat = detector.reconstruct(plates(3, 1))
    assert noisy.shape == x_hat.shape == (3, 1, *SIZE)


@pytest.mark.slow
def test_small_faults_are_found_where_they_are(detector, plates, with_pits):
    fresh = plates(30, 1)
    normal, faulty = detector.score(fresh), detector.score(with_pits(fresh), maps=True)
    assert (faulty.anomaly_score[:, None] > normal.anomaly_score).mean() > 0.99
    row, column = np.unravel_index(faulty.anomaly_map.reshape(30, -1).argmax(1), SIZE)
    assert np.median(np.abs(row - 100)) < 12 and np.median(np.abs(column - 124)) < 12
    weights = detector.scorer.fusion.weights
    assert weights["cells"] > weights["d"]  # D was hardly trained: it sees none of the planted faults


@pytest.mark.slow
def test_evaluate_names_the_preset_for_photographs_where_much_is_missed(alocc, detector, tmp_path, plates, with_pits):
    detector.save(tmp_path / "d.safetensors")
    for name, images in (("good", plates(6, 3)), ("same", plates(6, 4)), ("pits", with_pits(plates(6, 5)))):
        (tmp_path / "set" / name).mkdir(parents=True)
        for i, image in enumerate(images):
            Image.fromarray(image).save(tmp_path / "set" / name / f"{i}.png")
    words = ["evaluate", tmp_path / "d.safetensors", tmp_path / "set", "--normal", "good", "--anomalous"]
    assert "alocc train --preset features usually finds more" in alocc(*words, "same")
    assert "--preset features" not in alocc(*words, "pits")  # all are found


@pytest.mark.slow
def test_an_image_alone_gets_the_same_score_here_saved_and_exported(detector, tmp_path, plates, with_pits):
    images = with_pits(plates(7, 2))
    together = detector.score(images).anomaly_score
    assert together.tolist() == [float(detector.score(image[None]).anomaly_score[0]) for image in images]
    detector.save(tmp_path / "model.safetensors")
    assert np.array_equal(Detector.load(tmp_path / "model.safetensors").score(images).anomaly_score, together)
    export(detector, tmp_path / "model.onnx")
    exported = Runtime(tmp_path / "model.onnx").score(images).anomaly_score
    np.testing.assert_allclose(exported, together, rtol=1e-4, atol=1e-4)


@pytest.mark.slow
def test_small_images_are_judged_without_cells_and_large_ones_mapped_by_them_alone(detector):
    images = np.random.default_rng(0).integers(0, 200, (40, 16, 16), dtype=np.uint8)
    settings = ["networks.width=4", "training.places.iterations=2"]
    small = alocc.train(images, config=with_settings(preset("robust"), settings), iterations=4)
    assert "cells" not in small.config.scoring and small.config.maps == preset("robust").maps
    assert detector.config.scoring == preset("robust").scoring and set(detector.config.maps) == {"cells"}
    by_scene = alocc.train(images, config="features", iterations=2)
    assert set(by_scene.config.scoring) == {"scene"} and set(by_scene.config.maps) == {"features"}


@pytest.mark.slow
@pytest.mark.parametrize("zones", [False, True])
def test_zones_or_one_gaussian_an_exported_file_takes_any_number_of_images(detector, tmp_path, plates, zones):
    cells = detector.scorer.parts["cells"]
    kept = {name: value.clone() for name, value in cells.state_dict().items()}
    normals = Normals(torch.from_numpy(plates(30, 3))[:, None])
    with torch.no_grad():
        cells._learn(cells._moments(normals, zones), zones)
        export(detector, tmp_path / "model.onnx")
        cells.whitening = kept["whitening"]
        cells.load_state_dict(kept)
    runtime = Runtime(tmp_path / "model.onnx")
    assert [len(runtime.score(plates(n, 4)).anomaly_score) for n in (1, 2, 5)] == [1, 2, 5]


@pytest.mark.parametrize(("size", "n"), [((65, 66), 16), ((100, 120), 8), ((150, 200), 4), ((300, 300), 1)])
def test_large_images_are_computed_with_few_at_a_time(size, n):
    """Numbers in which the last image is computed as the others are: 1 and multiples of 4."""
    assert Frame(ImageFormat(*size, 1), thumbnail=64).batch_size == n
    assert Frame(ImageFormat(64, 64, 1), thumbnail=64).batch_size == 64


def test_a_map_lies_on_its_image_where_cells_reach_beyond_it():
    """130×170: 17 rows of 8 cover 136 pixels. The place of rows 120 to 127 is around row 124, not 124 · 130 / 136."""
    frame = Frame(ImageFormat(*SIZE, 1), thumbnail=64)
    assert (frame.grid, frame.covered) == ((17, 22), (136, 176))
    scorer = Scorer(preset("robust"), frame)
    scorer.map_fusion.forward = lambda evidence: evidence["grid"]
    grid = torch.zeros((1, 17, 22))
    grid[0, 15, 20] = 1
    found = scorer.anomaly_map({"grid": grid})[0, 0]
    assert found.shape == SIZE
    rows, columns = torch.nonzero(found > 0.9 * found.max(), as_tuple=True)
    assert rows.float().mean() == 123.5 and columns.float().mean() == 163.5
    assert Frame(ImageFormat(28, 28, 1), thumbnail=64).covered == (28, 28)
