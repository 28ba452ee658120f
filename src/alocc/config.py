"""The complete configuration of a training, as small frozen models that are TOML in and TOML out.

``preset("robust")`` is the default; ``features`` describes places with a network trained on ImageNet; ``article``,
``paper`` and ``ognet`` follow their sources.
"""

from __future__ import annotations

import difflib
import re
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias, get_args

import pydantic
from pydantic import Field, PositiveFloat, PositiveInt

from alocc.errors import ConfigError

Fraction = Annotated[float, Field(gt=0.0, lt=1.0)]
NonNegative = Annotated[float, Field(ge=0.0)]
NegativeKind: TypeAlias = Literal[
    "elastic", "elastic_mild", "turned", "swirled", "patched", "tinted",
    "mirrored", "shifted", "zoomed", "mixed", "relit", "blurred", "scrambled",
]  # fmt: skip
NONE = "none"
LARGEST = 1024
"""Longest side of images that are worked with."""
WORDS = {
    "a valid integer": "a whole number", "a valid number": "a number", "a valid string": "text",
    "a valid tuple": "a list", "less than or equal to": "at most", "greater than or equal to": "at least",
}  # fmt: skip
"""Pydantic's terms → what people say."""
PHASES = ("reconstruction", "adversarial", "old_is_gold", "discrimination", "places")
"""Phases of a training, in order."""


class _Model(pydantic.BaseModel):
    """Frozen, and no key that nothing reads."""

    model_config = pydantic.ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    @pydantic.model_validator(mode="before")
    @classmethod
    def _none_is_a_word(cls, values: Any) -> Any:
        """TOML has no null, so nothing is written ``"none"``."""
        if not isinstance(values, Mapping):
            return values
        return {key: None if value == NONE else value for key, value in values.items()}


class ImagesConfig(_Model):
    """How an image becomes a tensor."""

    size: tuple[PositiveInt, PositiveInt] | None = None
    """Height and width that every image is resized to; none: the size of the training images, at most ``longest`` a
    side, or 1,024 where they are cut into tiles."""
    longest: Annotated[int, Field(ge=16, le=LARGEST)] = 64
    """Longest side, where no size is given."""
    thumbnail: Annotated[int, Field(ge=16)] | None = None
    """Longest side of the copies that R, D and the statistics of whole images see, where images or tiles are larger;
    none: they see all pixels."""
    tile: Annotated[int, Field(ge=16, le=256)] | None = None
    """Side of the overlapping square tiles that images are cut into, each of which is judged by itself; an image is as
    anomalous as its most anomalous tile. None: whole images."""
    channels: Literal[1, 3] | None = None
    """1 for grey, 3 for colour; none: colour if any training image has colour."""

    @property
    def larger(self) -> str | None:
        """The key that makes images lose fewer of their pixels; none where they are as large as they can be."""
        if self.size:
            return "images.size=[HEIGHT,WIDTH]" if max(self.size) < LARGEST else None
        return None if self.tile or self.longest == LARGEST else "images.longest=SIDE"

    @pydantic.model_validator(mode="after")
    def _holds_a_tile(self) -> ImagesConfig:
        if self.tile and self.size and min(self.size) < self.tile:
            raise ValueError(f"tile {self.tile} is larger than size {list(self.size)}")
        return self


class CorruptionConfig(_Model):
    """x → x_noisy."""

    sigma: NonNegative
    """σ of the Gaussian noise, in units of the value range [0, 1]."""
    at_scoring: bool = False
    """Whether images are corrupted before they are scored too, with one pattern kept in the detector."""


class NetworksConfig(_Model):
    """R and D."""

    architecture: Literal["article", "paper"] = "article"
    """The convolutions: the article's 4×4 and 3×3, or the paper's 5×5."""
    width: PositiveInt = 16
    """Feature maps of the first layer; the others have 2, 4 and 8 times as many."""
    latent_dim: Annotated[int, Field(ge=0)] = 0
    """Numbers in R's bottleneck; 0 for none, as in the article and the paper."""
    latent_noise: NonNegative = 0.0
    """Standard deviation of the noise added to the bottleneck in training."""
    discriminator_input: Literal["reconstruction", "image", "pair"] = "reconstruction"
    """What D judges: R's reconstruction, as in ALOCC (OCC2 of the paper); the image itself (OCC1); or both as channels
    of one image."""
    discriminator_logits: Literal[1, 2] = 1
    """2 for the article's softmax over two classes, 1 for a sigmoid; the same model with other weights."""


