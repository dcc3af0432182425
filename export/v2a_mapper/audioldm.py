"""AudioLDM out of a folder in the layout of diffusers: unet/, vae/, vocoder/ and text_encoder/,
each a config.json beside its weights, and scheduler/scheduler_config.json.

The networks take their sizes from their configs, are built without memory, and every tensor must
fit. Of the text encoder only what it makes of no text is kept: the null embedding of guidance.
"""

import inspect
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from export.weights.parts import check_facts, fit_weights
from export.weights.reading import first_file, read_json, read_tensors
from training.stage import sha256
from training.v2a_mapper.parts import (
    build_unet,
    build_vae,
    build_vocoder,
    check_networks,
    library,
)
from training.v2a_mapper.settings import Networks
from vab_rt.errors import ExportError, OptionError
from vab_rt.v2a_mapper.config import V2AConfig

LICENSE = "CC-BY-NC-SA-4.0"
"""The license of all that AudioLDM's authors publish (huggingface.co/cvssp, since April 2024)."""

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
STATED = {
    "unet": ("block_out_channels", "class_embed_type", "projection_class_embeddings_input_dim"),
    "vae": ("block_out_channels", "latent_channels", "scaling_factor"),
    "vocoder": ("upsample_rates", "model_in_dim", "normalize_before"),
    "text_encoder": ("hidden_size", "projection_dim"),
}
"""What a config must say, as the library's default is another."""

OLD_NAMES = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}
"""The names that attention in autoencoders had before diffusers 0.16."""
NOT_LEARNED = ("embeddings.position_ids", "embeddings.token_type_ids")
_ADVICE = "get the folder as safetensors, or save it again with save_pretrained"
_SIBLING = "choose cvssp/audioldm-s-full-v2, or a folder like it"
_COPY = "copy the whole folder from where it came"


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
    settings = {name: read_settings(folder, name) for name in (*BUILDERS, "text_encoder")}
    encoder = settings.pop("text_encoder")
    check_sizes(folder, settings, encoder, config)
    check_scheduler(folder, config)
    files = [first_file(folder / name, WEIGHTS) for name in (*BUILDERS, "text_encoder")]
    hashes = ", ".join(f"{file.parent.name} {sha256(file)}" for file in files)
    return AudioLdm(
        weights={name: read_network(folder, name, settings[name]) for name in BUILDERS},
        settings=settings,
        null_embedding=null_embedding(folder, encoder),
        source=f"AudioLDM, imported from {folder.name}, sha256 of {hashes}",
    )


def check_pipeline(folder: Path) -> None:
    """That the folder is of AudioLDM, and not of its successor."""
    if not folder.is_dir():
        raise ExportError(
            f"{folder} is not a folder, expected one of {PIPELINE} in the layout of diffusers; "
            f"{_SIBLING}"
        )
    index = folder / "model_index.json"
    found = read_json(index).get("_class_name") if index.is_file() else PIPELINE
    if (folder / "language_model").exists():
        found = "AudioLDM2Pipeline"
    if found != PIPELINE:
        raise ExportError(
            f"{folder} is of {found}, expected {PIPELINE}: AudioLDM2 is conditioned on the states "
            f"of language models, and not on one CLAP embedding; {_SIBLING}"
        )


def read_settings(folder: Path, name: str) -> dict[str, Any]:
    """What a network's constructor takes, out of its config.json."""
    path = folder / name / "config.json"
    if not path.is_file():
        why = ", for the null embedding: what guidance takes for no text" * (name not in BUILDERS)
        raise ExportError(f"{folder} has no {name}/config.json, expected one{why}; {_COPY}")
    content = read_json(path)
    missing = [key for key in STATED[name] if key not in content]
    if missing:
        raise ExportError(f"{path} has no {missing[0]}, expected it as in AudioLDM's; {_SIBLING}")
    if name not in BUILDERS:
        return content
    known = constructor_keys(name)
    strange = [key for key, x in content.items() if x and key not in known and key[0] != "_"]
    if strange and name != "vocoder":  # that of transformers has much that is of no concern
        raise ExportError(
            f"{path} has {strange[0]} = {content[strange[0]]!r}, expected only what this diffusers "
            f"knows, as AudioLDM's does; {_SIBLING}"
        )
    return {key: value for key, value in content.items() if key in known}


def constructor_keys(name: str) -> set[str]:
    if name == "vocoder":
        transformers = library("transformers")
        of_all = {*transformers.PretrainedConfig().to_dict(), "model_type"}
        return {*transformers.SpeechT5HifiGanConfig().to_dict()} - of_all
    network = {"unet": "UNet2DConditionModel", "vae": "AutoencoderKL"}[name]
    return {*inspect.signature(getattr(library("diffusers"), network)).parameters}


def check_sizes(
    folder: Path, settings: dict[str, dict[str, Any]], encoder: dict[str, Any], config: V2AConfig
) -> None:
    """That the networks fit each other and the config."""
    try:
        check_networks(config, Networks(**settings))
    except OptionError as error:
        raise ExportError(f"{folder}: {error}; choose another --config or {_SIBLING}") from error
    check_facts(
        folder / "text_encoder" / "config.json", encoder, {"projection_dim": config.audio_dim}
    )
    check_facts(
        folder / "vocoder" / "config.json",
        settings["vocoder"],
        {"sampling_rate": config.sample_rate_hz},
    )


def check_scheduler(folder: Path, config: V2AConfig) -> None:
    """That the noise was trained, and is meant to be taken out, as the runtime does it."""
    c, path = config, folder / "scheduler" / "scheduler_config.json"
    if not path.is_file():
        raise ExportError(
            f"{folder} has no scheduler/scheduler_config.json, expected the noise levels that the "
            f"model was trained with; {_COPY}"
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


def read_network(folder: Path, name: str, settings: dict[str, Any]) -> dict[str, Tensor]:
    """The weights of one network, under the names that the libraries have today."""
    with torch.device("meta"):
        expected = BUILDERS[name](settings).state_dict()
    path = first_file(folder / name, WEIGHTS)
    found = {_renamed(key): x for key, x in read_tensors(path, _ADVICE).items()}
    return fit_weights(path, found, expected)


def _renamed(name: str) -> str:
    if "mid_block.attentions" not in name:
        return name
    return ".".join(OLD_NAMES.get(word, word) for word in name.split("."))


@torch.no_grad()
def null_embedding(folder: Path, settings: dict[str, Any]) -> Tensor:
    """What the CLAP text encoder makes of no text, [audio_dim] of unit length.

    It takes no tokenizer: no text is its first and its last token. The padding that AudioLDM adds
    is masked and changes nothing.
    """
    transformers = library("transformers")
    config = transformers.ClapTextConfig.from_dict(settings)
    model = transformers.ClapTextModelWithProjection
    with torch.device("meta"):
        expected = model(config).state_dict()
    path = first_file(folder / "text_encoder", WEIGHTS)
    found = read_tensors(path, _ADVICE)
    weights = fit_weights(path, dict(_learned(found)), dict(_learned(expected)))
    encoder = model(config).eval()
    encoder.load_state_dict(weights, strict=False)
    tokens = torch.tensor([[config.bos_token_id, config.eos_token_id]])
    embedding = encoder(tokens, attention_mask=torch.ones_like(tokens)).text_embeds[0]
    if not embedding.isfinite().all() or not embedding.any():
        raise ExportError(
            f"{path} makes no text an embedding without direction, expected one that has; {_COPY}"
        )
    return F.normalize(embedding, dim=-1)


def _learned(weights: dict[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    return ((name, x) for name, x in weights.items() if not name.endswith(NOT_LEARNED))
