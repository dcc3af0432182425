"""CLIP's image tower out of open_clip's files: features as its own, from files and from videos."""

from math import prod

import pytest

torch = pytest.importorskip("torch", reason="the exporter needs the extra `export`")
open_clip = pytest.importorskip("open_clip", reason="the owner of the layout")
constants = pytest.importorskip("huggingface_hub.constants", reason="names are on a hub")

import av
import msgspec
import numpy as np
from checkpoints import tiny_config
from hub_server import serving
from media import make_video
from PIL import Image
from safetensors.torch import save_file
from torch.nn import functional as F
from weight_files import (
    CLIP_MODEL,
    CLIP_NAME,
    CLIP_NAMES,
    Payload,
    clip_model,
    known_to_open_clip,
    write_clip,
)

from export.weights.clip import expected_weights, network_of, read_clip
from training.configs import read_recipe
from training.image_encoder import ImageEncoder
from vab_rt.errors import BundleError, ExportError
from vab_rt.video import Video, read_frames

CONFIG = tiny_config(image_encoder=CLIP_NAME, image_size=224, visual_dim=24)


@pytest.fixture(scope="module", autouse=True)
def known(tmp_path_factory):
    with known_to_open_clip(tmp_path_factory.mktemp("configs")):
        yield


@pytest.fixture(scope="module")
def owner(known):
    torch.manual_seed(0)
    return open_clip.create_model(CLIP_NAME).eval()


@pytest.fixture(scope="module")
def folder(owner, tmp_path_factory):
    """As open_clip's push_to_hf_hub lays it out."""
    return write_clip(tmp_path_factory.mktemp("clip"), owner.state_dict())


@pytest.fixture(scope="module", params=CLIP_NAMES)
def tower(request, known, tmp_path_factory):
    """Of 224 and of 336 pixels: its config, open_clip's folder of it."""
    side = request.param
    config = msgspec.structs.replace(CONFIG, image_encoder=CLIP_NAMES[side], image_size=side)
    torch.manual_seed(1)
    weights = open_clip.create_model(config.image_encoder).state_dict()
    return config, write_clip(tmp_path_factory.mktemp("tower"), weights, **clip_model(side))


def loaded(part, config) -> ImageEncoder:
    encoder = ImageEncoder(config)
    encoder.load_state_dict(part.weights)
    return encoder.eval()


@torch.no_grad()
def features_of(owner, transform, pictures: list[np.ndarray]) -> torch.Tensor:
    """By open_clip alone: unit features [N, visual_dim] of pictures [height, width, 3]."""
    images = torch.stack([transform(Image.fromarray(picture)) for picture in pictures])
    return owner.encode_image(images, normalize=True)


@torch.no_grad()
def test_features_are_those_of_open_clip(tower):
    config, folder = tower
    model, _, transform = open_clip.create_model_and_transforms(f"local-dir:{folder}")
    side = config.image_size
    pictures = np.random.default_rng(0).integers(256, size=(2, side, side, 3), dtype=np.uint8)
    expected = features_of(model.eval(), transform, list(pictures))
    part = read_clip(str(folder), config)
    assert part.source.startswith(
        f"{config.image_encoder}, imported from {folder.name}/open_clip_model.safetensors"
    )
    assert all(name.startswith("visual.") for name in part.weights)
    found = loaded(part, config)(torch.from_numpy(pictures))
    assert ((found - expected).norm(dim=1) / expected.norm(dim=1)).max() < 1e-3
    assert F.cosine_similarity(expected[0], expected[1], dim=0) < 0.999  # they differ at all


@torch.no_grad()
def test_a_video_through_the_runtimes_reader(tower, tmp_path):
    """Decoded, resized and cropped by swscale, against open_clip's transform of the same frames."""
    path = make_video(tmp_path / "in.mp4", num_frames=3, fps=1, size=(400, 300), picture=scene)
    config, folder = tower
    images, _ = read_frames(Video(path), msgspec.structs.replace(config, visual_rate_hz=1.0))
    frames = np.stack(images)  # [3, image_size, image_size, 3]
    found = loaded(read_clip(str(folder), config), config)(torch.from_numpy(frames))
    with av.open(str(path)) as container:
        decoded = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    owner, _, transform = open_clip.create_model_and_transforms(f"local-dir:{folder}")
    expected = features_of(owner.eval(), transform, decoded)
    cosines = (found * expected).sum(1)
    print(f"cosines {cosines.tolist()}")
    assert len(frames) == 3 and cosines.min() >= 0.995
    other = features_of(owner, transform, [255 - picture for picture in decoded])
    assert (found * other).sum(1).max() < cosines.min()