class AdamConfig(_Model):
    """Adam (weight decay as L2, the article's) or AdamW (decoupled), constant or one-cycle learning rate."""

    learning_rate: PositiveFloat
    betas: tuple[Fraction, Fraction] = (0.9, 0.999)
    weight_decay: NonNegative = 0.0
    decoupled_decay: bool = False
    """True for AdamW."""
    schedule: Literal["constant", "one-cycle"] = "constant"


class ReconstructionConfig(_Model):
    """R alone: minimise E[(x − R(x_noisy))²]."""

    iterations: PositiveInt
    """Updates of R."""
    adam: AdamConfig


class AdversarialConfig(_Model):
    """R against D, alternating: the article and the paper."""

    iterations: PositiveInt
    """Updates of R."""
    discriminator_updates: PositiveInt = 1
    """n_dis, updates of D before each update of R."""
    mse_weight: NonNegative
    """λ, the weight of the reconstruction error averaged over all pixels."""
    fresh_batches: bool = True
    """Whether R's update draws its own images and noise, as in the article; if not, R runs once for both updates."""
    stop_mse: PositiveFloat | None = None
    """ρ: stop once R's error on held-out normal images, without noise, is below this; none: run all iterations."""
    adam: AdamConfig


class OldIsGoldConfig(_Model):
    """D alone, after the adversarial phase, against R's younger self: OGNet (Zaheer et al. 2020)."""

    iterations: PositiveInt = 75
    """Updates of D."""
    old_after: PositiveInt
    """Iterations of the adversarial phase after which R is copied, while it is still poor."""
    real_weight: Annotated[float, Field(ge=0.0, le=1.0)] = 0.1
    """α, weight of x among what D shall call real; the rest is for R(x)."""
    old_weight: Annotated[float, Field(ge=0.0, le=1.0)] = 0.001
    """β, weight of the old R's images among what D shall not call real; the rest is for pseudo-anomalies."""
    adam: AdamConfig = AdamConfig(learning_rate=5e-5)


class DiscriminationConfig(_Model):
    """D alone, R frozen: tell normal images from pseudo-anomalies made of them."""

    iterations: PositiveInt
    """Updates of D."""
    kinds: Annotated[tuple[NegativeKind, ...], Field(min_length=1)]
    """Kinds of pseudo-anomaly that D meets, in equal shares; those that look normal in this data are left out.

    At least one kind must not be named: what D never met tells how far it can be trusted.
    """
    sigma_max: NonNegative
    """An image's noise has a σ drawn from U(0, sigma_max), on both sides alike; 1 is normal images' mean contrast."""
    noisy: Annotated[float, Field(ge=0.0, le=1.0)] = 1.0
    """Share of the images that get noise."""
    jitter: bool = True
    """Whether normal images are moved a little, so that they carry the same blur as pseudo-anomalies."""
    adam: AdamConfig

    @pydantic.model_validator(mode="after")
    def _leaves_kinds_unseen(self) -> DiscriminationConfig:
        if set(self.kinds) == set(get_args(NegativeKind)):
            raise ValueError("kinds names all kinds; leave at least one out, for D's trial")
        return self


class PlacesConfig(_Model):
    """The network of the map's part ``places``: it learns where something was pasted into normal images."""

    iterations: PositiveInt | None = None
    """Updates; none: as many as D's own phase has, and twice as many for images of at least 48 pixels a side."""
    batch_size: PositiveInt = 16
    """Images of an update."""
    adam: AdamConfig


