"""A Ray cluster for as long as it is needed: one that is there, or one of this machine's processes."""

from __future__ import annotations

import itertools
import logging
import os
import re
import shutil
import signal
import socket
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from alocc.errors import AloccError, ConfigError

SETTINGS = {
    "RAY_USAGE_STATS_ENABLED": "0",  # nothing is reported to anybody
    "RAY_BACKEND_LOG_LEVEL": "fatal",  # its log files have the rest
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # what it will do anyway, and else warns of
}

Result = TypeVar("Result")


def check_ray() -> None:
    """Refuse early.

    Raises:
        ConfigError: if Ray is not installed.
    """
    for name, value in SETTINGS.items():
        os.environ.setdefault(name, value)  # read when it loads
    try:
        import ray.data  # noqa: F401
    except ImportError:
        raise ConfigError("--engine ray needs Ray; install it with: pip install 'ray[data]'") from None


@contextmanager
def cluster(address: str | None, workers: int | None) -> Iterator[int]:
    """Connect, and say how many workers there may be at a time: so many, or as many as the cluster has CPUs.

    Without an address a cluster of this machine's processes starts, and ends with the block.

    Raises:
        ConfigError: if there is no cluster at the address.
        AloccError: if the block fails because a worker does, and not by being killed, which another one makes good.
    """
    check_ray()
    import ray

    folder = tempfile.mkdtemp(prefix="alocc-")  # a short path: that of a socket may not be long
    here: dict[str, Any] = {"num_cpus": (workers or 1) + 1, "include_dashboard": False, "_temp_dir": folder}
    terminate = signal.getsignal(signal.SIGTERM)
    try:
        try:
            if address:
                _check_listening(address)
            with _standard_error_closed():
                options = {"log_to_driver": False, "logging_level": logging.CRITICAL}
                ray.init(address or "local", **options, **({} if address else here))
        except (OSError, ValueError, RuntimeError) as error:
            reason = str(error).strip().partition("\n")[0]
            where = f"no Ray cluster at --address {address}" if address else "Ray cannot start here"
            raise ConfigError(f"{where} ({reason})") from None
        signal.signal(signal.SIGTERM, terminate)  # Ray has set its own
        logging.getLogger("ray.data").setLevel(logging.CRITICAL)
        yield workers or max(1, int(ray.cluster_resources().get("CPU", 1)) - 1)  # one is for what moves rows
    except ray.exceptions.RayError as error:
        reasons = re.findall(r"^(?:\w+\.)*(\w+Error: .+)", str(error), re.MULTILINE)  # of a traceback
        raise AloccError(f"a worker failed ({reasons[0] if reasons else type(error).__name__})") from None
    finally:
        ray.shutdown()
        shutil.rmtree(folder, ignore_errors=True)


def call_each(
    function: Callable[..., Result], arguments: Iterable[tuple[Any, ...]], address: str | None, workers: int | None
) -> Iterator[Result]:
    """Results of calls, as they end; so many at a time, one a CPU. A call whose worker dies is made again, three times.

    Raises:
        ConfigError, AloccError: as :func:`cluster`.
    """
    with cluster(address, workers) as most:
        import ray

        remote = ray.remote(num_cpus=1)(function)
        left, running = iter(arguments), list[Any]()
        while True:
            running += [remote.remote(*each) for each in itertools.islice(left, most - len(running))]
            if not running:
                return
            done, running = ray.wait(running)
            yield from ray.get(done)


def _check_listening(address: str) -> None:
    """Whether anything is there, host:port, for which Ray would wait for minutes; an OSError if not."""
    host, _, port = address.partition("://")[2].rpartition(":") if "://" in address else address.rpartition(":")
    if port.isdigit():
        socket.create_connection((host, int(port)), timeout=10).close()


@contextmanager
def _standard_error_closed() -> Iterator[None]:
    """While it starts, Ray's core says what its settings are."""
    kept, nothing = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nothing, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nothing)