def scene(number: int) -> np.ndarray:
    """Sky, ground with the spectrum of photographs, and a ball that moves."""
    random = np.random.default_rng(number)
    rows, columns = np.mgrid[:300, :400]
    frequency = np.hypot(np.fft.fftfreq(300)[:, None], np.fft.rfftfreq(400)[None]) + 1e-3
    texture = np.fft.irfft2(np.fft.rfft2(random.standard_normal((300, 400))) / frequency)
    texture = texture / texture.std()
    image = np.stack([120 - rows / 4, 160 - rows / 3, 230 - rows / 2], -1)
    ground = np.stack([110 + 30 * texture, 90 + 25 * texture, 60 + 20 * texture], -1)
    image = np.where((rows > 170)[..., None], ground, image)
    ball = np.hypot(rows - 150 - 20 * number, columns - 120 - 60 * number) < 45
    image[ball] = (220, 60 + 40 * number, 40)
    return np.clip(image, 0, 255).astype(np.uint8)


def test_weights_that_come_later_are_no_alarm(known, caplog):
    ImageEncoder(CONFIG)
    assert caplog.text == ""
    open_clip.create_model(CLIP_NAME)
    assert "No pretrained weights loaded" in caplog.text


def same(part, other) -> bool:
    return all(torch.equal(tensor, other.weights[name]) for name, tensor in part.weights.items())


def test_other_files_that_open_clip_reads(owner, folder, tmp_path):
    expected, weights = read_clip(str(folder), CONFIG), owner.state_dict()
    trained = {"epoch": 3, "state_dict": {f"module.{n}": t for n, t in weights.items()}}
    torch.save(trained, tmp_path / "epoch_3.pt")
    assert same(read_clip(str(tmp_path / "epoch_3.pt"), CONFIG), expected)
    bare = {name.removeprefix("text."): tensor for name, tensor in weights.items()}
    bare |= {"logit_scale": weights["logit_scale"].reshape(1)}  # from before the text had a tower
    path = tmp_path / "open_clip_pytorch_model.bin"
    torch.save(bare, path, _use_new_zipfile_serialization=False)
    assert same(read_clip(str(path), CONFIG), expected)
    half = {name: tensor.half() for name, tensor in weights.items()}
    save_file(half, tmp_path / "half.safetensors")
    part = read_clip(str(tmp_path / "half.safetensors"), CONFIG)
    assert {tensor.dtype for tensor in part.weights.values()} == {torch.float32}


def test_every_tensor_is_accounted_for(owner, tmp_path):
    weights = owner.state_dict()
    weights.pop("text.ln_final.bias")
    weights |= {"visual.trunk.pos_embed": torch.zeros(1, 5, 192), "x": torch.zeros(1)}
    torch.save(weights, tmp_path / "x.bin")
    with pytest.raises(ExportError) as error:
        read_clip(str(tmp_path / "x.bin"), CONFIG)
    for part in (
        "missing: text.ln_final.bias;",
        "unexpected: x;",
        "of another shape: visual.trunk.pos_embed [1, 5, 192] instead of [1, 257, 192];",
    ):
        assert part in str(error.value)


def test_a_config_of_another_model(owner, folder, tmp_path):
    """Where the weights would fit, or the message says more."""
    vision = CLIP_MODEL["vision_cfg"]
    for changes, message in [
        ({"embed_dim": 48}, "embed_dim is 48, expected 24"),
        (
            {"vision_cfg": vision | {"image_size": 336}},
            "image_size is 336, expected",
        ),
        ({"quick_gelu": True}, "quick_gelu is True, expected False"),
        ({"vision_cfg": vision | {"timm_pool": "avg"}}, "timm_pool is 'avg', expected 'token'"),
        ({"vision_cfg": vision | {"no_ln_pre": True}}, "no_ln_pre is True, expected False"),
        ({"vision_cfg": vision | {"eyes": 2}}, "not as this open_clip has it .*'eyes'.*upgrade"),
        ({"vision_cfg": [1]}, "not as this open_clip has it .*expected a vision_cfg"),
        ({"pictures": {"mean": [0.5, 0.5, 0.5]}}, r"mean is \[0.5, 0.5, 0.5\], expected \[0.48"),
        ({"pictures": {"interpolation": "bilinear"}}, "interpolation is 'bilinear', expected 'bic"),
        ({"pictures": {"resize_mode": "squash"}}, "resize_mode is 'squash', expected 'shortest'"),
    ]:
        path = write_clip(tmp_path, owner.state_dict(), **changes)
        with pytest.raises(ExportError, match=message):
            read_clip(str(path), CONFIG)
    wide = msgspec.structs.replace(CONFIG, visual_dim=48, image_size=336)
    with pytest.raises(ExportError, match="image_size is 336, expected 224, visual_dim is 48, exp"):
        read_clip(str(folder), wide)
    for source in (str(folder), "EVA02-L-14"):
        with pytest.raises(
            ExportError, match="resnet-tiny-64, which open_clip does not know; choose"
        ):
            read_clip(source, tiny_config())


