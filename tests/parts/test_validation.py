"""Choosing kinds and weighing parts without a single anomaly."""

import pytest
import torch

from alocc.parts import validation
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
def test_turning_is_no_negative_where_normal_images_lie_in_any_direction(upright_only, expected, statistics):
    fitted = statistics(bars(600, upright_only))
    kinds = useful_kinds(fitted, bars(100, upright_only), ["elastic", "turned", "tinted"], stream())
    assert ("turned" in kinds) == expected
    assert {"elastic", "tinted"} <= set(kinds)


def test_two_kinds_stay_where_all_look_normal():
    def blind(x):
        return {"texture": torch.zeros(len(x))}

    assert len(useful_kinds(blind, bars(50), ["elastic", "turned", "tinted"], stream())) == 2


def test_a_blind_part_loses_its_weight_and_a_useful_one_keeps_it():
    def score(x):
        return {
            "sees": x.flatten(1).var(1) + 10 * (x.mean((1, 2, 3)) - 0.1).abs(),
            "blind": torch.rand(len(x), generator=generator(0, "blind")),
        }

    unseen = [kind for kind in NEGATIVES if kind != "elastic"]
    weights = validated_weights({"sees": 1.5, "blind": 0.5}, score, bars(80), unseen, stream())
    assert weights["sees"] == 1.5
    assert weights["blind"] < 0.2


def weights_if(monkeypatch, seen, weights):
    """Weights where parts separate the kinds like this: kind → part → AUROC."""
    monkeypatch.setattr(validation, "separation", lambda score, held_out, kinds, stream: {k: seen[k] for k in kinds})
    return validated_weights(weights, lambda x: {}, bars(1), list(seen), stream())


def test_the_factor_is_the_square_of_twice_the_usefulness_against_the_best_by_hand(monkeypatch):
    seen = {
        "mixed": {"best": 1.0, "half": 0.75, "quarter": 0.7, "spoiled": 0.1, "one kind": 1.0},
        "relit": {"best": 0.9, "half": 0.7, "quarter": 0.525, "spoiled": 0.6, "one kind": 0.5},
    }
    # mean of max(0, 2 · AUROC − 1) over the kinds, then divided by the best part's
    #   best      (1 + .8) / 2   = .9                       factor 1
    #   half      (.5 + .4) / 2  = .45,  u = .5             factor min(1, 1)² = 1
    #   quarter   (.4 + .05) / 2 = .225, u = .25            factor .5² = .25
    #   spoiled   (0 + .2) / 2   = .1,   u = 1 / 9          factor (2 / 9)²: worse than chance is no worse than blind
    #   one kind  (1 + 0) / 2    = .5,   u = 5 / 9          factor 1
    weights = {"best": 2.0, "half": 3.0, "quarter": 4.0, "spoiled": 1.0, "one kind": 0.5}
    found = weights_if(monkeypatch, seen, weights)
    assert found == pytest.approx({"best": 2.0, "half": 3.0, "quarter": 1.0, "spoiled": 4 / 81, "one kind": 0.5})


def test_it_is_the_mean_over_kinds_that_counts_not_the_best_kind(monkeypatch):
    seen = {kind: {"all": 1.0, "one": 0.5} for kind in ("mixed", "relit", "zoomed", "shifted")}
    seen["mixed"] = {"all": 1.0, "one": 1.0}  # mean .25: factor (2 · .25)²; by its best kind it would keep its weight
    assert weights_if(monkeypatch, seen, {"all": 1.0, "one": 1.0}) == pytest.approx({"all": 1.0, "one": 0.25})


def test_weights_stay_where_no_part_sees_anything(monkeypatch):
    seen = {"mixed": {"a": 0.5, "b": 0.3}}
    assert weights_if(monkeypatch, seen, {"a": 1.0, "b": 2.0}) == {"a": 1.0, "b": 2.0}


def test_only_the_named_kinds_are_asked_about():
    asked = []

    def score(x):
        asked.append(x)
        return {"a": x.mean((1, 2, 3))}

    validated_weights({"a": 1.0}, score, bars(20), ["mirrored", "mixed", "relit"], stream())
    assert len(asked) == 1 + 3  # normal images, and each kind


def test_few_images_are_used_several_times():
    seen = []

    def score(x):
        seen.append(len(x))
        return {"a": x.mean((1, 2, 3))}

    separation(score, bars(30), ["shifted"], stream())
    assert seen == [200, 200]
