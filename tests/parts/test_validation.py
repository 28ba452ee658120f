"""Choosing kinds and weighing parts without a single anomaly."""

import pytest
import torch

from alocc.parts.descriptions import Statistics
from alocc.parts.validation import auroc, separation, useful_kinds, validated_weights
from alocc.seeding import generator
from alocc.synthesis.negatives import NEGATIVES


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
def test_turning_is_no_negative_where_normal_images_lie_in_any_direction(upright_only, expected):
    statistics = Statistics(1, (24, 24)).fit(bars(600, upright_only))
    kinds = useful_kinds(statistics, bars(100, upright_only), ["elastic", "turned", "tinted"], stream())
    assert ("turned" in kinds) == expected
    assert {"elastic", "tinted"} <= set(kinds)


def test_two_kinds_stay_where_all_look_normal():
    noise = torch.rand((300, 1, 16, 16), generator=torch.Generator().manual_seed(0))
    blind = Statistics(1, (16, 16)).fit(noise)
    blind.forward = lambda x: {"texture": torch.zeros(len(x))}
    assert len(useful_kinds(blind, noise[:50], ["elastic", "turned", "tinted"], stream())) == 2


def test_a_blind_part_loses_its_weight_and_a_useful_one_keeps_it():
    def score(x):
        return {
            "sees": x.flatten(1).var(1) + 10 * (x.mean((1, 2, 3)) - 0.1).abs(),
            "blind": torch.rand(len(x), generator=generator(0, "blind")),
        }

    weights = validated_weights({"sees": 1.5, "blind": 0.5}, score, bars(80), ["elastic"], stream())
    assert weights["sees"] == 1.5
    assert weights["blind"] < 0.2


def test_kinds_that_d_met_are_not_asked_about():
    asked = []

    def score(x):
        asked.append(x)
        return {"a": x.mean((1, 2, 3))}

    validated_weights({"a": 1.0}, score, bars(20), ["elastic", "turned"], stream())
    assert len(asked) == 1 + len(NEGATIVES) - 2


def test_few_images_are_used_several_times():
    seen = []

    def score(x):
        seen.append(len(x))
        return {"a": x.mean((1, 2, 3))}

    separation(score, bars(30), ["shifted"], stream())
    assert seen == [200, 200]
