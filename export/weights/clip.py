"""CLIP's image tower out of open_clip's files: a folder, a file of weights, or a name on the hub.

A folder is open_clip_config.json beside open_clip_model.safetensors or open_clip_pytorch_model.bin,
as push_to_hf_hub writes it. A name is MODEL, MODEL/TAG (as open_clip lists them) or hf:ORG/NAME.
All of the file is checked against the model, its text tower too; the image tower is kept.
"""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import msgspec
import open_clip
from open_clip.model import CLIPVisionCfg, convert_to_custom_text_state_dict
from torch import Tensor

from export.weights.parts import Part, check_facts, fit_weights
from export.weights.reading import first_file, read_json, read_tensors
from training.image_encoder import build_clip
from training.stage import sha256
from vab_rt.config import ModelConfig
from vab_rt.errors import ExportError
from vab_rt.hub import Repository, fetch, needed, parse_repository

CONFIG = "open_clip_config.json"
WEIGHTS = (
    "open_clip_model.safetensors",
    "open_clip_pytorch_model.safetensors",
    "open_clip_pytorch_model.bin",
)
NOT_IN_MODELS = "text.transformer.embeddings.position_ids"  # of older files, and never learned
_ADVICE = "get the weights as safetensors, or save the state_dict alone"
VISUAL = "visual."
OF_TRAINING = {"timm_model_pretrained", "patch_dropout", "timm_drop", "timm_drop_path"}
"""In open_clip's `vision_cfg`: where training began, and what it left out at random."""
PREPROCESSING = {
    "mean": list(open_clip.OPENAI_DATASET_MEAN),
    "std": list(open_clip.OPENAI_DATASET_STD),
    "interpolation": "bicubic",
    "resize_mode": "shortest",
}
"""What `ImageEncoder` and the runtime's video reader do to frames, in open_clip's words."""


class Found(msgspec.Struct, frozen=True):
    """A file of weights and what is said about it: open_clip's `model_cfg` and `preprocess_cfg`."""

    path: Path
    name: str
    model: dict[str, Any] = {}
    preprocessing: dict[str, Any] = {}


def read_clip(source: str, config: ModelConfig, *, offline: bool = False) -> Part:
    """The image encoder for a model of this config.

    Raises ExportError for one that cannot be read safely, is another model, or does not fit, and
    BundleError for a name that cannot be had.
    """
    network = network_of(config)
    found = find(source, config, offline=offline)
    check_description(found, network)
    expected = expected_weights(config)
    weights = fit_weights(found.path, named_as_now(found.path, expected), expected)
    visual = {name: tensor for name, tensor in weights.items() if name.startswith(VISUAL)}
    return Part(
        name="image_encoder",
        weights=visual,
        source=f"{config.image_encoder}, imported from {found.name}, sha256 {sha256(found.path)}",
    )


def find(source: str, config: ModelConfig, *, offline: bool) -> Found:
    path = Path(source)
    if path.is_dir():
        return described(first_file(path, (CONFIG,)), first_file(path, WEIGHTS), path.name)
    if path.is_file():
        return Found(path, path.name)
    if source.startswith("hf:"):
        return fetched(parse_repository(source), {}, offline=offline)
    model, _, tag = source.partition("/")
    if model != config.image_encoder:
        raise ExportError(
            f"{source} is no folder or file, and no name of {config.image_encoder}, the image "
            f"encoder of {config.name}; expected a path, {names(config)} or hf:ORG/NAME"
        )
    tags = open_clip.list_pretrained_tags_by_model(model)
    facts = open_clip.get_pretrained_cfg(model, tag or (tags[0] if len(tags) == 1 else ""))
    if not facts.get("hf_hub"):
        raise ExportError(
            f"{source} names no weights on a hub, expected {names(config)}; or download them "
            "yourself and give the path"
        )
    repository = parse_repository("hf:" + facts["hf_hub"].rpartition("/")[0])
    return fetched(repository, {key: facts.get(key) for key in PREPROCESSING}, offline=offline)