class AugmentationConfig(_Model):
    """Changed copies of the training images that are normal too; none unless something is set."""

    copies: PositiveInt = 4
    """Copies of each image, beside the image itself."""
    shift: Annotated[float, Field(ge=0.0, le=0.5)] = 0.0
    """Largest shift each way, as a fraction of the side."""
    rotate: Annotated[float, Field(ge=0.0, le=180.0)] = 0.0
    """Largest rotation each way, in degrees."""
    flip_horizontal: bool = False
    """Whether half of the copies are mirrored left to right."""
    flip_vertical: bool = False
    """Whether half of the copies are mirrored top to bottom."""
    brightness: Annotated[float, Field(ge=0.0, le=1.0)] = 0.0
    """Largest brightness added or taken away, in units of the value range [0, 1]."""
    gain: Annotated[float, Field(ge=0.0, le=0.5)] = 0.0
    """Largest share by which all pixels become brighter or darker in proportion."""
    blur: Annotated[float, Field(ge=0.0, le=1.0)] = 0.0
    """Largest share that the mean over 3×3 pixels has in a pixel."""
    noise: Annotated[float, Field(ge=0.0, le=1.0)] = 0.0
    """Largest standard deviation of Gaussian noise, in units of the value range [0, 1]."""

    @property
    def is_on(self) -> bool:
        """Whether anything happens to a copy."""
        return any(value for name, value in self if name != "copies")

    @property
    def makes_normal(self) -> set[NegativeKind]:
        """Kinds of pseudo-anomaly that are no anomalies here: copies change at least as much as the mildest of them.

        What changes a spot alone is none of these: it is a fault in any light.
        """
        kinds: dict[NegativeKind, bool] = {
            "turned": self.rotate >= 40, "shifted": self.shift >= 0.12, "relit": self.brightness >= 0.08,
            "blurred": self.blur >= 0.5, "mirrored": self.flip_horizontal or self.flip_vertical,
        }  # fmt: skip
        return {kind for kind, is_normal in kinds.items() if is_normal}


NUISANCES: dict[str, dict[str, Any]] = {
    "light": {"brightness": 0.1, "gain": 0.2},
    "focus": {"blur": 1.0},
    "shift": {"shift": 0.05},
    "turn": {"rotate": 180.0},
    "mirror": {"flip_horizontal": True, "flip_vertical": True},
}
"""What a detector can be told to ignore → the changed copies that teach it."""


class TrainingConfig(_Model):
    """The phases of training, in this order; one left out does not run."""

    batch_size: PositiveInt | None = 128
    """Images of an update; none: as many as have 50,000 pixels, but 16 to 64, so that time hardly grows with size."""
    contamination: Annotated[float, Field(ge=0.0, le=0.25)] = 0.0
    """Share of the training images that may be anomalies: the most unusual images, twice as many, do not train."""
    augmentation: AugmentationConfig = AugmentationConfig()
    """What else is normal."""
    precision: Literal["auto", "32-true", "bf16-mixed"] = "auto"
    """Arithmetic of training; auto: bfloat16 where the processor computes with it; scoring is always in 32-bit."""
    reconstruction: ReconstructionConfig | None = None
    adversarial: AdversarialConfig | None = None
    old_is_gold: OldIsGoldConfig | None = None
    discrimination: DiscriminationConfig | None = None
    places: PlacesConfig | None = None

    @pydantic.model_validator(mode="after")
    def _trains_r(self) -> TrainingConfig:
        if self.reconstruction is None and self.adversarial is None:
            raise ValueError("R is never trained; set training.reconstruction or training.adversarial")
        if self.discrimination and self.augmentation.makes_normal >= {*self.discrimination.kinds}:
            raise ValueError(
                "training.augmentation makes all kinds of training.discrimination normal; name another kind"
            )
        if self.places and not (self.places.iterations or self.discrimination):
            raise ValueError("training.places.iterations must be given where there is no training.discrimination")
        if self.old_is_gold and not (self.adversarial and self.old_is_gold.old_after <= self.adversarial.iterations):
            raise ValueError("training.old_is_gold needs an adversarial phase of at least old_after iterations")
        return self


