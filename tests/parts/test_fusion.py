"""Evidence of several parts → one number, by hand."""

import math

import pytest
import torch
from torch import nn

from alocc.config import preset
from alocc.data.frame import GRID
from alocc.data.resizing import ImageFormat
from alocc.parts import PARTS
from alocc.parts.fusion import OWN_PLACE_FROM, Fusion, Scale
from alocc.parts.part import at_full_size
from alocc.parts.reconstruction import Mse

FLOOR = Mse.floor


def fusion_of(weights, of_places=False):
    """A fusion of parts that give evidence as it is ("d", "e") or an error ("mse")."""
    kinds = {"d": "d", "e": "d", "mse": "mse", "places": "places"}
    config = preset("robust")
    parts = nn.ModuleDict({name: PARTS[kinds[name]](ImageFormat(20, 20, 1), config) for name in weights})
    return Fusion(weights, parts, (GRID, GRID) if of_places else None)


def fitted(weights, evidence):
    fusion = fusion_of(weights)
    fusion.fit(evidence)
    return fusion


def evidence_of(**values):
    return {name: torch.tensor(value, dtype=torch.float64) for name, value in values.items()}


def test_a_score_is_the_root_of_the_weighted_mean_of_signed_squares():
    # d: mean 2, deviation 1. mse: logarithms 0, 1, 2, 3 of the error and its floor: mean 1.5, deviation √1.25
    fusion = fitted({"d": 3.0, "mse": 1.0}, evidence_of(d=[1, 1, 3, 3], mse=[math.exp(k) - FLOOR for k in range(4)]))
    assert {name: float(scale.mean) for name, scale in fusion.scales.items()} == pytest.approx({"d": 2.0, "mse": 1.5})
    deviations = {name: float(scale.deviation) for name, scale in fusion.scales.items()}
    assert deviations == pytest.approx({"d": 1.0, "mse": math.sqrt(1.25)})
    score = fusion(evidence_of(d=[5, 2], mse=[math.exp(4) - FLOOR, 0.0]))
    above = math.sqrt((3 * 3**2 + 2.5**2 / 1.25) / 4)
    below = -math.sqrt((math.log(FLOOR) - 1.5) ** 2 / 1.25 / 4)
    assert score.dtype == torch.float64
    assert score.tolist() == pytest.approx([above, below])


def test_weights_are_not_squared_and_signs_are_kept():
    fusion = fusion_of({"d": 3.0, "e": 1.0})  # not fitted: mean 0, deviation 1
    score = fusion(evidence_of(d=[2, -2, 1, -1, 0], e=[0, 0, -2, 2, 0]))
    # 3 · 2² / 4 = 3; weights squared would give 9 · 4 / 10
    expected = [math.sqrt(3), -math.sqrt(3), -math.sqrt((4 - 3) / 4), math.sqrt((4 - 3) / 4), 0]
    assert score.tolist() == pytest.approx(expected)


def test_other_weights_take_the_place_of_the_first():
    fusion = fusion_of({"d": 3.0, "e": 1.0})
    assert fusion.weights == {"d": 3.0, "e": 1.0}
    fusion.reweigh({"d": 0.0, "e": 0.5})
    assert fusion.weights == {"d": 0.0, "e": 0.5}
    assert fusion(evidence_of(d=[7], e=[-2])).tolist() == [-2.0]


def test_one_part_alone_is_standardised_on_held_out_images():
    normal = {"mse": torch.rand(50, generator=torch.Generator().manual_seed(0)).double()}
    alone = fitted({"mse": 5.0}, normal)
    z = alone.scales["mse"](normal["mse"])
    assert float(z.mean()) == pytest.approx(0, abs=1e-12)
    assert float(z.std(correction=0)) == pytest.approx(1)
    torch.testing.assert_close(alone(normal), z)  # signed root of the signed square


def test_one_part_far_out_counts_more_than_two_a_little_out():
    fusion = fitted({"d": 1.0, "e": 1.0}, evidence_of(d=[-1, 1], e=[-1, 1]))
    one_far, both_little = fusion(evidence_of(d=[4, 2], e=[0, 2])).tolist()
    assert one_far == pytest.approx(math.sqrt(8)) and both_little == pytest.approx(2)


def test_weights_count_in_proportion_only():
    normal, new = evidence_of(d=[1, 2, 4], e=[0, 5, 1]), evidence_of(d=[3], e=[2])
    torch.testing.assert_close(fitted({"d": 1.0, "e": 3.0}, normal)(new), fitted({"d": 10.0, "e": 30.0}, normal)(new))


def test_evidence_without_weight_is_not_looked_at():
    fusion = fitted({"d": 1.0}, evidence_of(d=[0, 2], mse=[0.1, 0.2]))
    assert fusion(evidence_of(d=[3], mse=[9])).tolist() == [2.0]


def test_part_that_is_the_same_for_all_divides_by_no_zero():
    score = fitted({"d": 1.0}, evidence_of(d=[2, 2, 2]))(evidence_of(d=[2, 3]))
    assert score[0] == 0
    assert score[1] > 1 and score.isfinite().all()


def test_errors_are_compared_by_their_logarithm_and_logits_as_they_are():
    values = torch.tensor([-1.0, 0.0, 1.0]).double()
    of_errors, of_logits = (Scale((), floor, True, torch.float64) for floor in (FLOOR, None))
    expected = [math.log(FLOOR), math.log(FLOOR), math.log(1 + FLOOR)]  # rounding may make an error negative
    assert of_errors.transformed(values).tolist() == pytest.approx(expected)
    assert of_logits.transformed(values).tolist() == [-1.0, 0.0, 1.0]


def test_a_map_is_the_same_arithmetic_at_each_place():
    fusion, grid = fusion_of({"d": 2.0, "e": 1.0}, of_places=True), torch.ones(1, GRID, GRID)
    fused = fusion({"d.grid": 2 * grid, "e.grid": -1 * grid})
    torch.testing.assert_close(fused, ((2 * 4 - 1) / 3) ** 0.5 * grid)
    torch.testing.assert_close(fusion({"d.grid": 0 * grid, "e.grid": -3 * grid}), -((9 / 3) ** 0.5) * grid)
    assert at_full_size(fused, (20, 31)).shape == (1, 1, 20, 31)


def test_a_places_own_scale_counts_as_much_as_its_images():
    stream = torch.Generator().manual_seed(0)
    values = torch.rand((5, GRID, GRID), generator=stream)
    scale = Scale((GRID, GRID), None, True, torch.float32)
    scale.fit(values)
    at, everywhere = values[:, 3, 7], values.mean()
    mean = (5 * at.mean() + OWN_PLACE_FROM * everywhere) / (5 + OWN_PLACE_FROM)
    assert float(scale.mean[3, 7]) == pytest.approx(float(mean), rel=1e-5)
    square = (values - scale.mean).square()
    variance = (5 * square[:, 3, 7].mean() + OWN_PLACE_FROM * square.mean()) / (5 + OWN_PLACE_FROM)
    assert float(scale.deviation[3, 7]) == pytest.approx(float(variance.sqrt()) + 1e-3, rel=1e-5)


def test_one_scale_for_all_places_where_the_part_says_so():
    fusion = fusion_of({"places": 1.0}, of_places=True)
    values = torch.rand((5, GRID, GRID), generator=torch.Generator().manual_seed(0))
    fusion.fit({"places.grid": values})
    scale = fusion.scales["places"]
    torch.testing.assert_close(scale.mean, values.mean().expand(GRID, GRID))
    torch.testing.assert_close(scale.deviation, (values.std(correction=0) + 1e-3).expand(GRID, GRID))
