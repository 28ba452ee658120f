"""The article's training loop, written against Chainer's API: what alocc's speed and behaviour are compared with.

It needs an environment of its own (requirements.txt beside this file); ``benchmarks/speed.py`` makes one and runs this
file in it. On Python 3.11 Chainer 7.8.1 needs no patching for what is used here.

R restores x from x_noisy, D tells x from R(x_noisy); class 1 of D is "real":

    D minimises   cross-entropy(D(x), real) + cross-entropy(D(R(x_noisy)), fake)
    R minimises   cross-entropy(D(R(x_noisy)), real) + λ · mean((x − R(x_noisy))²)

Nothing is tuned for speed, and nothing is slowed down.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import sys
import time
from collections.abc import Callable

import chainer
import chainer.functions as F
import chainer.links as L
import numpy as np

BATCH_SIZE = 128
N_DIS = 1
MSE_WEIGHT = 0.2
SIGMA = 0.155
ADAM = {"alpha": 2e-4, "beta1": 0.5, "beta2": 0.9}
WEIGHT_DECAY = 1e-5
FAKE, REAL = 0, 1

N_PARAMETERS_R, N_PARAMETERS_D = 201_921, 101_346
WARM_UP = 2  # iterations left out of the timing: the first ones allocate

Draw = Callable[[], "tuple[np.ndarray, np.ndarray]"]


def normalised(conv: chainer.Link) -> chainer.Sequential:
    return chainer.Sequential(conv, L.BatchNormalization(conv.out_channels, eps=1e-5), F.leaky_relu)  # slope 0.2


def encoder() -> list[chainer.Link]:
    return [
        normalised(L.Convolution2D(1, 16, 4, 2, 1, nobias=True)),  # (N, 16, 14, 14)
        normalised(L.Convolution2D(16, 32, 4, 2, 1, nobias=True)),  # (N, 32, 7, 7)
        normalised(L.Convolution2D(32, 64, 3, 1, 1, nobias=True)),  # (N, 64, 7, 7)
        normalised(L.Convolution2D(64, 128, 3, 1, 0, nobias=True)),  # (N, 128, 5, 5)
    ]


def make_reconstructor() -> chainer.Sequential:
    """R: (N, 1, 28, 28) → (N, 1, 28, 28) in [0, 1]. All weights are LeCun normal, Chainer's default."""
    R = chainer.Sequential(
        *encoder(),
        normalised(L.Deconvolution2D(128, 64, 3, 1, 0, nobias=True)),  # (N, 64, 7, 7)
        normalised(L.Deconvolution2D(64, 32, 3, 1, 1, nobias=True)),  # (N, 32, 7, 7)
        normalised(L.Deconvolution2D(32, 16, 4, 2, 1, nobias=True)),  # (N, 16, 14, 14)
        L.Deconvolution2D(16, 1, 4, 2, 1),
        F.sigmoid,
    )
    assert R.count_params() == N_PARAMETERS_R, R.count_params()
    return R


def make_discriminator() -> chainer.Sequential:
    """D: (N, 1, 28, 28) → logits of "fake" and "real", (N, 2)."""
    D = chainer.Sequential(*encoder(), L.Convolution2D(128, 2, 1), lambda maps: F.mean(maps, axis=(2, 3)))
    assert D.count_params() == N_PARAMETERS_D, D.count_params()
    return D


def make_optimizer(network: chainer.Link) -> chainer.Optimizer:
    optimizer = chainer.optimizers.Adam(**ADAM).setup(network)
    optimizer.add_hook(chainer.optimizer_hooks.WeightDecay(WEIGHT_DECAY))
    return optimizer


def unit_range(images: np.ndarray) -> np.ndarray:
    """uint8 (n, 28, 28) → float32 (n, 1, 28, 28) in [0, 1]."""
    return images[:, None].astype(np.float32) / 255


