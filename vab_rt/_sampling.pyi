import numpy as np
import numpy.typing as npt

class Sampler:
    def __init__(self, threads: int) -> None: ...
    @property
    def num_threads(self) -> int: ...
    def sample_step(
        self,
        tokens: npt.NDArray[np.int32],
        conditional: npt.NDArray[np.float32],
        unconditional: npt.NDArray[np.float32] | None,
        seeds: npt.NDArray[np.uint64],
        step: int,
        guidance: float,
        inverse_temperature: float,
        top_k: int,
        mask_temperature: float,
        num_remask: npt.NDArray[np.int32],
    ) -> bool: ...
