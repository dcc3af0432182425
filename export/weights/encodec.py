"""EnCodec's weights, as audiocraft exports them and as transformers keeps them.

audiocraft's `compression_state_dict.bin` (audiocraft/utils/export.py) is a dict of `best_state`,
the weights, and `xp.cfg`, its config as YAML. A folder of transformers' EncodecModel is config.json
and model.safetensors or pytorch_model.bin.
"""

import re
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from export.weights.parts import MAX_RATIOS, MAX_SIZE, Part, check_facts, fit_weights, shown
from export.weights.reading import (
    first_file,
    read_json,
    read_tensors,
    read_torch,
    tensors_of,
)
from training.codecs.codec import build_codec
from training.stage import sha256
from vab_rt.config import ModelConfig
from vab_rt.errors import ExportError, not_installed

AUDIOCRAFT = "compression_state_dict.bin"
MAX_REFERENCES = 10
TRANSFORMERS = ("model.safetensors", "pytorch_model.bin")
_ADVICE = (
    "write it again with audiocraft.utils.export.export_encodec, which keeps the weights and the "
    "config as text"
)


def read_encodec(source: Path, config: ModelConfig) -> Part:
    """The codec in a file or folder, for a model of this config.

    Raises ExportError for one that cannot be read safely, is another model, or does not fit.
    """
    if config.codec != "encodec":
        raise ExportError(
            f"the model {config.name} has the codec {config.codec}, expected encodec; choose "
            "another --config, such as vab-encodec"
        )
    if not source.is_dir():
        return read_audiocraft(source, config)
    if (source / AUDIOCRAFT).is_file():
        return read_audiocraft(source / AUDIOCRAFT, config)
    return read_transformers(source, config)


def read_audiocraft(path: Path, config: ModelConfig) -> Part:
    if not path.is_file():
        raise ExportError(f"{path} is not there, expected audiocraft's {AUDIOCRAFT}, or a folder")
    content = read_torch(path, _ADVICE)
    if "pretrained" in content:
        raise ExportError(
            f"{path} only names another model, {content['pretrained']!r}, expected weights; import "
            "that model's own file or folder"
        )
    if not {"best_state", "xp.cfg"} <= content.keys():
        raise ExportError(
            f"{path} holds {', '.join(map(repr, list(content)[:5]))}, expected 'best_state' and "
            f"'xp.cfg' as audiocraft exports them; {_ADVICE}"
        )
    if not isinstance(content["xp.cfg"], str):
        raise ExportError(
            f"{path}: xp.cfg is a {type(content['xp.cfg']).__name__}, expected YAML; {_ADVICE}"
        )
    expected, keys = audiocraft_facts(config), ("seanet.n_filters", "seanet.ratios", "seanet.lstm")
    facts = facts_at(read_yaml(path, content["xp.cfg"]), (*expected, *keys))
    check_facts(f"{path}: xp.cfg", facts, expected)
    settings = settings_of(path, facts, keys)
    found = tensors_of(f"{path}: best_state", content["best_state"])
    weights = fit_weights(path, renamed(found), expected_weights(config, settings))
    return Part(name="codec", weights=weights, settings=settings, source=described(path))


def read_transformers(folder: Path, config: ModelConfig) -> Part:
    try:
        from transformers import EncodecConfig
    except ImportError as error:
        needs = f"{folder} is laid out as by transformers"
        raise not_installed(needs, "'vab-rt[export]'", error) from error
    where = first_file(folder, ("config.json",))
    facts = read_json(where)
    check_facts(where, {"model_type": None} | facts, {"model_type": "encodec"})
    facts = EncodecConfig().to_dict() | facts  # a file may leave out what is the default
    check_facts(where, facts, transformers_facts(config))
    settings = settings_of(where, facts, ("num_filters", "upsampling_ratios", "num_lstm_layers"))
    path = first_file(folder, TRANSFORMERS)
    found = renamed(read_tensors(path, "save it again with save_pretrained"))
    weights = fit_weights(path, found, expected_weights(config, settings), transformers_name)
    return Part(name="codec", weights=weights, settings=settings, source=described(path))


def described(path: Path) -> str:
    return f"encodec, imported from {path.name}, sha256 {sha256(path)}"


def settings_of(where: Path, facts: dict[str, Any], keys: tuple[str, str, str]) -> dict[str, Any]:
    """The codec's settings (`EncodecSettings`) from the facts under these keys."""
    filters, ratios, lstm = (facts.get(key) for key in keys)
    is_list = isinstance(ratios, list) and len(ratios) <= MAX_RATIOS
    sizes = [filters, lstm, *(ratios if is_list else ())]
    if not is_list or not all(type(size) is int and 0 < size <= MAX_SIZE for size in sizes):
        raise ExportError(
            f"{where}: {', '.join(keys)} are {shown(filters)}, {shown(ratios)}, {shown(lstm)}, "
            f"expected a number, a list of numbers and a number, from 1 to {MAX_SIZE}; copy the "
            "file again from where it came"
        )
    return {"num_filters": filters, "ratios": ratios, "lstm_layers": lstm}