def corrupt(x: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    noise = rng.standard_normal(x.shape, dtype=np.float32)
    return np.clip(x + np.float32(SIGMA) * noise, 0, 1)


def drawing(images: np.ndarray, rng: np.random.Generator) -> Draw:
    """A fresh batch, and fresh noise on it, at each call."""
    order = chainer.iterators.ShuffleOrderSampler(rng)
    batches = chainer.iterators.SerialIterator(unit_range(images), BATCH_SIZE, order_sampler=order)

    def draw() -> tuple[np.ndarray, np.ndarray]:
        x = chainer.dataset.concat_examples(batches.next())
        return x, corrupt(x, rng)

    return draw


def cross_entropy(logits: chainer.Variable, label: int) -> chainer.Variable:
    return F.softmax_cross_entropy(logits, np.full(len(logits), label, np.int32))


def update_discriminator(
    R: chainer.Link, D: chainer.Link, optimizer: chainer.Optimizer, draw: Draw
) -> dict[str, chainer.Variable]:
    x, x_noisy = draw()
    with chainer.no_backprop_mode():
        x_hat = R(x_noisy)
    real, fake = cross_entropy(D(x), REAL), cross_entropy(D(x_hat), FAKE)
    D.cleargrads()
    (real + fake).backward()
    optimizer.update()
    return {"d_real": real, "d_fake": fake}


def update_reconstructor(
    R: chainer.Link, D: chainer.Link, optimizer: chainer.Optimizer, draw: Draw
) -> dict[str, chainer.Variable]:
    x, x_noisy = draw()
    x_hat = R(x_noisy)
    adversarial, mse = cross_entropy(D(x_hat), REAL), F.mean_squared_error(x_hat, x)
    R.cleargrads()
    (adversarial + MSE_WEIGHT * mse).backward()  # gives D gradients too, which its next update clears
    optimizer.update()
    return {"r_adversarial": adversarial, "r_mse": mse}


def watch(R: chainer.Link, D: chainer.Link, images: np.ndarray, anomalous: np.ndarray, seed: int) -> dict[str, float]:
    """Figures of D(R(x_noisy)) on labelled images, batch normalisation in test mode, the same noise at every watch.

    Which class of D means "normal" has two readings: the paper's (1 is real, so normal) and the article's (the other
    way round). Argmax of the logits decides.
    """
    x_noisy = corrupt(unit_range(images), np.random.default_rng(seed))
    with chainer.using_config("train", False), chainer.no_backprop_mode():
        logits = np.concatenate([D(R(batch)).array for batch in np.split(x_noisy, range(500, len(x_noisy), 500))])
    real = logits[:, REAL] > logits[:, FAKE]
    return {
        "accuracy_article": float(np.mean(real == anomalous)),
        "accuracy_paper": float(np.mean(real != anomalous)),
        # logits order the images as 1 − p_real does, and do not saturate
        "auroc": auroc(logits[:, FAKE] - logits[:, REAL], anomalous),
    }


def auroc(anomaly_score: np.ndarray, anomalous: np.ndarray) -> float:
    """How often an anomalous image scores above a normal one; a tie counts half."""
    normal = np.sort(anomaly_score[~anomalous])
    below = np.searchsorted(normal, anomaly_score[anomalous], "left")
    not_above = np.searchsorted(normal, anomaly_score[anomalous], "right")
    return float(np.mean(below + not_above) / 2 / len(normal))


def train(options: argparse.Namespace) -> dict[str, object]:
    """Train for so many iterations; the median time of one, and a row of history now and then."""
    np.random.seed(options.seed)  # Chainer draws the first weights from NumPy's global stream
    R, D = make_reconstructor(), make_discriminator()
    optimizer_R, optimizer_D = make_optimizer(R), make_optimizer(D)
    draw = drawing(np.load(options.images), np.random.default_rng(options.seed))
    watched = np.load(options.watch) if options.watch else None

    seconds, history = [], []
    for iteration in range(1, options.iterations + 1):
        started = time.perf_counter()
        for _ in range(N_DIS):
            losses = update_discriminator(R, D, optimizer_D, draw)
        losses.update(update_reconstructor(R, D, optimizer_R, draw))
        seconds.append(time.perf_counter() - started)

        if iteration % options.watch_every == 0 or iteration == options.iterations:
            row = {"iteration": iteration, **{name: float(loss.array) for name, loss in losses.items()}}
            if watched is not None:
                row.update(watch(R, D, watched["images"], watched["anomalous"], options.seed))
            history.append(row)
            print("Chainer:", ", ".join(f"{name} {value:.4g}" for name, value in row.items()), file=sys.stderr)

    timed = seconds[WARM_UP:] or seconds
    return {"ms_per_iteration": 1000 * statistics.median(timed), "history": history, "versions": versions()}


def versions() -> dict[str, str]:
    return {"Python": platform.python_version(), "Chainer": chainer.__version__, "NumPy": np.__version__}


def main() -> None:
    parser = argparse.ArgumentParser(description="Train the article's R and D in Chainer; progress goes to stderr.")
    parser.add_argument("--images", required=True, metavar="PATH.npy", help="normal images, uint8 (n, 28, 28)")
    parser.add_argument("--iterations", type=int, default=100_000, help="updates of R (default: the article's 100000)")
    parser.add_argument(
        "--watch", metavar="PATH.npz", help="labelled images: 'images', uint8 (n, 28, 28), and 'anomalous', bool (n,)"
    )
    parser.add_argument("--watch-every", type=int, default=500, help="iterations between rows of history (default 500)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true", help="print time, history and versions as one JSON object")
    options = parser.parse_args()

    result = train(options)
    print(json.dumps(result) if options.json else f"{result['ms_per_iteration']:.1f} ms per iteration")


if __name__ == "__main__":
    main()