def names(config: ModelConfig) -> str:
    tags = open_clip.list_pretrained_tags_by_model(config.image_encoder)
    return ", ".join(f"{config.image_encoder}/{tag}" for tag in tags) or "a file"


def fetched(repository: Repository, preprocessing: dict[str, Any], *, offline: bool) -> Found:
    """From the hub, pinned. preprocessing: what open_clip itself says of it."""
    pinned, folder = needed(repository, [CONFIG], offline=offline)
    for name in WEIGHTS:  # one of them is enough, and they are large
        if (fetch(pinned, [name], offline=offline)[1] / name).is_file():
            break
    found = described(folder / CONFIG, first_file(folder, WEIGHTS), str(pinned))
    return msgspec.structs.replace(found, preprocessing=found.preprocessing or preprocessing)


def described(config: Path, weights: Path, name: str) -> Found:
    content = read_json(config)
    model, preprocessing = content.get("model_cfg"), content.get("preprocess_cfg", {})
    if not isinstance(model, dict) or not isinstance(preprocessing, dict):
        raise ExportError(f"{config} has no object under model_cfg, expected open_clip's config")
    return Found(weights, f"{name}/{weights.name}", model, preprocessing)


def network_of(config: ModelConfig) -> dict[str, Any]:
    """`network_facts` of the image encoder that the config names. Raises ExportError for one that
    open_clip does not know, or of other sizes than the config's."""
    known = open_clip.get_model_config(config.image_encoder)
    if known is None:
        raise ExportError(
            f"{config.name} has the image encoder {config.image_encoder}, which open_clip does not "
            "know; choose a --config with one of its models, such as EVA02-L-14"
        )
    network = network_facts(config.image_encoder, known)
    expected = {"image_size": network["image_size"], "visual_dim": network["embed_dim"]}
    check_facts(f"config {config.name}", msgspec.to_builtins(config), expected)
    return network


def check_description(found: Found, network: dict[str, Any]) -> None:
    """That what is said about the file is of the same image tower and preprocessing."""
    where = found.path.parent / CONFIG
    if found.model:
        check_facts(where, network_facts(where, found.model), network)
    preprocessing = {
        key: _plain(value) for key, value in found.preprocessing.items() if value is not None
    }
    check_facts(where, preprocessing, PREPROCESSING)


def network_facts(where: object, model: dict[str, Any]) -> dict[str, Any]:
    """What a `model_cfg` says of the image tower, with open_clip's defaults for what it does not.

    Weights fit whatever some of it says, such as the activation. Raises ExportError.
    """
    try:
        vision = asdict(CLIPVisionCfg(**model["vision_cfg"]))
    except (KeyError, TypeError) as error:
        raise ExportError(
            f"{where}: model_cfg is not as this open_clip has it ({error!r}), expected a "
            "vision_cfg with its keys; get the file again, or upgrade open_clip_torch"
        ) from error
    tower = {key: value for key, value in vision.items() if key not in OF_TRAINING}
    return tower | {
        "embed_dim": model.get("embed_dim"),
        "quick_gelu": bool(model.get("quick_gelu")),
    }


def _plain(value: Any) -> Any:
    if isinstance(value, tuple | list):
        return list(value)
    return value


def expected_weights(config: ModelConfig) -> dict[str, Tensor]:
    """Names and shapes of all of CLIP's weights, without memory."""
    return build_clip(config, "meta").state_dict()


def named_as_now(path: Path, expected: dict[str, Tensor]) -> dict[str, Tensor]:
    """The file's weights under the names that open_clip has today."""
    content = read_tensors(path, _ADVICE)
    found = {name.removeprefix("module."): tensor for name, tensor in content.items()}
    if "text.text_projection" in expected or "text.positional_embedding" in expected:
        found = convert_to_custom_text_state_dict(found)
    found.pop(NOT_IN_MODELS, None)
    scale = "logit_scale"
    if scale in found and scale in expected and found[scale].numel() == 1:
        found[scale] = found[scale].reshape(expected[scale].shape)
    return found