class CalibrationConfig(_Model):
    """The threshold, from normal images that the networks which judge them never saw."""

    held_out: Fraction = 0.1
    """Share of the normal images kept for calibration."""
    folds: Annotated[int, Field(ge=0, le=5)] = 0
    """Where that share is less than ``enough`` images: cut them into so many folds, train one R and D without each, in
    as many iterations together, and let every image calibrate those that it did not train; 0: never."""
    enough: PositiveInt = 200
    """So many held-out images set a threshold that hardly depends on chance."""
    alpha: Fraction | None = None
    """False-positive rate to keep; none: 0.01, or the smallest that the held-out images support."""
    review_alpha: Annotated[float, Field(ge=0.0, lt=1.0)] | None = None
    """Rate up to which an image that is no anomaly is for a person ("can't tell"); none or 0: no third verdict."""
    weights: Literal["fixed", "validated"] = "fixed"
    """Whether parts that miss small faults planted in held-out images count less than their weight."""

    @pydantic.field_validator("review_alpha")
    @classmethod
    def _not_below_alpha(cls, review_alpha: float | None, info: pydantic.ValidationInfo) -> float | None:
        alpha = info.data.get("alpha")
        if review_alpha and alpha is not None and review_alpha < alpha:
            raise ValueError(f"must be at least calibration.alpha, {alpha:g}")
        return review_alpha or None

    @pydantic.model_serializer(mode="wrap")
    def _without_what_is_new(self, dump: pydantic.SerializerFunctionWrapHandler) -> dict[str, Any]:
        """As before there was a review alpha, where there is none: files and run folders stay what they were."""
        values: dict[str, Any] = dump(self)
        return {key: value for key, value in values.items() if key != "review_alpha" or value is not None}

    @pydantic.model_validator(mode="after")
    def _one_fold_is_none(self) -> CalibrationConfig:
        if self.folds == 1:
            raise ValueError("folds must be 0 (never) or at least 2: the one fold would train nothing")
        return self


class Config(_Model):
    """Everything that, with the images, decides a detector."""

    preset: str
    """The preset this started from: parts of its own give way by the size of the images, those that are set stay."""
    seed: Annotated[int, Field(ge=0)] = 0
    images: ImagesConfig = ImagesConfig()
    corruption: CorruptionConfig
    networks: NetworksConfig
    training: TrainingConfig
    scoring: Annotated[dict[str, PositiveFloat], Field(min_length=1)]
    """Weight of each part of the anomaly score; the parts are in ``alocc.parts``. Of a preset's, those that see
    all pixels have no say where images are their own thumbnails, if there are others."""
    maps: Annotated[dict[str, PositiveFloat], Field(min_length=1)]
    """Weight of each part of the anomaly map. Of a preset's, only those that see all pixels have a say where images are
    larger than their thumbnails, if there are any."""
    calibration: CalibrationConfig = CalibrationConfig()

    @pydantic.model_validator(mode="after")
    def _goes_together(self) -> Config:
        if self.images.tile and self.training.contamination:
            raise ValueError("training.contamination does not go with images.tile; leave one of them out")
        if self.training.old_is_gold and self.networks.discriminator_input == "pair":
            raise ValueError('training.old_is_gold does not go with networks.discriminator_input = "pair"')
        return self


