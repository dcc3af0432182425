"""MAE's image encoder out of its authors' file, mae_pretrain_vit_large.pth (arXiv:2111.06377).

Its names are those of timm's ViT. The decoder of the pre-training is not in that file; [CLS] and
the norm after the last layer are.
"""

from pathlib import Path

from export.weights.parts import Part, fit_weights
from export.weights.reading import read_safetensors, read_torch, tensors_of
from training.image_encoder import MAE, build_mae
from training.stage import sha256
from vab_rt.config import ModelConfig
from vab_rt.errors import ExportError

VISUAL = "visual."


def read_mae(path: Path, config: ModelConfig) -> Part:
    """The image encoder for a model of this config; a torch file may hold it under `model`.

    Raises ExportError for one that cannot be read safely or does not fit.
    """
    if not config.image_encoder.startswith(MAE):
        raise ExportError(
            f"{config.name} has the image encoder {config.image_encoder}, expected one of MAE; "
            "choose another --config, such as vab-dac-test-mae"
        )
    if path.suffix == ".safetensors":
        found = read_safetensors(path)
    else:
        content = read_torch(path, "save the state_dict alone")
        found = tensors_of(path, content.get("model", content))
    expected = {f"{VISUAL}{n}": x for n, x in build_mae(config, "meta").state_dict().items()}
    weights = fit_weights(path, found, expected, lambda ours: ours.removeprefix(VISUAL))
    source = f"{config.image_encoder}, imported from {path.name}, sha256 {sha256(path)}"
    return Part(name="image_encoder", weights=weights, source=source)
