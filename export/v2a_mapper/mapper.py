"""A mapper's weights: a state_dict of ours, or a DiffusionPrior of DALLE2-pytorch, as .safetensors
or a .pt of tensors."""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from export.weights.parts import fit_weights
from export.weights.reading import read_tensors
from training.stage import sha256
from training.v2a_mapper.mapper import build_mapper
from training.v2a_mapper.settings import MapperSettings
from vab_rt.errors import ExportError
from vab_rt.v2a_mapper.config import V2AConfig
from vab_rt.v2a_mapper.diffusion import cosine_alphas

PREFIXES = ("", "module.", "mapper.", "net.", "prior.net.", "module.net.")
NOT_LEARNED = "rotary_emb.freqs"
SCHEDULE = "noise_scheduler.alphas_cumprod"
_ADVICE = "save the mapper's state_dict alone, with torch.save or safetensors"


def read_mapper(
    path: Path, config: V2AConfig, settings: MapperSettings
) -> tuple[dict[str, Tensor], str]:
    """The weights of the mapper that the config names, and where they come from.

    Raises ExportError for a file that cannot be read safely or is of another mapper.
    """
    if not path.is_file():
        raise ExportError(f"{path} is not a file, expected a mapper as .safetensors or .pt")
    with torch.device("meta"):
        mapper = build_mapper(config, settings)
    if mapper is None:
        raise ExportError(
            f"{path}: model {config.name} takes no mapper, expected regression or prior in its "
            "config; choose another --config"
        )
    found, expected = read_tensors(path, _ADVICE), mapper.state_dict()
    check_schedule(path, found, config)
    weights = fit_weights(path, without_prefix(found, expected), expected)
    return weights, f"{config.mapper}, imported from {path.name}, sha256 {sha256(path)}"


def without_prefix(found: dict[str, Tensor], expected: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors below the prefix that has the most of the expected names."""
    learned = {name: x for name, x in found.items() if not name.endswith(NOT_LEARNED)}

    def num_known(prefix: str) -> int:
        return sum(prefix + name in learned for name in expected)

    prefix = max(PREFIXES, key=num_known)
    return {name.removeprefix(prefix): x for name, x in learned.items() if name.startswith(prefix)}


def check_schedule(path: Path, found: dict[str, Tensor], config: V2AConfig) -> None:
    """That a whole DiffusionPrior was trained with the noise that the runtime takes out."""
    schedule = next((x for name, x in found.items() if name.endswith(SCHEDULE)), None)
    if schedule is None:
        return
    expected = cosine_alphas(config.mapper_timesteps)
    if schedule.shape != expected.shape or not np.allclose(schedule, expected, atol=1e-4):
        raise ExportError(
            f"{path} was trained with {len(schedule)} noise levels from {schedule[0]:.4g} to "
            f"{schedule[-1]:.4g}, expected the {len(expected)} of the cosine schedule; choose "
            "another file, or a --config with its mapper_timesteps"
        )