@pytest.mark.parametrize(("name", "side"), [("EVA02-L-14", 224), ("EVA02-L-14-336", 336)])
def test_both_sizes_of_eva02_are_known(name, side):
    """The paper's encoder, by open_clip's names, on no memory; tags say where the weights are."""
    preset = read_recipe("vab-encodec").model
    config = msgspec.structs.replace(preset, image_encoder=name, image_size=side)
    assert network_of(config)["timm_model_name"] == f"eva02_large_patch14_clip_{side}"
    shapes = {n: tuple(weight.shape) for n, weight in expected_weights(config).items()}
    assert shapes["visual.trunk.pos_embed"] == (1, (side // 14) ** 2 + 1, 1024)
    assert shapes["visual.trunk.head.weight"] == (768, 1024)
    assert 302e6 < sum(prod(s) for n, s in shapes.items() if n.startswith("visual.")) < 306e6
    (tag,) = open_clip.list_pretrained_tags_by_model(name)
    assert open_clip.get_pretrained_cfg(name, tag)["hf_hub"].startswith("timm/eva02_large_")


@pytest.fixture
def hub(folder, tmp_path, monkeypatch):
    with serving() as hub:
        hub.commit("timm/tiny", folder)
        template = constants.HUGGINGFACE_CO_URL_TEMPLATE.replace(constants.ENDPOINT, hub.url)
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "ENDPOINT", hub.url)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        yield hub


def test_names_on_a_hub(hub, folder, monkeypatch):
    expected = read_clip(str(folder), CONFIG)
    part = read_clip("hf:timm/tiny", CONFIG)
    commit = hub.branches["timm/tiny", "main"]
    assert same(part, expected) and f"hf:timm/tiny@{commit}/open_clip_model.s" in part.source
    tags = {"one": {"hf_hub": "timm/tiny/"}, "two": {"url": "https://x"}}
    monkeypatch.setitem(open_clip.pretrained._PRETRAINED, CLIP_NAME, tags)
    assert same(read_clip(f"{CLIP_NAME}/one", CONFIG), expected)
    hub.asked.clear()
    assert same(read_clip(f"{CLIP_NAME}/one", CONFIG, offline=True), expected) and hub.asked == []
    for name in (CLIP_NAME, f"{CLIP_NAME}/two", f"{CLIP_NAME}/three"):
        with pytest.raises(
            ExportError, match=f"{name} names no weights on a hub, expected {CLIP_NAME}/"
        ):
            read_clip(name, CONFIG)
    with pytest.raises(
        ExportError, match="nothing is no folder or file, and no name of tiny-eva02"
    ):
        read_clip("nothing", CONFIG)


def test_names_that_cannot_be_had(hub, tmp_path, monkeypatch):
    with pytest.raises(BundleError, match="hf:timm/none@main is not on the hub or is private"):
        read_clip("hf:timm/none", CONFIG)
    with pytest.raises(BundleError, match="open_clip_config.json of hf:timm/tiny@main is not in"):
        read_clip("hf:timm/tiny", CONFIG, offline=True)
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "open_clip_config.json").write_text("{}")
    hub.commit("timm/empty", tmp_path / "empty")
    with pytest.raises(ExportError, match="holds none of open_clip_model.safetensors"):
        read_clip("hf:timm/empty", CONFIG)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", "http://127.0.0.1:9/{repo_id}")
    with pytest.raises(BundleError, match=r"cannot be fetched \(.*check the network"):
        read_clip("hf:timm/tiny", CONFIG)


def test_bad_files(folder, tmp_path):
    torch.save({"visual.x": Payload(tmp_path / "ran")}, tmp_path / "x.bin")
    with pytest.raises(ExportError, match=r"holds \S+, which only running .* nothing was"):
        read_clip(str(tmp_path / "x.bin"), CONFIG)
    assert not (tmp_path / "ran").exists()
    whole = (folder / "open_clip_model.safetensors").read_bytes()
    (tmp_path / "half.safetensors").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ExportError, match=r"cannot be read as safetensors \("):
        read_clip(str(tmp_path / "half.safetensors"), CONFIG)
    (tmp_path / "open_clip_config.json").write_text('{"model_cfg": []}')
    (tmp_path / "open_clip_model.safetensors").write_bytes(whole)
    with pytest.raises(ExportError, match="no object under model_cfg"):
        read_clip(str(tmp_path), CONFIG)
