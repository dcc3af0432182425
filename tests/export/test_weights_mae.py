"""MAE as the image encoder: [CLS] of timm's ViT, from its authors' file to a bundle's graph."""

import pytest

torch = pytest.importorskip("torch", reason="the exporter needs the extra `export`")
timm = pytest.importorskip("timm", reason="the owner of the layout")

import msgspec
import numpy as np
from checkpoints import tiny_checkpoint, tiny_config

from export.vab_bundle import build_graph
from export.verify import open_session
from export.weights.mae import read_mae
from training.checkpoint import read_checkpoint
from training.configs import read_recipe
from training.image_encoder import ImageEncoder, build_mae
from vab_rt.errors import ExportError, OptionError

CONFIG = tiny_config(image_encoder="mae/vit_tiny_patch16_224", image_size=32, visual_dim=192)


@pytest.fixture(scope="module")
def owner():
    torch.manual_seed(3)
    return timm.create_model("vit_tiny_patch16_224", num_classes=0, img_size=32).eval()


@pytest.fixture(scope="module")
def path(owner, tmp_path_factory):
    path = tmp_path_factory.mktemp("mae") / "mae_pretrain_vit_tiny.pth"
    torch.save({"model": owner.state_dict()}, path)
    return path


def test_a_feature_is_the_cls_token_in_imagenets_colours(owner, path):
    encoder = ImageEncoder(CONFIG)
    encoder.load_state_dict(read_mae(path, CONFIG).weights)
    frames = torch.randint(256, (2, 32, 32, 3), dtype=torch.uint8)
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    with torch.inference_mode():
        pictures = ((frames / 255 - mean) / std).permute(0, 3, 1, 2)
        expected = owner.forward_features(pictures)[:, 0]
        found = encoder.eval()(frames)
    torch.testing.assert_close(found, expected / expected.norm(dim=1, keepdim=True))


def test_it_is_exported(path, tmp_path):
    content = tiny_checkpoint(CONFIG) | {"image_encoder": read_mae(path, CONFIG).weights}
    torch.save(content, tmp_path / "ckpt.pt")
    checkpoint = read_checkpoint(tmp_path / "ckpt.pt")
    build_graph("visual_encoder", checkpoint, tmp_path, "fp32", "fp32")
    frames = np.random.default_rng(0).integers(256, size=(3, 32, 32, 3), dtype=np.uint8)
    session = open_session(tmp_path / "visual_encoder.onnx")
    (found,) = session.run(None, {session.get_inputs()[0].name: frames})
    with torch.inference_mode():
        expected = checkpoint.image_encoder()(torch.from_numpy(frames)).numpy()
    np.testing.assert_allclose(found, expected, atol=1e-4)


def test_the_papers_model_has_features_of_1024_numbers():
    config = read_recipe("vab-dac-test-mae").model
    assert build_mae(config, "meta").num_features == config.visual_dim == 1024
    test = read_recipe("vab-dac-test")
    facts = {"name": test.model.name, "image_encoder": "EVA02-L-14", "visual_dim": 768}
    assert msgspec.structs.replace(config, **facts) == test.model


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"image_encoder": "mae/vit_enormous"}, "expected mae/ and timm's name of a ViT"),
        ({"image_encoder": "mae/resnet18"}, "expected mae/ and timm's name of a ViT"),
        ({"visual_dim": 24}, "features of 24 numbers of an image, expected 192"),
    ],
)
def test_an_encoder_that_cannot_be_is_refused(changes, message):
    with pytest.raises(OptionError, match=message):
        ImageEncoder(msgspec.structs.replace(CONFIG, **changes))


def test_another_models_weights_are_refused(owner, path, tmp_path):
    with pytest.raises(ExportError, match=r"expected one of MAE; .* vab-dac-test-mae"):
        read_mae(path, tiny_config())
    with pytest.raises(ExportError, match="of another shape: pos_embed"):
        read_mae(path, msgspec.structs.replace(CONFIG, image_size=48))
    torch.save({"model": {"cls_token": 1}}, tmp_path / "other.pth")
    with pytest.raises(ExportError, match="holds a int under 'cls_token'"):
        read_mae(tmp_path / "other.pth", CONFIG)
