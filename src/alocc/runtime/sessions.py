"""The engines that compute an exported graph. Each needs its own library, and is loaded when a file asks for it."""

from __future__ import annotations

import ctypes
import json
import os
import threading
import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from alocc.errors import ArtefactError, ConfigError, InputError

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # its threads hang a forked process that ends; read when it loads

METADATA_KEY = "alocc"
VERDICTS, MAP = ("anomaly_score", "p_value", "is_anomaly"), "anomaly_map"
"""Outputs of every graph, and of one that gives maps."""
WITH_MAPS = "with_maps"
"""Input of an ONNX graph that gives maps: whether it computes them; true unless it is given."""
SUFFIXES = (".onnx", ".xml")
MOST_NOTES = 100_000_000
"""Letters; a held-out score takes about 20."""

Outputs = tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.bool_]]
"""Of :data:`VERDICTS`."""


def open_session(path: Path, threads: int) -> OnnxSession | OpenVinoSession:
    """Load an exported file.

    ``metadata`` of a session is what the file says of itself; ``run`` may be called by as many threads as ``at_once``
    says, each of which computes alone, because sharing a batch wastes more.

    Raises:
        ArtefactError: if it is missing, damaged, or has another kind of name.
        ConfigError: if its engine is not installed.
    """
    if path.suffix not in SUFFIXES:
        raise ArtefactError(f"{path} is no exported detector: its name must end in {' or '.join(SUFFIXES)}")
    if not path.is_file():
        raise ArtefactError(f"{path} does not exist; alocc export RUN writes such a file")
    try:
        return OnnxSession(path, threads) if path.suffix == ".onnx" else OpenVinoSession(path, threads)
    except ImportError:
        name = "onnxruntime" if path.suffix == ".onnx" else "openvino"
        raise ConfigError(f"{path} needs {name}; install it with: pip install {name}") from None
    except InputError:
        raise
    except Exception as error:  # engines raise all kinds on files that are not what they say
        reason = str(error).strip().partition("\n")[0][:200]
        raise ArtefactError(f"{path} is damaged or no model that this engine knows ({reason})") from None


class OnnxSession:
    """ONNX Runtime on the CPU; any number of images changes no bit."""

    only_batch: int | None = None

    def __init__(self, path: Path, threads: int) -> None:
        import onnxruntime

        self.at_once = threads
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = 1, 1
        options.log_severity_level = 4  # what goes wrong is raised; it need not be printed too
        self._session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        self._may_leave_maps = WITH_MAPS in {given.name for given in self._session.get_overridable_initializers()}
        self.metadata = _notes(self._session.get_modelmeta().custom_metadata_map.get(METADATA_KEY, "null"))

    def run(self, images: NDArray[np.uint8], names: Sequence[str] = VERDICTS) -> list[NDArray[Any]]:
        """The outputs with these names; those of every graph unless others are named."""
        inputs: dict[str, NDArray[Any]] = {"images": images}
        if self._may_leave_maps:
            inputs[WITH_MAPS] = np.array(MAP in names)
        outputs: list[NDArray[Any]] = self._session.run(names, inputs)
        return outputs


class OpenVinoSession:
    """OpenVINO on the CPU, in 32 bits: by itself it takes 16 where the processor can."""

    only_batch: int | None = 8
    """So many images are judged at a time, the last ones filled up: by their number, it chooses how to compute."""

    def __init__(self, path: Path, threads: int) -> None:
        import openvino

        if not path.with_suffix(".bin").is_file():
            raise ArtefactError(f"{path} needs {path.with_suffix('.bin').name} beside it, which does not exist")
        self._model = model = openvino.Core().read_model(path)
        self.metadata = _notes(
            model.get_rt_info(METADATA_KEY).astype(str) if model.has_rt_info([METADATA_KEY]) else "null"
        )
        self.at_once = threads
        self._compiled: dict[frozenset[str], Any] = {}
        self._requests, self._compiling = threading.local(), threading.Lock()
        self._compiled_for(frozenset(VERDICTS))
        _open_vino_sessions.add(self)

    def run(self, images: NDArray[np.uint8], names: Sequence[str] = VERDICTS) -> list[NDArray[Any]]:
        """The outputs with these names; those of every graph unless others are named."""
        wanted = frozenset(names)
        if not hasattr(self._requests, "own"):
            self._requests.own = {}
        if wanted not in self._requests.own:
            self._requests.own[wanted] = self._compiled_for(wanted).create_infer_request()
        found = self._requests.own[wanted].infer({"images": images})
        return [found[name].copy() for name in names]

    def _compiled_for(self, names: frozenset[str]) -> Any:
        """The model with these outputs alone: it computes all that it has."""
        import openvino

        with self._compiling:
            if names not in self._compiled:
                wanted = [result for result in self._model.results if names & result.output(0).names]
                model = openvino.Model(wanted, self._model.get_parameters())
                settings = {
                    "INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": self.at_once,
                    "NUM_STREAMS": self.at_once,
                }  # fmt: skip
                self._compiled[names] = openvino.Core().compile_model(model, "CPU", settings)
            return self._compiled[names]

    def leave(self) -> None:
        """In a forked process, which lacks its threads: compile anew when needed; freeing it would wait for them."""
        for lost in (*self._compiled.values(), *getattr(self._requests, "own", {}).values()):
            ctypes.pythonapi.Py_IncRef(ctypes.py_object(lost))
        self._compiled = {}
        self._requests, self._compiling = threading.local(), threading.Lock()


_open_vino_sessions: weakref.WeakSet[OpenVinoSession] = weakref.WeakSet()


def _after_fork() -> None:
    for session in _open_vino_sessions:
        session.leave()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def _notes(text: str) -> Any:
    """What a file says of itself."""
    if len(text) > MOST_NOTES:
        raise ValueError(f"{len(text):,} letters of notes; {MOST_NOTES:,} are allowed")
    return json.loads(text)
