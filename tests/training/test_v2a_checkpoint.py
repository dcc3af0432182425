"""Checkpoints of a V2A-Mapper: what is written is read, and what does not fit is refused."""

import json

import msgspec
import pytest

torch = pytest.importorskip("torch", reason="training needs torch")
pytest.importorskip("diffusers", reason="pip install diffusers")
pytest.importorskip("transformers", reason="pip install transformers")

from safetensors.torch import save_file
from torch.nn import functional as F
from v2a_checkpoints import tiny_v2a_config, write_tiny_v2a

from training.v2a_mapper.checkpoint import V2A_PARTS, read_v2a_checkpoint
from training.v2a_mapper.engines import open_system
from training.v2a_mapper.parts import build_unet, build_vae, build_vocoder, decode_latents
from vab_rt.errors import ExportError, OptionError

NARROW = {"mapper": "regression", "visual_dim": 12}


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return write_tiny_v2a(tmp_path_factory.mktemp("v2a") / "ckpt.pt")


@pytest.fixture(scope="module")
def checkpoint(path):
    return read_v2a_checkpoint(path)


def changed(path, tmp_path, change):
    """A copy of the checkpoint with `change` made to its content."""
    content = torch.load(path, weights_only=True)
    change(content)
    copy = tmp_path / "ckpt.pt"
    torch.save(content, copy)
    return copy


def setting(*keys, to):
    def change(content):
        for key in keys[:-1]:
            content = content[key]
        content[keys[-1]] = to

    return change


def test_what_was_written_is_read(checkpoint):
    parts = {name: getattr(checkpoint, name)() for name in V2A_PARTS if name != "null_embedding"}
    for name, part in parts.items():
        for key, value in part.state_dict().items():
            assert torch.equal(value, checkpoint.weights[name][key])
        assert not part.training
    assert checkpoint.header.options.steps == 4
    assert checkpoint.null_embedding.norm().item() == pytest.approx(1, abs=1e-6)


def test_safetensors_are_read_alike(path, checkpoint, tmp_path):
    content = torch.load(path, weights_only=True)
    weights = {part: content.pop(part) for part in V2A_PARTS}
    tensors = {f"{p}.{n}": x.contiguous() for p, part in weights.items() for n, x in part.items()}
    save_file(tensors, tmp_path / "ckpt.safetensors", {"checkpoint": json.dumps(content)})
    again = read_v2a_checkpoint(tmp_path / "ckpt.safetensors")
    assert again.header == checkpoint.header
    assert torch.equal(again.null_embedding, checkpoint.null_embedding)
    mapper = again.mapper().state_dict()
    assert all(torch.equal(x, mapper[n]) for n, x in checkpoint.mapper().state_dict().items())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (setting("kind", to="vab"), "has the kind 'vab', expected 'v2a-mapper'"),
        (lambda c: c.pop("kind"), "has the kind None, expected 'v2a-mapper'"),
        (lambda c: c.pop("null_embedding"), "has no null_embedding, expected image_encoder"),
        (lambda c: c.pop("mapper"), "has no mapper, expected"),
        (lambda c: c.pop("vocoder"), "has no vocoder, expected"),
        (
            setting("null_embedding", "text", to=torch.zeros(24)),
            "null_embedding is 0 long, expected 1",
        ),
        (
            setting("null_embedding", "text", to=torch.ones(12)),
            r"null_embedding: text is float32 \[12\], expected float32 \[24\]",
        ),
        (
            setting("networks", "unet", "projection_class_embeddings_input_dim", to=32),
            "projection_class_embeddings_input_dim is 32, expected 24 for model tiny-v2a",
        ),
        (
            setting("networks", "unet", "class_embeddings_concat", to=False),
            "class_embeddings_concat is False, expected True",
        ),
        (
            setting("networks", "unet", "in_channels", to=4),
            "unet in_channels is 4, expected 8",
        ),
        (setting("networks", "vae", "latent_channels", to=4), "latent_channels is 4, expected 8"),
        (setting("config", "latent_factor", to=8), "vae factor is 4, expected 8"),
        (setting("networks", "vocoder", "model_in_dim", to=80), "model_in_dim is 80, expected 64"),
        (
            setting("networks", "vocoder", "upsample_rates", to=[5, 4, 2, 2, 1]),
            "vocoder upsampling is 80, expected 160",
        ),
        (setting("networks", "vocoder", "hop", to=1), "vocoder has the key 'hop', expected some"),
        (setting("networks", "unet", "text", to=1), "unet has the key 'text', expected some of"),
        (
            setting("networks", "unet", "block_out_channels", to=[8]),
            "unet cannot be built .*same number of",
        ),
        (setting("networks", "mapper", "dept", to=1), "unknown field `dept`"),
        (setting("config", "visual_dim", to=48), "visual_dim is 48 and audio_dim 24, expected"),
        (setting("extra", to=1), "unknown field `extra`"),
    ],
)
def test_parts_that_do_not_fit_are_refused(path, tmp_path, change, message):
    with pytest.raises(ExportError, match=message):
        read_v2a_checkpoint(changed(path, tmp_path, change))


