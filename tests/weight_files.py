"""Files of weights in the layouts of others, with random weights, and what their owners say."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import open_clip
import torch
from safetensors.torch import save_file
from toml_files import toml_of
from torch import Tensor, nn
from torch.nn.utils import weight_norm

from vab_rt.config import ModelConfig

RATIOS = [8, 5, 4, 2]

# audiocraft: config/model/encodec/default.yaml and encodec_large_nq4_s320.yaml, as
# OmegaConf.to_yaml writes them, with small sizes.
XP_CFG = """
sample_rate: 16000
channels: 1
solver: compression
compression_model: encodec
encodec:
  autoencoder: seanet
  quantizer: rvq
  sample_rate: ${sample_rate}
  channels: ${channels}
  causal: false
  renormalize: false
seanet:
  dimension: 16
  channels: ${channels}
  causal: ${encodec.causal}
  n_filters: 4
  n_residual_layers: 1
  ratios:
  - 8
  - 5
  - 4
  - 2
  activation: ELU
  activation_params:
    alpha: 1.0
  norm: weight_norm
  norm_params: {}
  kernel_size: 7
  residual_kernel_size: 3
  last_kernel_size: 7
  dilation_base: 2
  pad_mode: constant
  true_skip: true
  compress: 2
  lstm: 2
  disable_norm_outer_blocks: 0
  decoder:
    trim_right_ratio: 1.0
    final_activation: null
    final_activation_params: null
  encoder: {}
rvq:
  n_q: 3
  q_dropout: false
  bins: 32
  decay: 0.99
  kmeans_init: true
optim:
  lr: 0.0003
"""

# github.com/huggingface/transformers, convert_encodec_checkpoint_to_pytorch.py: the modules of
# audiocraft's SEANet with four ratios, and what transformers calls them.
CONVOLUTIONS = {"encoder": (0, 3, 6, 9, 12, 15), "decoder": (0, 15)}
TRANSPOSED = (3, 6, 9, 12)
BLOCKS = {"encoder": (1, 4, 7, 10), "decoder": (4, 7, 10, 13)}
LSTMS = {"encoder": 13, "decoder": 1}


def audiocraft_modules() -> dict[str, str]:
    """By transformers' name of a module, audiocraft's."""
    found = {
        f"quantizer.layers.{k}.codebook": f"quantizer.vq.layers.{k}._codebook" for k in (0, 1, 2)
    }
    for stack in ("encoder", "decoder"):
        for i in CONVOLUTIONS[stack]:
            found[f"{stack}.layers.{i}.conv"] = f"{stack}.model.{i}.conv.conv"
        for i in BLOCKS[stack]:
            for j in (1, 3):
                theirs = f"{stack}.model.{i}.block.{j}.conv.conv"
                found[f"{stack}.layers.{i}.block.{j}.conv"] = theirs
        found[f"{stack}.layers.{LSTMS[stack]}.lstm"] = f"{stack}.model.{LSTMS[stack]}.lstm"
    for i in TRANSPOSED:
        found[f"decoder.layers.{i}.conv"] = f"decoder.model.{i}.convtr.convtr"
    return found


def audiocraft_state(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """transformers' weights of an EncodecModel under audiocraft's names."""
    modules, result = audiocraft_modules(), {}
    spelled = {"parametrizations.weight.original0": "weight_g"}
    spelled["parametrizations.weight.original1"] = "weight_v"
    for name, tensor in weights.items():
        (module,) = [m for m in modules if name.startswith(f"{m}.")]
        last = name.removeprefix(f"{module}.")
        result[f"{modules[module]}.{spelled.get(last, last)}"] = tensor
    return result


def owned_encodec() -> nn.Module:
    """transformers' EncodecModel of AudioGen's shape, small: 3 codebooks of 5 bits at 50 Hz."""
    import transformers

    torch.manual_seed(0)
    settings = transformers.EncodecConfig(
        target_bandwidths=[0.75],
        sampling_rate=16_000,
        hidden_size=16,
        num_filters=4,
        use_causal_conv=False,
        pad_mode="constant",
        codebook_size=32,
        codebook_dim=16,
        use_conv_shortcut=False,
    )
    return transformers.EncodecModel(settings).eval()


def owned_dac() -> nn.Module:
    """transformers' DacModel, small."""
    import transformers

    torch.manual_seed(0)
    settings = transformers.DacConfig(
        encoder_hidden_size=4,
        decoder_hidden_size=32,
        downsampling_ratios=[2, 4, 5, 8],
        n_codebooks=5,
        codebook_size=32,
        codebook_dim=8,
        sampling_rate=16_000,
    )
    return transformers.DacModel(settings).eval()


def write_audiocraft(path: Path, weights: dict[str, Tensor], **changes: Any) -> Path:
    """As audiocraft.utils.export.export_encodec writes it."""
    content = {
        "best_state": audiocraft_state(weights),
        "xp.cfg": XP_CFG,
        "version": "1.0.0",
        "exported": True,
    }
    torch.save(content | changes, path)
    return path