def expected_weights(config: ModelConfig, settings: dict[str, Any]) -> dict[str, Tensor]:
    """Names and shapes of the codec's weights, without memory."""
    with torch.device("meta"):
        return build_codec(config, settings).state_dict()


def renamed(found: dict[str, Tensor]) -> dict[str, Tensor]:
    """Weight norm in the older of torch's two spellings, which ours is."""
    spelled = {".parametrizations.weight.original0": ".weight_g"}
    spelled[".parametrizations.weight.original1"] = ".weight_v"
    result = {}
    for name, tensor in found.items():
        for new, old in spelled.items():
            name = name.replace(new, old)
        result[name] = tensor
    return result


def transformers_name(ours: str) -> str:
    """The name in EncodecModel of one of our weights, which are called as in audiocraft."""
    theirs = re.sub(r"^(encoder|decoder)\.model\.", r"\1.layers.", ours)
    theirs = re.sub(r"\.(conv|convtr)\.\1\.", ".conv.", theirs)
    return theirs.replace("quantizer.vq.layers.", "quantizer.layers.").replace(
        "._codebook", ".codebook"
    )


def audiocraft_facts(config: ModelConfig) -> dict[str, Any]:
    """What `EncodecCodec` is built as, in audiocraft's words; either stack may say it otherwise."""
    both = {
        "dimension": config.code_dim,
        "causal": False,
        "n_residual_layers": 1,
        "activation": "ELU",
        "activation_params.alpha": 1.0,
        "norm": "weight_norm",
        "kernel_size": 7,
        "residual_kernel_size": 3,
        "last_kernel_size": 7,
        "dilation_base": 2,
        "pad_mode": "constant",
        "true_skip": True,
        "compress": 2,
        "disable_norm_outer_blocks": 0,
    }
    stacks = ("seanet", "seanet.encoder", "seanet.decoder")
    return {
        "compression_model": "encodec",
        "sample_rate": config.sample_rate_hz,
        "channels": 1,
        "encodec.autoencoder": "seanet",
        "encodec.quantizer": "rvq",
        "encodec.causal": False,
        "encodec.renormalize": False,
        **{f"{stack}.{key}": value for stack in stacks for key, value in both.items()},
        "seanet.decoder.final_activation": None,
        "rvq.n_q": config.num_codebooks,
        "rvq.bins": config.codebook_size,
    }


def transformers_facts(config: ModelConfig) -> dict[str, Any]:
    """The same in transformers' words. K follows from the weights."""
    return {
        "sampling_rate": config.sample_rate_hz,
        "audio_channels": 1,
        "normalize": False,
        "chunk_length_s": None,
        "hidden_size": config.code_dim,
        "num_residual_layers": 1,
        "norm_type": "weight_norm",
        "kernel_size": 7,
        "last_kernel_size": 7,
        "residual_kernel_size": 3,
        "dilation_growth_rate": 2,
        "use_causal_conv": False,
        "pad_mode": "constant",
        "compress": 2,
        "codebook_size": config.codebook_size,
        "use_conv_shortcut": False,
    }


def read_yaml(path: Path, text: str) -> Any:
    try:
        import yaml
    except ImportError as error:
        needs = f"{path}: xp.cfg is YAML and needs PyYAML"
        raise not_installed(needs, "'vab-rt[export]'", error) from error
    try:
        return yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # ValueError: no such date
        reason = " ".join(str(error).split())
        raise ExportError(f"{path}: xp.cfg is not YAML ({reason}); {_ADVICE}") from error


def facts_at(content: Any, keys: Iterable[str]) -> dict[str, Any]:
    """The values under such keys as a.b.c, where they are, references like ${a.b} followed."""
    found = {}
    for key in keys:
        with suppress(KeyError, TypeError):
            found[key] = _look_up(content, key)
    return found


def _look_up(content: Any, key: str) -> Any:
    """Raises KeyError or TypeError for a key that is not there, or leads round in a circle."""
    path = key
    for _ in range(MAX_REFERENCES):
        value = content
        for part in path.split("."):
            value = value[part]
        reference = re.fullmatch(r"\$\{([\w.]+)\}", value) if isinstance(value, str) else None
        if reference is None:
            return value
        path = reference[1]
    raise KeyError(key)