def nan_in(content):
    content["vae"]["decoder.conv_out.bias"][:] = float("nan")


@pytest.mark.parametrize(
    ("part", "change", "message"),
    [
        ("mapper", setting("networks", "mapper", "depth", to=3), "is missing"),
        ("mapper", setting("networks", "mapper", "null_tokens", to=2), r"\[1, 3, 24\], expected"),
        ("mapper", setting("config", "mapper", to="regression"), "is missing"),
        ("unet", setting("networks", "unet", "block_out_channels", to=[8, 12]), "expected"),
        ("vae", nan_in, "holds NaN or infinity"),
        ("image_encoder", setting("config", "image_size", to=64), "positional_embedding is"),
    ],
)
def test_weights_of_another_size_are_refused(path, tmp_path, part, change, message):
    checkpoint = read_v2a_checkpoint(changed(path, tmp_path, change))
    with pytest.raises(ExportError, match=f"{part}: .*{message}"):
        getattr(checkpoint, part)()


def test_a_library_that_is_missing_is_named_with_its_pip_line(monkeypatch):
    from training.v2a_mapper import parts
    from vab_rt.errors import BackendError

    def absent(name):
        raise ImportError(f"No module named {name!r}")

    monkeypatch.setattr(parts, "import_module", absent)
    for build, name in ((build_unet, "diffusers"), (build_vocoder, "transformers")):
        with pytest.raises(BackendError, match=f"pip install {name}"):
            build({})


def test_a_vae_that_cannot_be_built_is_refused():
    with pytest.raises(OptionError, match="vae cannot be built"):
        build_vae({"block_out_channels": [3], "norm_num_groups": 2})


@pytest.mark.parametrize("changes", [{}, {"mapper": "regression"}, {"mapper": "none"}, NARROW])
def test_vectors_are_of_unit_length_at_the_unets_door(tmp_path, changes):
    """Of every mapper, in the runtime's loop around the checkpoint's own modules."""
    path = write_tiny_v2a(tmp_path / "ckpt.pt", tiny_v2a_config(**changes))
    checkpoint = read_v2a_checkpoint(path)
    system, c = open_system(checkpoint), checkpoint.config
    features = 3 * torch.randn(4, c.visual_dim, generator=torch.Generator().manual_seed(0)).numpy()
    drawn = [torch.from_numpy(system.embedding_of(features, seed))[0] for seed in (1, 1, 2)]
    for vector in drawn:
        assert vector.shape == (c.audio_dim,) and vector.norm().item() == pytest.approx(1, abs=1e-5)
    assert torch.equal(drawn[0], drawn[1])
    assert torch.equal(drawn[0], drawn[2]) == (c.mapper != "prior")
    if c.mapper == "none":
        assert torch.allclose(drawn[0], F.normalize(torch.from_numpy(features).mean(0), dim=0))


@torch.inference_mode()
def test_the_engines_are_the_modules(checkpoint):
    system, c = open_system(checkpoint), checkpoint.config
    random = torch.Generator().manual_seed(0)
    latent = torch.randn(2, *c.latent_shape, generator=random)
    embedding = F.normalize(torch.randn(2, c.audio_dim, generator=random), dim=1)
    inputs = {"latent": latent, "timestep": torch.tensor([3, 700], dtype=torch.int32)}
    inputs |= {"embedding": embedding, "conditional": torch.tensor([1.0, 0.0])}
    found = system.engines["unet"](**{name: x.numpy() for name, x in inputs.items()})
    told = torch.stack([embedding[0], checkpoint.null_embedding])
    unet = checkpoint.unet()
    expected = unet(latent, inputs["timestep"], encoder_hidden_states=None, class_labels=told)
    assert (torch.from_numpy(found) - expected.sample).abs().max() < 1e-6
    mel = system.engines["vae_decoder"](latent=latent.numpy())
    vae = checkpoint.vae()
    scaled = vae.decode(latent / vae.config.scaling_factor).sample[:, 0]
    assert torch.equal(torch.from_numpy(mel), scaled)
    assert torch.equal(decode_latents(vae, latent), scaled)
    audio = system.engines["vocoder"](mel=mel)
    assert audio.shape == (2, c.num_samples) and abs(audio).max() <= 1


def test_the_header_goes_on(checkpoint):
    header = checkpoint.header.with_provenance({"mapper_from": "elsewhere"})
    assert header.provenance["mapper_from"] == "elsewhere"
    assert msgspec.structs.replace(header, provenance={}) == msgspec.structs.replace(
        checkpoint.header, provenance={}
    )
