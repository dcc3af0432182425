"""Decoding on a GPU: every step is enqueued, and nothing comes back before the last.

Tokens, logits, the parameter block and the step counter lie in device memory. Where the backbone
can be captured, one step is one CUDA graph, replayed for each step; where it replays a graph of
its own, the sampling follows it on the same stream.
"""

import contextlib
import logging
import time
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from vab_rt.config import TokenOptions
from vab_rt.contract import GraphContract
from vab_rt.decoding import Tokens, remask_count
from vab_rt.engines.cuda_sampling import CudaSampler
from vab_rt.engines.device_arrays import DeviceArray
from vab_rt.engines.gpu import Gpu, in_one_line, part_of, reshaped
from vab_rt.errors import BackendError

log = logging.getLogger(__name__)

MAX_STEPS = 1024

Enqueue = Callable[[], None]
"""Puts one run of a graph on the GPU's stream, and returns at once."""


class DeviceGraph(Protocol):
    """One graph on a GPU, whatever library runs it."""

    can_be_captured: bool

    def bind(self, tensors: dict[str, DeviceArray]) -> Enqueue:
        """A run that reads and writes these arrays, every input and output by name.

        The arrays fix the shapes; they must live as long as the run is used. What else it takes
        goes with it.
        """
        ...


class DeviceLoop:
    """The loop for one shape: B clips, with or without guidance.

    launching_s: what putting all steps of the last request on the stream cost the host.
    is_captured: whether a step is one CUDA graph here, whatever the backbone does in its own.
    """

    launching_s = 0.0
    is_captured = False

    def __init__(
        self, gpu: Gpu, backbone: DeviceGraph, contract: GraphContract, clips: int, is_guided: bool
    ) -> None:
        rows = clips * (2 if is_guided else 1)
        self._gpu, self.clips = gpu, clips
        self._arrays = arrays_of(gpu, contract, rows)
        try:
            self._prepare(backbone, rows)
        except Exception:
            with contextlib.suppress(BackendError):  # what went wrong first says more
                self.close()
            raise

    def _prepare(self, backbone: DeviceGraph, rows: int) -> None:
        gpu, (_, k, t, v) = self._gpu, self._arrays["logits"].shape
        self._enqueue_backbone = backbone.bind(self._arrays)
        self._sampler = CudaSampler(
            self.clips,
            k * t,
            v,
            max_steps=MAX_STEPS,
            device_id=gpu.device_id,
            stream=gpu.stream,
        )
        conditional = (np.arange(rows) < self.clips).astype(np.float32)
        gpu.upload(self._arrays["conditional"], conditional)
        self._launch: Enqueue = self._step
        self._warm_up()
        if backbone.can_be_captured:
            self._launch = self._capture() or self._step
            self.is_captured = self._launch != self._step

    def run(
        self,
        given: Mapping[str, npt.NDArray[Any]],
        tokens: Tokens,
        seeds: npt.NDArray[np.uint64],
        options: TokenOptions,
    ) -> Tokens:
        """Finished tokens [B, K, T]: what goes in is uploaded first, what comes out is last.

        given: the backbone's inputs beside tokens and branch, [B, ...].
        """
        branches = self._arrays["logits"].shape[0] // self.clips
        for name, values in given.items():
            self._gpu.upload(self._arrays[name], np.concatenate([values] * branches))
        self._gpu.upload(part_of(self._arrays["tokens"], 0, self.clips), tokens)
        mask_id = self._arrays["logits"].shape[3]
        mask_temperatures, num_remask = schedule(options, (tokens == mask_id).sum(axis=(1, 2)))
        self._sampler.begin(
            seeds,
            guidance=options.guidance,
            temperature=options.temperature,
            top_k=options.top_k,
            mask_temperatures=mask_temperatures,
            num_remask=num_remask,
        )
        begin_s = time.perf_counter()
        for _ in range(options.steps):
            self._launch()
        self.launching_s = time.perf_counter() - begin_s
        result: Tokens = self._gpu.download(part_of(self._arrays["tokens"], 0, self.clips))
        self._sampler.check()
        return result

    def close(self) -> None:
        """Give the memory back, also that of the run; the loop is of no more use."""
        self._gpu.wait()
        self._launch = self._enqueue_backbone = _closed
        for array in self._arrays.values():
            self._gpu.free(array)

    def _step(self, stream: Any = None) -> None:
        clips, (rows, k, t, v) = self.clips, self._arrays["logits"].shape
        tokens = part_of(self._arrays["tokens"], 0, clips)
        logits = reshaped(self._arrays["logits"], rows, k * t, v)
        if rows > clips:
            self._gpu.copy(part_of(self._arrays["tokens"], clips, rows), tokens)
        self._enqueue_backbone()
        self._sampler.launch(
            reshaped(tokens, clips, k * t),
            part_of(logits, 0, clips),
            part_of(logits, clips, rows) if rows > clips else None,
            stream,
        )

    def _warm_up(self) -> None:
        """One step in which nothing is masked: libraries choose and allocate at the first run."""
        for name, array in self._arrays.items():
            if name not in ("conditional", "logits"):
                self._gpu.upload(array, np.zeros(array.shape, array.dtype))
        self._sampler.begin(
            np.zeros(self.clips, np.uint64),
            guidance=1.0,
            temperature=1.0,
            top_k=1,
            mask_temperatures=np.zeros(1, np.float32),
            num_remask=np.zeros((1, self.clips), np.int32),
        )
        self._step()
        self._gpu.wait()

    def _capture(self) -> Enqueue | None:
        """The step as one graph, or None, with a warning, where there can be none.

        What it holds the addresses of lives as long as this object.
        """
        stream = self._gpu.stream
        builder = stream.create_graph_builder()
        try:
            builder.begin_building(mode="relaxed")
            self._step(builder)
            graph = builder.end_building().complete()
        except Exception as error:  # noqa: BLE001 - of cuda-core, or of the backbone's library
            log.warning(
                "the decoding step of %d clips is no CUDA graph, which costs time (%s)",
                self.clips,
                in_one_line(error),
            )
            return None
        finally:
            with contextlib.suppress(Exception):  # of a capture that was broken off
                builder.close()  # nothing else runs on a stream that is still being captured

        def replay() -> None:
            try:
                graph.launch(stream)
            except Exception as error:  # cuda-core's errors share no other base
                raise BackendError(
                    f"the decoding step of {self.clips} clips fails on {self._gpu.name} "
                    f"({in_one_line(error)}), expected it to run; start the program again"
                ) from error

        return replay


def _closed() -> None:
    raise AssertionError("the loop is closed, expected one of DeviceEngines.loop_for")


def schedule(
    options: TokenOptions, num_masked: npt.NDArray[np.intp]
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int32]]:
    """Mask temperatures [S] and positions masked again [S, B], as `decode_masked` has them."""
    steps = options.steps
    ratios = (np.arange(steps) + 1) / steps
    counts = [[remask_count(step, steps, int(n)) for n in num_masked] for step in range(steps)]
    temperatures = (options.mask_temperature * (1 - ratios)).astype(np.float32)
    return temperatures, np.array(counts, np.int32)


def arrays_of(gpu: Gpu, contract: GraphContract, rows: int) -> dict[str, DeviceArray]:
    """Memory for the inputs and outputs of a graph, by name; none of it where all is too much."""
    arrays: dict[str, DeviceArray] = {}
    try:
        for tensor in (*contract.inputs, *contract.outputs):
            shape = tuple(rows if isinstance(size, str) else size for size in tensor.shape)
            arrays[tensor.name] = gpu.array(tensor.dtype, shape)
    except BackendError:
        for array in arrays.values():
            gpu.free(array)
        raise
    return arrays
