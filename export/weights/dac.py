"""DAC's weights, as descript publishes them and as transformers keeps them.

descript's `weights_16khz_8kbps_0.0.5.pth` is a dict of `state_dict` and `metadata`, whose `kwargs`
are the sizes (audiotools' BaseModel.save). A folder of transformers' DacModel is config.json and
model.safetensors or pytorch_model.bin. Either keeps weight norm apart or folded in.
"""

from pathlib import Path
from typing import Annotated, Any

import msgspec
import torch
from torch import Tensor

from export.weights.encodec import renamed
from export.weights.parts import MAX_RATIOS, MAX_SIZE, Part, check_facts, fit_weights, is_alike
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
from vab_rt.errors import ExportError

TRANSFORMERS = ("model.safetensors", "pytorch_model.bin")
_ADVICE = "get descript's own weights_16khz_*.pth, or save it again with save_pretrained"


Size = Annotated[int, msgspec.Meta(ge=1, le=MAX_SIZE)]


class Sizes(msgspec.Struct, frozen=True):
    """What a file says of its codec. ratios: of the encoder, in order."""

    sample_rate_hz: int
    encoder_width: Size
    decoder_width: Size
    ratios: Annotated[list[Size], msgspec.Meta(max_length=MAX_RATIOS)]
    levels: Size
    codebook_size: int
    code_dim: int
    decoder_ratios: list[int] | None = None


def read_dac(source: Path, config: ModelConfig) -> Part:
    """The first K levels of the codec in a file or folder, for a model of this config.

    Raises ExportError for one that cannot be read safely, is another model, or does not fit.
    """
    if config.codec != "dac":
        raise ExportError(
            f"the model {config.name} has the codec {config.codec}, expected dac; choose another "
            "--config, such as vab-dac"
        )
    read = read_transformers if source.is_dir() else read_descript
    path, sizes, found = read(source)
    check_sizes(path, sizes, config)
    settings = {
        "encoder_width": sizes.encoder_width,
        "decoder_width": sizes.decoder_width,
        "ratios": sizes.ratios,
    }

    def their_name(ours: str) -> str:
        return ours if source.is_dir() else descript_name(ours, len(sizes.ratios))

    expected = expected_weights(config, settings, sizes.levels)
    weights = fit_weights(path, found, expected, their_name)
    return Part(
        name="codec",
        weights=first_levels(weights, config.num_codebooks),
        settings=settings,
        source=f"dac, the first {config.num_codebooks} of {sizes.levels} levels, imported from "
        f"{path.name}, sha256 {sha256(path)}",
    )


def read_descript(path: Path) -> tuple[Path, Sizes, dict[str, Tensor]]:
    if not path.is_file():
        raise ExportError(f"{path} is not there, expected descript's .pth file, or a folder")
    content = read_torch(path, _ADVICE)
    metadata = content.get("metadata")
    facts = metadata.get("kwargs") if isinstance(metadata, dict) else None
    if "state_dict" not in content or not isinstance(facts, dict):
        raise ExportError(
            f"{path} holds {', '.join(map(repr, list(content)[:5]))}, expected 'state_dict' and "
            f"'metadata' with 'kwargs'; {_ADVICE}"
        )
    sizes = convert_sizes(
        path,
        facts,
        {
            "sample_rate_hz": "sample_rate",
            "encoder_width": "encoder_dim",
            "decoder_width": "decoder_dim",
            "ratios": "encoder_rates",
            "decoder_ratios": "decoder_rates",
            "levels": "n_codebooks",
            "codebook_size": "codebook_size",
            "code_dim": "codebook_dim",
        },
    )
    return path, sizes, folded(tensors_of(f"{path}: state_dict", content["state_dict"]))


def read_transformers(folder: Path) -> tuple[Path, Sizes, dict[str, Tensor]]:
    where = first_file(folder, ("config.json",))
    facts = read_json(where)
    check_facts(where, {"model_type": None} | facts, {"model_type": "dac"})
    sizes = convert_sizes(
        where,
        facts,
        {
            "sample_rate_hz": "sampling_rate",
            "encoder_width": "encoder_hidden_size",
            "decoder_width": "decoder_hidden_size",
            "ratios": "downsampling_ratios",
            "levels": "n_codebooks",
            "codebook_size": "codebook_size",
            "code_dim": "codebook_dim",
        },
    )
    path = first_file(folder, TRANSFORMERS)
    return path, sizes, folded(read_tensors(path, _ADVICE))


