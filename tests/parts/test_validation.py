"""Choosing kinds and weighing parts without a single anomaly."""

import pytest
import torch

from alocc.parts.validation import auroc, planted_weights, separation, useful_kinds
from alocc.seeding import generator


def stream():
    return generator(0, "validation")


def bars(n, upright_only=True, size=24):
    """A soft bar, upright and in the middle, or in any place and direction."""
    random = torch.Generator().manual_seed(n)
    side = (torch.arange(size) - (size - 1) / 2) / size
    angle = torch.zeros(n) if upright_only else torch.rand(n, generator=random) * torch.pi
    angle = (angle + 0.05 * torch.randn(n, generator=random)).view(-1, 1, 1)
    across = side[None, None, :] * angle.cos() + side[None, :, None] * angle.sin()
    along = side[None, :, None] * angle.cos() - side[None, None, :] * angle.sin()
    image = torch.exp(-((across / 0.06) ** 2) - (along / 0.3) ** 4)
    return (0.9 * image + 0.02 * torch.randn((n, size, size), generator=random)).clamp(0, 1).unsqueeze(1)


def test_auroc_by_hand():
    normal, anomalous = torch.tensor([0.0, 1.0, 2.0]), torch.tensor([1.0, 3.0])
    assert auroc(normal, anomalous) == pytest.approx((1.5 + 3) / 6)


@pytest.mark.parametrize(("upright_only", "expected"), [(True, True), (False, False)])
def test_turning_is_no_negative_where_normal_images_lie_in_any_direction(upright_only, expected, statistics):
    fitted = statistics(bars(600, upright_only))
    kinds = useful_kinds(fitted, bars(100, upright_only), ["elastic", "turned", "tinted"], stream())
    assert ("turned" in kinds) == expected
    assert {"elastic", "tinted"} <= set(kinds)


def test_two_kinds_stay_where_all_look_normal():
    def blind(x):
        return {"texture": torch.zeros(len(x))}

    assert len(useful_kinds(blind, bars(50), ["elastic", "turned", "tinted"], stream())) == 2


def weights_if(aurocs, weights, together=None):
    """Weights where parts, each alone, tell planted faults with these AUROC; ``together`` says so of several."""

    def found(chosen):
        kept = tuple(part for part, weight in chosen.items() if weight > 0)
        return aurocs[kept[0]] if len(kept) == 1 else (together or {}).get(kept, 0.9)

    return planted_weights(weights, found)


def test_the_factor_is_the_fourth_power_of_the_usefulness_against_the_best_by_hand():
    # 2 · AUROC − 1: best .8, half .4 (u = .5, u⁴ = 1/16), blind 0, spoiled below chance: as blind
    aurocs = {"best": 0.9, "half": 0.7, "blind": 0.5, "spoiled": 0.1}
    found = weights_if(aurocs, {"best": 2.0, "half": 4.0, "blind": 1.0, "spoiled": 1.0})
    assert found == pytest.approx({"best": 2.0, "half": 0.25, "blind": 0.0, "spoiled": 0.0})


def test_a_part_goes_if_more_is_found_without_it_and_stays_if_hardly_more_is():
    aurocs = {"a": 0.9, "b": 0.9, "c": 0.9}
    without_c = {("a", "b", "c"): 0.9, ("a", "b"): 0.906, ("a", "c"): 0.9, ("b", "c"): 0.9}
    assert weights_if(aurocs, dict.fromkeys("abc", 1.0), without_c) == {"a": 1.0, "b": 1.0, "c": 0.0}
    assert weights_if(aurocs, dict.fromkeys("abc", 1.0), without_c | {("a", "b"): 0.904}) == dict.fromkeys("abc", 1.0)


def test_weights_stay_where_no_part_sees_anything():
    assert weights_if({"a": 0.5, "b": 0.3}, {"a": 1.0, "b": 2.0}) == {"a": 1.0, "b": 2.0}


def test_few_images_are_used_several_times():
    seen = []

    def score(x):
        seen.append(len(x))
        return {"a": x.mean((1, 2, 3))}

    separation(score, bars(30), ["shifted"], stream())
    assert seen == [200, 200]