PRESETS: dict[str, Config] = {
    "article": Config(
        preset="article",
        corruption=CorruptionConfig(sigma=0.155, at_scoring=True),
        networks=NetworksConfig(discriminator_logits=2),
        training=TrainingConfig(
            adversarial=AdversarialConfig(
                iterations=100_000,
                mse_weight=0.2,
                adam=AdamConfig(learning_rate=2e-4, betas=(0.5, 0.9), weight_decay=1e-5),
            )
        ),
        scoring={"d": 1.0},
        maps={"d": 1.0, "mse": 1.0},
    ),
    "paper": Config(
        preset="paper",
        # the paper prints λ, the widths and the kernels; σ, ρ, the optimiser and the strides are ours (docs/method.md)
        corruption=CorruptionConfig(sigma=0.155),
        networks=NetworksConfig(architecture="paper", width=64),
        training=TrainingConfig(
            adversarial=AdversarialConfig(
                iterations=5_000,
                mse_weight=0.4,
                stop_mse=0.02,
                adam=AdamConfig(learning_rate=2e-4, betas=(0.5, 0.9)),
            )
        ),
        scoring={"d": 1.0},
        maps={"d": 1.0, "mse": 1.0},
    ),
    "ognet": Config(
        preset="ognet",
        # the second phase is the published code's; the first is the article's, with R_old from about the first epoch
        corruption=CorruptionConfig(sigma=0.155),
        networks=NetworksConfig(),
        training=TrainingConfig(
            adversarial=AdversarialConfig(
                iterations=1_000,
                mse_weight=0.2,
                adam=AdamConfig(learning_rate=2e-4, betas=(0.5, 0.9), weight_decay=1e-5),
            ),
            old_is_gold=OldIsGoldConfig(old_after=50),
        ),
        scoring={"d": 1.0},
        maps={"d": 1.0, "mse": 1.0},
    ),
    "robust": Config(
        preset="robust",
        images=ImagesConfig(longest=448, thumbnail=64),
        corruption=CorruptionConfig(sigma=0.3),
        networks=NetworksConfig(latent_dim=16, latent_noise=0.5, discriminator_input="pair"),
        training=TrainingConfig(
            batch_size=None,
            reconstruction=ReconstructionConfig(
                iterations=500,
                adam=AdamConfig(learning_rate=2e-3, weight_decay=1e-2, decoupled_decay=True, schedule="one-cycle"),
            ),
            discrimination=DiscriminationConfig(
                iterations=400,
                kinds=("elastic", "elastic_mild", "turned", "swirled", "patched", "tinted"),
                sigma_max=1.2,
                noisy=0.5,
                adam=AdamConfig(learning_rate=1e-3, weight_decay=1e-2, decoupled_decay=True, schedule="one-cycle"),
            ),
            places=PlacesConfig(
                adam=AdamConfig(learning_rate=3e-3, weight_decay=1e-2, decoupled_decay=True, schedule="one-cycle"),
            ),
        ),
        scoring={
            "d": 1.5,
            "neighbours": 0.5,
            "spectrum": 0.5,
            "texture": 0.5,
            "quarters": 1.0,
            "sixteenths": 0.5,
            "cells": 4.0,
        },
        maps={"places": 8.0, "cells": 2.0, "mse": 1.0, "d": 1.0},
        calibration=CalibrationConfig(folds=2, weights="validated"),
    ),
}

ROBUST = PRESETS["robust"]
PRESETS["features"] = ROBUST.model_copy(
    update={
        "preset": "features",
        "training": ROBUST.training.model_copy(
            update={
                "reconstruction": ReconstructionConfig(iterations=100, adam=ROBUST.training.reconstruction.adam),  # type: ignore[union-attr]
                "discrimination": None,
                "places": None,
            }
        ),
        "scoring": {"features": 1.0, "scene": 1.0},
        "maps": {"features": 1.0},
    }
)
"""Places described by a network trained on ImageNet; R is trained for the picture of what it restores, D is not."""


def preset(name: str) -> Config:
    """One of the complete configurations: ``robust``, ``features``, ``article``, ``paper``, ``ognet``.

    Raises:
        ConfigError: if there is no preset of this name.
    """
    if name not in PRESETS:
        raise ConfigError(f'there is no preset "{name}"; {_meant(name, PRESETS)}presets are: {", ".join(PRESETS)}')
    return PRESETS[name]


def load_config(path: Path) -> Config:
    """Read a TOML file: a complete config, or some keys on top of the preset that it names (``robust`` if none).

    Raises:
        ConfigError: if the file is missing, no TOML, or holds a wrong key or value.
    """
    try:
        with path.open("rb") as file:
            values = tomllib.load(file)
    except OSError as error:
        raise ConfigError(f"{path} cannot be read ({error.strerror})") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not valid TOML: {error}") from None
    if not values:
        raise ConfigError(f'{path} holds no key; a config has at least one, as preset = "robust"')
    return with_values(preset(str(values.get("preset", "robust"))), values, source=str(path))


def dump_config(config: Config) -> str:
    """The config as TOML; :func:`load_config` of it gives the same config."""
    import tomli_w

    return tomli_w.dumps(_without_null(config.model_dump(mode="json")))


def with_settings(config: Config, settings: Iterable[str]) -> Config:
    """Apply ``section.key=value`` settings, as ``--set`` takes them; a value is TOML, or else a bare word.

    Raises:
        ConfigError: if a setting has no ``=``, an unknown key or a wrong value.
    """
    values: dict[str, Any] = {}
    for setting in settings:
        key, equals, text = setting.partition("=")
        if not equals:
            raise ConfigError(f'--set takes section.key=value, got "{setting}"')
        *sections, last = key.strip().split(".")
        inner = values
        for section in sections:
            inner = inner.setdefault(section, {})
            if not isinstance(inner, dict):
                raise ConfigError(f"--set {setting}: {section} was set to a value before")
        inner[last] = _parsed(text.strip())
    return with_values(config, values, source="--set")