def convert_sizes(where: Path, facts: dict[str, Any], keys: dict[str, str]) -> Sizes:
    """keys: by field of Sizes, what it is called in the file. Raises ExportError."""
    found = {field: facts[key] for field, key in keys.items() if key in facts}
    try:
        return msgspec.convert(found, Sizes)
    except msgspec.ValidationError as error:
        raise ExportError(
            f"{where}: {error}, expected whole numbers from 1 to {MAX_SIZE}, and lists of them, "
            f"under {', '.join(keys.values())}; {_ADVICE}"
        ) from error


def check_sizes(where: Path, sizes: Sizes, config: ModelConfig) -> None:
    found = msgspec.to_builtins(sizes)
    expected = {
        "sample_rate_hz": config.sample_rate_hz,
        "decoder_ratios": None if sizes.decoder_ratios is None else sizes.ratios[::-1],
        "codebook_size": config.codebook_size,
        "code_dim": config.code_dim,
    }
    check_facts(where, found, expected)
    if sizes.levels < config.num_codebooks:
        raise ExportError(
            f"{where} has {sizes.levels} levels, expected at least the {config.num_codebooks} "
            "codebooks of --config; choose the config or the file that belongs to it"
        )


def expected_weights(
    config: ModelConfig, settings: dict[str, Any], levels: int
) -> dict[str, Tensor]:
    """Names and shapes of all weights of the file's codec, without memory."""
    whole = msgspec.structs.replace(config, num_codebooks=levels, given_codebooks=0)
    with torch.device("meta"):
        return build_codec(whole, settings).state_dict()


def first_levels(weights: dict[str, Tensor], count: int) -> dict[str, Tensor]:
    def is_kept(name: str) -> bool:
        parts = name.split(".")
        return parts[0] != "quantizer" or int(parts[2]) < count

    return {name: tensor for name, tensor in weights.items() if is_kept(name)}


def folded(found: dict[str, Tensor]) -> dict[str, Tensor]:
    """Each weight_g and weight_v (or torch's newer names of them) as the weight they make.

    A pair that does not fit together stays, and is then reported as unexpected.
    """
    named = renamed(found)
    made = {}
    for name in [name for name in named if name.endswith(".weight_v")]:
        weight = name.removesuffix("_v")
        length = named.get(f"{weight}_g")
        if length is not None and weight not in named and is_pair(named[name], length):
            made[weight] = torch._weight_norm(named[name].float(), length.float(), 0)
    spent = {f"{weight}_{part}" for weight in made for part in "gv"}
    return {name: tensor for name, tensor in named.items() if name not in spent} | made


def is_pair(direction: Tensor, length: Tensor) -> bool:
    """direction [out, in, kernel], length [out, 1, 1]"""
    are_plain = all(is_alike(tensor, torch.empty(0)) for tensor in (direction, length))
    return are_plain and length.shape == (*direction.shape[:1], *[1] * (direction.ndim - 1))


def descript_name(ours: str, num_ratios: int) -> str:
    """The name in descript's DAC of one of our weights, which are called as in transformers.

    There both stacks are lists: encoder.block of first convolution, blocks, snake, last one, and
    decoder.model of the same.
    """
    stack, *path = ours.split(".")
    if stack == "quantizer":
        return ours
    units = {"res_unit1": 0, "res_unit2": 1, "res_unit3": 2, "snake1": 3, "conv1": 4}
    if stack == "decoder":
        units = {"snake1": 0, "conv_t1": 1, "res_unit1": 2, "res_unit2": 3, "res_unit3": 4}
    ends = {"conv1": 0, "snake1": num_ratios + 1, "conv2": num_ratios + 2}
    begin = "encoder.block" if stack == "encoder" else "decoder.model"
    if path[0] != "block":
        return ".".join([begin, str(ends[path[0]]), *path[1:]])
    number, unit, *rest = path[1:]
    theirs = [begin, str(int(number) + 1), "block", str(units[unit])]
    if unit.startswith("res_unit"):
        inside = {"snake1": 0, "conv1": 1, "snake2": 2, "conv2": 3}
        theirs += ["block", str(inside[rest[0]])]
        rest = rest[1:]
    return ".".join([*theirs, *rest])
