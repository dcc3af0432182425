"""AudioLDM out of a folder in the layout of diffusers: unet/, vae/, vocoder/ and text_encoder/,
each a config.json beside its weights, and scheduler/scheduler_config.json.

The networks take their sizes from their configs, are built without memory, and every tensor must
fit. Of the text encoder only what it makes of no text is kept: the null embedding of guidance.
"""

import math
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import msgspec
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from export.weights.parts import check_facts, fit_weights
from export.weights.reading import first_file, read_json, read_tensors, sha256_of
from training.v2a_mapper.parts import build_unet, build_vae, build_vocoder
from vab_rt.errors import ExportError
from vab_rt.v2a_config import V2AConfig

LICENCE = "CC-BY-NC-SA-4.0"
"""Of all that its authors publish (huggingface.co/cvssp, since April 2024)."""

PIPELINE = "AudioLDMPipeline"
WEIGHTS = (
    "diffusion_pytorch_model.safetensors",
    "model.safetensors",
    "diffusion_pytorch_model.bin",
    "pytorch_model.bin",
)
BUILDERS: dict[str, Callable[[dict[str, Any]], nn.Module]] = {
    "unet": build_unet,
    "vae": build_vae,
    "vocoder": build_vocoder,
}
OLD_NAMES = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}
"""Of attention in autoencoders, before diffusers 0.16."""
NOT_LEARNED = ("embeddings.position_ids", "embeddings.token_type_ids")
_ADVICE = "get the folder as safetensors, or save it again with save_pretrained"
_SIBLING = "choose cvssp/audioldm-s-full-v2 or one of its sizes"


class AudioLdm(msgspec.Struct, frozen=True, kw_only=True):
    """weights and settings: by network (BUILDERS). source: for people, in the provenance."""

    weights: dict[str, dict[str, Tensor]]
    settings: dict[str, dict[str, Any]]
    null_embedding: Tensor
    source: str


def read_audioldm(folder: Path, config: V2AConfig) -> AudioLdm:
    """The networks in a folder, for a model of this config.

    Raises ExportError for a folder that is of another model, cannot be read safely, or lacks what
    it takes.
    """
    check_pipeline(folder)
    settings = {name: read_json(config_of(folder, name)) for name in (*BUILDERS, "text_encoder")}
    check_widths(folder, settings, config)
    check_scheduler(folder, config)
    known = {name: _known(folder, name, settings[name]) for name in BUILDERS}
    weights = {name: read_network(folder, name, known[name]) for name in BUILDERS}
    files = [weights_of(folder, name) for name in (*BUILDERS, "text_encoder")]
    hashes = ", ".join(f"{file.parent.name} {sha256_of(file)}" for file in files)
    return AudioLdm(
        weights=weights,
        settings=known,
        null_embedding=null_embedding(folder, settings["text_encoder"]),
        source=f"AudioLDM, imported from {folder.name}, sha256 of {hashes}",
    )


def check_pipeline(folder: Path) -> None:
    """That the folder is of AudioLDM, and not of its successor."""
    if not folder.is_dir():
        raise ExportError(
            f"{folder} is not a folder, expected one of {PIPELINE} in the layout of diffusers; "
            "download it with: huggingface-cli download cvssp/audioldm-s-full-v2"
        )
    index = folder / "model_index.json"
    found = read_json(index).get("_class_name") if index.is_file() else PIPELINE
    if found != PIPELINE or (folder / "language_model").exists():
        found = found if found != PIPELINE else "AudioLDM2Pipeline, as it has a language_model"
        raise ExportError(
            f"{folder} is of {found}, expected {PIPELINE}: AudioLDM2 is conditioned on the states "
            f"of language models, and not on a CLAP embedding; {_SIBLING}"
        )


def config_of(folder: Path, name: str) -> Path:
    path = folder / name / "config.json"
    if not path.is_file():
        why = ", for the embedding of no text, which guidance takes" * (name == "text_encoder")
        raise ExportError(
            f"{folder} has no {name}/config.json, expected one beside the weights{why}; copy the "
            "whole folder from where it came"
        )
    return path


def weights_of(folder: Path, name: str) -> Path:
    return first_file(folder / name, WEIGHTS)


