"""The CLAP that AudioLDM was trained with, as transformers keeps it: sound to one unit vector."""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F
from torchaudio.functional import resample

from training.v2a_mapper.parts import library
from vab_rt.errors import DataError, first_line
from vab_rt.v2a_mapper.config import V2AConfig

SAME_TEXT = 0.99
"""Cosine of two vectors of no text, from which on they are of one CLAP."""


class Clap(NamedTuple):
    """model: transformers' ClapModel. extractor: its ClapFeatureExtractor."""

    model: nn.Module
    extractor: Any

    @torch.inference_mode()
    def vector(self, audio: NDArray[np.float32], rate_hz: int) -> NDArray[np.float32]:
        """The unit vector [audio_dim] of sound [S], of which CLAP hears the first 10 s.

        It is brought to CLAP's own rate, as AudioLDM does with what it is trained on; what is
        shorter is repeated.
        """
        wanted_hz = self.extractor.sampling_rate
        heard = resample(torch.from_numpy(audio), rate_hz, wanted_hz)
        heard = heard[: self.extractor.nb_max_samples].numpy()
        inputs = self.extractor(heard, sampling_rate=wanted_hz, return_tensors="pt")
        pooled = self.model.audio_model(inputs["input_features"].float()).pooler_output
        return F.normalize(self.model.audio_projection(pooled), dim=-1)[0].numpy()

    @torch.inference_mode()
    def vector_of_no_text(self) -> Tensor:
        """Unit vector [audio_dim] of the text's first and last token alone."""
        config = self.model.config.text_config
        tokens = torch.tensor([[config.bos_token_id, config.eos_token_id]])
        pooled = self.model.text_model(tokens, attention_mask=torch.ones_like(tokens)).pooler_output
        return F.normalize(self.model.text_projection(pooled), dim=-1)[0]


def open_clap(folder: Path, config: V2AConfig, null_embedding: Tensor) -> Clap:
    """null_embedding [audio_dim]: of AudioLDM's own CLAP, of which this must be the whole.

    Raises DataError for a folder that cannot be read, or is of another CLAP.
    """
    if not folder.is_dir():
        raise DataError(f"{folder} is not a folder, expected CLAP as transformers saves it")
    transformers = library("transformers")
    try:
        model, loaded = transformers.ClapModel.from_pretrained(
            folder, local_files_only=True, output_loading_info=True
        )
        extractor = transformers.ClapFeatureExtractor.from_pretrained(folder, local_files_only=True)
    except Exception as error:  # of transformers, safetensors and torch, which share no base
        raise DataError(
            f"{folder} cannot be read as CLAP ({first_line(error)}), expected config.json, weights "
            "and preprocessor_config.json, as transformers saves them"
        ) from error
    check_clap(folder, model.config, extractor, config)
    lacking = sorted(loaded["missing_keys"])
    if lacking:
        raise DataError(
            f"{folder} lacks {lacking[0]} ({len(lacking)} in all), expected all of CLAP"
        )
    clap = Clap(model.float().eval(), extractor)
    likeness = float(clap.vector_of_no_text() @ null_embedding.float())
    if likeness < SAME_TEXT:
        raise DataError(
            f"{folder} is of another CLAP than AudioLDM's: their vectors of no text have the "
            f"cosine {likeness:.3f}, expected 1; a mapper to its vectors would mean nothing to "
            "this AudioLDM"
        )
    return clap


def check_clap(folder: Path, found: Any, extractor: Any, config: V2AConfig) -> None:
    """Raises DataError for sizes or inputs that are not AudioLDM's."""
    facts = {
        "projection_dim": (found.audio_config.projection_dim, config.audio_dim),
        "text projection_dim": (found.text_config.projection_dim, config.audio_dim),
        "enable_fusion": (found.audio_config.enable_fusion, False),
        "truncation": (extractor.truncation, "rand_trunc"),
    }
    for name, (has, expected) in facts.items():
        if has != expected:
            raise DataError(
                f"{folder} has {name} {has!r}, expected {expected!r}, as the CLAP of AudioLDM; "
                "choose that, such as laion/clap-htsat-unfused"
            )
