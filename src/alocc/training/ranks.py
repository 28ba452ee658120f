"""Several processes that train the same networks: each takes its share of every batch, and sums are over all.

Every process draws the whole batch with its noise from the same random streams, as one process alone would, and takes
its share of the images. What is summed over images is then summed over processes: the statistics of batch
normalisation, gradients, losses. So the numbers are those of one process, up to the order of the sums.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from alocc.errors import ConfigError

if TYPE_CHECKING:
    from lightning_fabric import Fabric

    from alocc.training.checkpoint import TrainingState
    from alocc.training.plan import Plan
    from alocc.training.step import Losses

LONGEST_WAIT = timedelta(hours=12)
"""For the first process while it reads, watches or calibrates. One that has ended is noticed at once."""


@dataclass(frozen=True)
class Ranks:
    """Which of the processes that train the same networks this is, on which device; alone, it has all images."""

    fabric: Fabric
    rank: int = 0
    size: int = 1

    def share(self, x: Tensor) -> Tensor:
        """This process's images of a batch, one after the other."""
        n = len(x)
        return x if self.size == 1 else x[n * self.rank // self.size : n * (self.rank + 1) // self.size]

    def weigh(self, mean: Tensor, batch_size: int) -> Tensor:
        """This process's summand of a mean over the batch, by the mean over its own images."""
        return mean if self.size == 1 else mean * (len(self.share(torch.empty(batch_size))) / batch_size)

    def sum(self, x: Tensor) -> Tensor:
        """Sum over the processes, in place.

        Raises:
            ConfigError: if another process has ended.
        """
        if self.size > 1:
            with _others_alive():
                dist.all_reduce(x)
        return x

    def mean_losses(self, losses: Losses, batch_size: int) -> Losses:
        """Losses of the batch, by those of this process's images."""
        if self.size == 1:
            return losses
        values = self.sum(self.weigh(torch.stack(list(losses.values())).detach(), batch_size))
        return dict(zip(losses, values, strict=True))

    def sum_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Sum the gradients over the processes, all in one message."""
        if self.size > 1:
            gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
            summed = self.sum(torch.cat([gradient.flatten() for gradient in gradients]))
            for gradient, own in zip(gradients, torch.split(summed, [g.numel() for g in gradients]), strict=True):
                gradient.copy_(own.view_as(gradient))

    def previous(self, x: Tensor, batch_size: int) -> Tensor:
        """The image before each of this process's images in the batch; before the first, the last."""
        if self.size == 1:
            return x.roll(1, 0)
        batch = x.new_zeros((batch_size, *x.shape[1:]))
        self.share(batch).copy_(x)
        return self.share(self.sum(batch).roll(1, 0))

    def any(self, flag: bool) -> bool:
        """Whether one of the processes says so."""
        return flag if self.size == 1 else bool(self.sum(torch.tensor(float(flag))))

    def same(self, state: TrainingState) -> None:
        """Give all processes the state of the first."""
        if self.size > 1:
            tensors, metadata = first_has(state.content() if self.rank == 0 else None)
            if self.rank:
                state.take("the first process's state", tensors, metadata)


def first_has(value: Any) -> Any:
    """What the first process has; the others' own value does not count.

    Raises:
        ConfigError: if another process has ended.
    """
    values = [value]
    with _others_alive():
        dist.broadcast_object_list(values, device=torch.device("cpu"))
    return values[0]


def check_shares(plan: Plan, n_ranks: int) -> None:
    """Refuse batches of which some process would have no image.

    Raises:
        ConfigError: saying what to change.
    """
    training = plan.config.training
    smallest = min(training.batch_size or 1, training.places.batch_size if training.places else n_ranks)
    if smallest < n_ranks:
        raise ConfigError(
            f"{n_ranks} processes cannot share batches of {smallest} images; give fewer --devices, or a larger "
            "training.batch_size"
        )


@contextmanager
def joined(device: str, **where: Any) -> Iterator[tuple[int, int]]:
    """Meet the other processes: this one's number, and how many there are.

    Args:
        device: that they compute on; "cuda" sums there, by NCCL, all else by gloo.
        where: store, rank and world_size; none: as the environment says.
    """
    # Imported later, its functions would keep the group as their default argument: it would outlive its end here, and
    # a thread of gloo that still holds a tensor when Python shuts down aborts the process.
    importlib.import_module("torch.distributed.nn.functional")
    dist.init_process_group("cpu:gloo,cuda:nccl" if device == "cuda" else "gloo", timeout=LONGEST_WAIT, **where)
    try:
        yield dist.get_rank(), dist.get_world_size()
    finally:
        dist.destroy_process_group()


def launched_size() -> int:
    """How many processes a launcher such as torchrun started for this training; one if there was none."""
    return int(os.environ.get("WORLD_SIZE", "1")) if "RANK" in os.environ else 1


def launched_here() -> int:
    """How many of them it started on this machine."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", launched_size())) if launched_size() > 1 else 1


def launched_number() -> int | None:
    """Which of those on this machine this process is; none if no launcher started it."""
    return int(os.environ.get("LOCAL_RANK", os.environ["RANK"])) if launched_size() > 1 else None


def follows() -> bool:
    """Whether a launcher started this process to follow another one."""
    return launched_size() > 1 and os.environ["RANK"] != "0"


def normalise_together(network: nn.Module, ranks: Ranks) -> None:
    """Make batch normalisation take its statistics from the images of all processes; the state keeps its names."""
    for module in list(network.modules()):
        for name, child in module.named_children():
            if isinstance(child, nn.BatchNorm2d):
                setattr(module, name, _BatchNorm(child, ranks))


class _BatchNorm(nn.BatchNorm2d):
    """Batch normalisation over the images of all processes; PyTorch's own is for GPUs alone."""

    def __init__(self, norm: nn.BatchNorm2d, ranks: Ranks) -> None:
        super().__init__(norm.num_features, norm.eps, norm.momentum or 0.0)
        self.weight, self.bias, self.ranks = norm.weight, norm.bias, ranks
        self.running_mean, self.running_var = norm.running_mean, norm.running_var
        self.num_batches_tracked = norm.num_batches_tracked
        self.train(norm.training)

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return super().forward(x)
        assert self.running_mean is not None and self.running_var is not None and self.num_batches_tracked is not None
        y, mean, var, n = _Normalised.apply(  # type: ignore[no-untyped-call]
            x, self.weight, self.bias, self.eps, self.ranks
        )
        with torch.no_grad():
            self.num_batches_tracked += 1
            self.running_mean.lerp_(mean.to(self.running_mean), self.momentum or 0.0)
            self.running_var.lerp_((var * n / (n - 1)).to(self.running_var), self.momentum or 0.0)
        return y  # type: ignore[no-any-return]


class _Normalised(torch.autograd.Function):
    """x → (x − mean) / √(var + eps) · weight + bias, with mean and variance of all processes' x, (N, C, H, W)."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, eps: float, ranks: Ranks
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        own_var, own_mean = (value.double() for value in torch.var_mean(x.float(), (0, 2, 3), correction=0))
        own_n = own_mean.new_full((1,), x.numel() / x.shape[1])
        sums = ranks.sum(torch.cat([own_n, own_n * own_mean, own_n * (own_var + own_mean.square())]))
        n, mean, mean_square = sums[:1], *(sums[1:] / sums[:1]).chunk(2)
        var = mean_square - mean.square()  # of float64, as the one is close to the other
        ctx.save_for_backward(x, weight, mean.float(), var.float(), n.float())
        ctx.eps, ctx.ranks = eps, ranks
        ctx.mark_non_differentiable(mean, var, n)
        return F.batch_norm(x, mean.float(), var.float(), weight, bias, False, 0.0, eps), mean, var, n

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, mean, var, n = ctx.saved_tensors
        # as if mean and variance were constants: that is all of it for weight and bias
        of_x, of_weight, of_bias = torch.ops.aten.native_batch_norm_backward(
            gradients[0].contiguous(), x, weight, mean, var, None, None, False, ctx.eps, [True, True, True]
        )
        mean_gradient, mean_product = ctx.ranks.sum(torch.stack([of_bias, of_weight])) / n
        scale = (var + ctx.eps).rsqrt()
        slope = -weight * scale.square() * mean_product  # what x does to its own mean and variance
        offset = -weight * scale * mean_gradient - slope * mean
        of_x += torch.addcmul(_each(offset), _each(slope), x).to(of_x.dtype)
        return of_x, of_weight, of_bias, None, None


def _each(values: Tensor) -> Tensor:
    return values[:, None, None]  # one value for each map of (N, C, H, W)


@contextmanager
def _others_alive() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        reason = str(error).split("] ", 1)[-1].split(". ")[0]  # between a line of C++ and a guess
        raise ConfigError(
            f"another process of this training has ended ({reason}); the same command goes on from the checkpoints"
        ) from None