def with_values(config: Config, values: Mapping[str, Any], source: str) -> Config:
    """Put nested ``values`` on top of a config; ``source`` is named in errors: "" for arguments, without sections."""
    try:
        merged = _merge(config.model_dump(), values)
        return Config.model_validate(merged)
    except pydantic.ValidationError as error:
        explained = (_explain(problem) for problem in error.errors())
        problems = "; ".join(text if source else re.sub(r"^(\w+\.)+", "", text) for text in explained)
        raise ConfigError(f"{source}: {problems}" if source else problems) from None


def with_ignored(config: Config, nuisances: Iterable[str]) -> Config:
    """Ignore some of :data:`NUISANCES`: in training, copies are normal that differ in these.

    Raises:
        ConfigError: if there is no such nuisance.
    """
    for name in nuisances:
        if name not in NUISANCES:
            raise ConfigError(
                f'--ignore: there is no "{name}"; {_meant(name, NUISANCES)}it can be: {", ".join(NUISANCES)}'
            )
        config = with_values(config, {"training": {"augmentation": NUISANCES[name]}}, source="--ignore")
    return config


def with_iterations(config: Config, iterations: int) -> Config:
    """Train R for this many iterations, and D's own phase, if there is one, longer or shorter in proportion."""
    if iterations < 1:
        raise ConfigError(f"iterations must be at least 1, got {iterations}")
    training = config.training
    main = "reconstruction" if training.reconstruction else "adversarial"
    factor = iterations / getattr(training, main).iterations
    lengths = {
        name: {"iterations": max(1, round(phase.iterations * factor))}
        for name in PHASES
        if (phase := getattr(training, name)) and phase.iterations
    }
    if training.old_is_gold:
        lengths["old_is_gold"]["old_after"] = max(1, round(training.old_is_gold.old_after * factor))
    return with_values(config, {"training": lengths}, source="--iterations")


def _merge(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(below)
    for key, value in above.items():
        under = merged.get(key)
        # the weights of a score or a map are replaced as one: a part not named is not in it
        if isinstance(under, Mapping) and isinstance(value, Mapping) and key not in ("scoring", "maps"):
            merged[key] = _merge(under, value)
        else:
            merged[key] = value
    return merged


def _without_null(values: Mapping[str, Any]) -> dict[str, Any]:
    return {
        key: _without_null(value) if isinstance(value, Mapping) else NONE if value is None else value
        for key, value in values.items()
    }


def _parsed(text: str) -> Any:
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def _explain(problem: Any) -> str:
    key = ".".join(str(part) for part in problem["loc"])
    if problem["type"] == "extra_forbidden":
        *sections, last = problem["loc"]
        model: Any = Config
        for section in sections:
            annotation = model.model_fields[section].annotation
            model = next(
                (m for m in getattr(annotation, "__args__", (annotation,)) if hasattr(m, "model_fields")), None
            )
        return (
            f"there is no key {key}; {_meant(str(last), model.model_fields)}keys here: {', '.join(model.model_fields)}"
        )
    if problem["type"] == "missing":
        return f"{key} is missing"
    message = in_words(problem)
    given = "" if isinstance(problem["input"], Mapping) else f", got {problem['input']!r}"
    return f"{key}: {message}{given}" if key else f"{message}{given}"


def in_words(problem: Any) -> str:
    """What Pydantic says is wrong with a value, without its own terms."""
    if problem["type"] in ("too_long", "too_short"):
        limits = problem["ctx"]
        most = limits.get("max_length")
        return f"must have at most {most} values" if most else f"must have at least {limits['min_length']}"
    if choices := re.search("is not one of (.*)", problem["msg"]):
        return f"must be {'one of ' if ',' in choices[1] else ''}{choices[1].rstrip('.')}"
    text = problem["msg"].removeprefix("Value error, ").replace("Input should be", "must be")
    for theirs, ours in WORDS.items():
        text = text.replace(theirs, ours)
    return str(text.partition(", unable to parse")[0].partition(", got a number")[0])


def _meant(name: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(name, list(known), n=1)
    return f'did you mean "{near[0]}"? ' if near else ""