def check_widths(folder: Path, settings: dict[str, dict[str, Any]], config: V2AConfig) -> None:
    """That the networks fit each other and the config, as far as their configs say it."""
    c, vae, vocoder = config, settings["vae"], settings["vocoder"]
    expected: dict[str, dict[str, Any]] = {
        "unet": {
            "in_channels": c.latent_channels,
            "out_channels": c.latent_channels,
            "class_embed_type": "simple_projection",
            "projection_class_embeddings_input_dim": c.audio_dim,
        },
        "vae": {"in_channels": 1, "out_channels": 1, "latent_channels": c.latent_channels},
        "vocoder": {"model_in_dim": c.num_mels, "sampling_rate": c.sample_rate_hz},
        "text_encoder": {"projection_dim": c.audio_dim},
    }
    needed = {"unet": expected["unet"], "vae": {"scaling_factor", "block_out_channels"}}
    needed["vocoder"] = {"upsample_rates", "normalize_before"}
    for name, keys in needed.items():
        for key in keys:
            if key not in settings[name]:
                raise ExportError(
                    f"{folder / name}/config.json has no {key}, expected it, as AudioLDM's has; "
                    f"{_SIBLING}"
                )
    for name, facts in expected.items():
        check_facts(folder / name / "config.json", settings[name], facts)
    found = {
        "latent_factor": 2 ** (len(vae["block_out_channels"]) - 1),
        "hop_samples": math.prod(vocoder["upsample_rates"]) * c.latent_factor,
    }
    check_facts(folder, found, {key: getattr(c, key) for key in found})


def check_scheduler(folder: Path, config: V2AConfig) -> None:
    """That the noise was trained, and is meant to be taken out, as the runtime does it."""
    c, path = config, folder / "scheduler" / "scheduler_config.json"
    if not path.is_file():
        raise ExportError(
            f"{folder} has no scheduler/scheduler_config.json, expected the noise levels that the "
            "model was trained with; copy the whole folder from where it came"
        )
    expected = {
        "num_train_timesteps": c.timesteps,
        "beta_start": c.beta_start,
        "beta_end": c.beta_end,
        "beta_schedule": "scaled_linear",
        "prediction_type": "epsilon",
        "clip_sample": False,
        "set_alpha_to_one": False,
        "steps_offset": c.steps_offset,
        "timestep_spacing": "leading",
        "rescale_betas_zero_snr": False,
        "thresholding": False,
    }
    check_facts(path, read_json(path), expected)


def _known(folder: Path, name: str, settings: dict[str, Any]) -> dict[str, Any]:
    """Those settings that the network's constructor takes; others must say nothing."""
    allowed = constructor_keys(name)
    plain = {key: value for key, value in settings.items() if not key.startswith("_")}
    unknown = [key for key in plain if key not in allowed and name != "vocoder" and plain[key]]
    if unknown:
        raise ExportError(
            f"{folder / name}/config.json has {unknown[0]} = {plain[unknown[0]]!r}, which this "
            f"diffusers does not know, expected a {name} of AudioLDM; {_SIBLING}"
        )
    return {key: value for key, value in plain.items() if key in allowed}


def constructor_keys(name: str) -> set[str]:
    import inspect

    from diffusers import AutoencoderKL, UNet2DConditionModel
    from transformers import SpeechT5HifiGanConfig

    takes = {
        "unet": UNet2DConditionModel.__init__,
        "vae": AutoencoderKL.__init__,
        "vocoder": SpeechT5HifiGanConfig.__init__,
    }
    return set(inspect.signature(takes[name]).parameters) - {"self", "kwargs"}


def read_network(folder: Path, name: str, settings: dict[str, Any]) -> dict[str, Tensor]:
    """The weights of one network, under the names that the libraries have today."""
    with torch.device("meta"):
        expected = BUILDERS[name](settings).state_dict()
    path = weights_of(folder, name)
    found = read_tensors(path, _ADVICE)
    return fit_weights(path, {_renamed(key): x for key, x in found.items()}, expected)


def _renamed(name: str) -> str:
    if "mid_block.attentions" not in name:
        return name
    words = name.split(".")
    return ".".join(OLD_NAMES.get(word, word) for word in words)


@torch.no_grad()
def null_embedding(folder: Path, settings: dict[str, Any]) -> Tensor:
    """What the CLAP text encoder makes of no text, [audio_dim] of unit length.

    Without a tokenizer: no text is its first and its last token. Padding, which AudioLDM adds and
    masks, changes nothing.
    """
    from transformers import ClapTextConfig, ClapTextModelWithProjection

    config = ClapTextConfig.from_dict(settings)
    with torch.device("meta"):
        expected = ClapTextModelWithProjection(config).state_dict()
    path = weights_of(folder, "text_encoder")
    found = read_tensors(path, _ADVICE)
    weights = fit_weights(path, dict(_learned(found)), dict(_learned(expected)))
    encoder = ClapTextModelWithProjection(config).eval()
    encoder.load_state_dict(weights, strict=False)
    tokens = torch.tensor([[config.bos_token_id, config.eos_token_id]])
    embedding = encoder(tokens, attention_mask=torch.ones_like(tokens)).text_embeds[0]
    if not torch.isfinite(embedding).all() or not embedding.any():
        raise ExportError(f"{path} gives no text an embedding without direction, expected one")
    return F.normalize(embedding, dim=-1)


def _learned(weights: dict[str, Tensor]) -> Iterable[tuple[str, Tensor]]:
    return ((name, x) for name, x in weights.items() if not name.endswith(NOT_LEARNED))
