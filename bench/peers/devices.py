"""Where the peers run: the first GPU in half precision, or the CPU in float32."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from bench import report
from bench.machine import machine
from bench.roofline import Roofline, measure_roofline

GPU_MATRIX = 8192
GPU_COPIED_BYTES = 2**30
WARM_UPS, REPEATS = 3, 20
PRECISIONS = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


@dataclass(frozen=True)
class Device:
    """kind: "cpu" or "cuda", as torch and the runtime name it."""

    kind: str
    name: str
    precision: str

    @property
    def dtype(self) -> torch.dtype:
        return PRECISIONS[self.precision]

    @property
    def number_bytes(self) -> int:
        return self.dtype.itemsize

    def wait(self) -> None:
        """Until everything launched so far is done."""
        if self.kind == "cuda":
            torch.cuda.synchronize()

    def elapsed_ms(self, call: Callable[[], object]) -> float:
        self.wait()
        return report.elapsed_ms(lambda: (call(), self.wait()))

    def roofline(self) -> Roofline:
        """The peaks of this device in this precision, measured now."""
        return measure_roofline() if self.kind == "cpu" else self._gpu_roofline()

    def _gpu_roofline(self) -> Roofline:
        a, b = torch.randn(2, GPU_MATRIX, GPU_MATRIX, device=self.kind).to(self.dtype)
        source = torch.ones(GPU_COPIED_BYTES, dtype=torch.uint8, device=self.kind)
        product, target = torch.empty_like(a), torch.empty_like(source)
        return Roofline(
            flops_per_s=2e3 * GPU_MATRIX**3 / self._best_ms(lambda: torch.mm(a, b, out=product)),
            bytes_per_s=2e3 * GPU_COPIED_BYTES / self._best_ms(lambda: target.copy_(source)),
        )

    def _best_ms(self, call: Callable[[], Tensor]) -> float:
        return min([self.elapsed_ms(call) for _ in range(WARM_UPS + REPEATS)][WARM_UPS:])


def find_device(precision: str | None = None) -> Device:
    """The first GPU that torch finds, or else the CPU; precision: of the former."""
    if torch.cuda.is_available():
        return Device("cuda", torch.cuda.get_device_name(), precision or "fp16")
    return Device("cpu", str(machine()["cpu"]), "fp32")
