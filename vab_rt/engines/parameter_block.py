"""What the sampling kernels read of a request: one block of 32-bit words in device memory.

Its layout is described in `kernels/sampling`. Letters: B clips, S steps.
"""

import numpy as np
import numpy.typing as npt

HEADER_WORDS = 8


def num_parameter_words(clips: int, steps: int) -> int:
    """Length of the parameter block of B clips and S steps, in 32-bit words."""
    return HEADER_WORDS + 2 * clips + steps * (1 + clips)


def pack_parameters(
    seeds: npt.NDArray[np.uint64],
    guidance: float,
    temperature: float,
    top_k: int,
    mask_temperatures: npt.NDArray[np.float32],
    num_remask: npt.NDArray[np.int32],
    first_step: int = 0,
) -> npt.NDArray[np.int32]:
    """The parameter block of a request.

    seeds [B]; mask_temperatures [S], already annealed; num_remask [S, B]; first_step numbers the
    noise of the first step. The rest as for `vab_rt.sampling.sample_step`.
    """
    steps, clips = num_remask.shape
    block = np.zeros(num_parameter_words(clips, steps), np.int32)
    floats, words = block.view(np.float32), block.view(np.uint32)
    floats[0], floats[1] = guidance, 1 / temperature
    block[2], block[3], words[4] = top_k, steps, first_step
    start = HEADER_WORDS + 2 * clips
    words[HEADER_WORDS:start] = seeds.astype("<u8").view("<u4")
    floats[start:].reshape(steps, 1 + clips)[:, 0] = mask_temperatures
    block[start:].reshape(steps, 1 + clips)[:, 1:] = num_remask
    return block