class DescriptDac(nn.Module):
    """The modules of descript's DAC in their order (dac/model/dac.py): it has the same names."""

    def __init__(self, width: int, decoder_width: int, ratios: list[int], levels: int) -> None:
        super().__init__()
        self.encoder, self.decoder = nn.Module(), nn.Module()
        blocks = [convolution(1, width, 7)]
        for ratio in ratios:
            units = [residual_unit(width, dilation) for dilation in (1, 3, 9)]
            down = convolution(width, 2 * width, 2 * ratio, stride=ratio, padding=-(-ratio // 2))
            blocks.append(block_of([*units, Snake(width), down]))
            width *= 2
        blocks += [Snake(width), convolution(width, width, 3)]
        self.encoder.block = nn.Sequential(*blocks)
        model = [convolution(width, decoder_width, 7)]
        for ratio in reversed(ratios):
            narrow = decoder_width // 2
            up = nn.ConvTranspose1d(
                decoder_width, narrow, 2 * ratio, stride=ratio, padding=-(-ratio // 2)
            )
            units = [residual_unit(narrow, dilation) for dilation in (1, 3, 9)]
            model.append(block_of([Snake(decoder_width), weight_norm(up), *units]))
            decoder_width = narrow
        model += [Snake(decoder_width), convolution(decoder_width, 1, 7), nn.Tanh()]
        self.decoder.model = nn.Sequential(*model)
        self.quantizer = nn.Module()
        self.quantizer.quantizers = nn.ModuleList(quantizer(width) for _ in range(levels))


class Snake(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.alpha = nn.Parameter(torch.rand(1, channels, 1) + 0.5)

    def forward(self, x: Tensor) -> Tensor:
        return x + (self.alpha + 1e-9).reciprocal() * torch.sin(self.alpha * x).pow(2)


class Block(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return self.block(x)


class ResidualUnit(Block):
    def forward(self, x: Tensor) -> Tensor:
        return x + self.block(x)


def block_of(parts: list[nn.Module], kind: type[Block] = Block) -> nn.Module:
    block = kind()
    block.block = nn.Sequential(*parts)
    return block


def residual_unit(width: int, dilation: int) -> nn.Module:
    wide = convolution(width, width, 7, dilation=dilation, padding=3 * dilation)
    parts = [Snake(width), wide, Snake(width), convolution(width, width, 1)]
    return block_of(parts, ResidualUnit)


def convolution(inputs: int, outputs: int, kernel: int, **more: int) -> nn.Module:
    made = nn.Conv1d(inputs, outputs, kernel, **{"padding": kernel // 2} | more)
    return weight_norm(made)


def quantizer(width: int) -> nn.Module:
    made = nn.Module()
    made.in_proj, made.out_proj = convolution(width, 8, 1), convolution(8, width, 1)
    made.codebook = nn.Embedding(32, 8)
    return made


KWARGS = {
    "encoder_dim": 4,
    "encoder_rates": [2, 4, 5, 8],
    "latent_dim": None,
    "decoder_dim": 32,
    "decoder_rates": [8, 5, 4, 2],
    "n_codebooks": 5,
    "codebook_size": 32,
    "codebook_dim": 8,
    "quantizer_dropout": 0.5,
    "sample_rate": 16000,
}


def write_descript(path: Path, weights: dict[str, Tensor], **changes: Any) -> Path:
    """As audiotools' BaseModel.save writes it."""
    metadata = {"kwargs": KWARGS | changes, "path": "ckpt/best", "tag": "best"}
    torch.save({"state_dict": weights, "metadata": metadata}, path)
    return path


def clip_model(side: int) -> dict[str, Any]:
    """As open_clip's EVA02-L-14.json and EVA02-L-14-336.json, of the smallest of the family."""
    return {
        "embed_dim": 24,
        "vision_cfg": {
            "image_size": side,
            "timm_model_name": f"eva02_tiny_patch14_{side}",
            "timm_model_pretrained": False,
            "timm_pool": "token",
            "timm_proj": None,
        },
        "text_cfg": {"context_length": 8, "vocab_size": 64, "width": 16, "heads": 2, "layers": 1},
        "custom_text": True,
    }


CLIP_NAMES = {224: "tiny-eva02", 336: "tiny-eva02-336"}
CLIP_NAME, CLIP_MODEL = CLIP_NAMES[224], clip_model(224)


@contextmanager
def known_to_open_clip(folder: Path) -> Iterator[None]:
    """open_clip knows both of CLIP_NAMES in the block, as it knows EVA02-L-14 and -336."""
    for side, name in CLIP_NAMES.items():
        (folder / f"{name}.json").write_text(json.dumps(clip_model(side)))
        open_clip.add_model_config(folder / f"{name}.json")
    yield
    for name in CLIP_NAMES.values():
        open_clip.factory._MODEL_CONFIGS.pop(name)
        open_clip.factory._MODEL_CONFIG_PATHS.remove(folder / f"{name}.json")


def write_clip(
    path: Path,
    weights: dict[str, Tensor],
    *,
    pictures: dict[str, Any] | None = None,
    **changes: Any,
) -> Path:
    """As open_clip's push_to_hf_hub lays it out."""
    usual = {"mean": open_clip.OPENAI_DATASET_MEAN, "std": open_clip.OPENAI_DATASET_STD}
    config = {"model_cfg": CLIP_MODEL | changes, "preprocess_cfg": pictures or usual}
    (path / "open_clip_config.json").write_text(json.dumps(config))
    save_file({n: t.contiguous() for n, t in weights.items()}, path / "open_clip_model.safetensors")
    return path


def sweep(config: ModelConfig, batch: int = 2) -> Tensor:
    """audio [B, S]: tones in noise."""
    time_s = torch.arange(config.num_samples) / config.sample_rate_hz
    random = torch.Generator().manual_seed(1)
    tone = 0.3 * torch.sin(2 * torch.pi * (200 + 300 * time_s) * time_s)
    return tone + 0.1 * torch.randn(batch, config.num_samples, generator=random)


def recipe_file(path: Path, config: ModelConfig) -> Path:
    """A recipe of this model."""
    path.write_text(toml_of({"model": msgspec.to_builtins(config)}))
    return path


class Payload:
    """What a hostile pickle holds: its __reduce__ would run on load."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.target,)
