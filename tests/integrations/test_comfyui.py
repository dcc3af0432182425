"""The ComfyUI node, against a stand-in of its host: what it takes, gives, tells and refuses."""

import asyncio
import io
import shutil
import sys
import tomllib
from fractions import Fraction
from pathlib import Path

import comfy_stand_in
import numpy as np
import pytest
from media import make_video

import vab_rt

torch = pytest.importorskip("torch")
ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "integrations/comfyui"


@pytest.fixture
def host(tmp_path, tiny_bundle):
    """ComfyUI with a model of the user's own, called tiny."""
    shutil.copytree(tiny_bundle, tmp_path / "models/vab_rt/tiny")
    return comfy_stand_in.Host(tmp_path)


@pytest.fixture
def node(host, monkeypatch):
    package = comfy_stand_in.load_nodes(host, monkeypatch, FOLDER)
    extension = asyncio.run(package.comfy_entrypoint())
    [node] = asyncio.run(extension.get_node_list())
    yield node
    del sys.modules["custom_node.nodes"]


@pytest.fixture
def clip(tmp_path):
    return make_video(tmp_path / "clip.mp4", num_frames=50)


def make(node, video, **changed):
    """The samples [S] and their rate, with the defaults of the schema but for what is changed."""
    schema = node.define_schema()
    values = {each.id: each.default for each in schema.inputs if each.id != "video"}
    [audio] = node.execute(video=video, **{**values, "model": "tiny", **changed}).args
    waveform = audio["waveform"]
    assert waveform.dtype == torch.float32 and waveform.shape[:2] == (1, 1)
    return waveform[0, 0].numpy(), audio["sample_rate"]


def expected(tiny_bundle, video, **options):
    return vab_rt.load(tiny_bundle).generate(video, **options).samples


def test_the_schema_names_every_argument_once(node):
    schema = node.define_schema()
    names = [each.id for each in schema.inputs]
    assert names == ["video", "model", "seed", "steps", "guidance", "kind"]
    models = schema.inputs[1]
    assert {"tiny", "default"} <= set(models.options) and models.default == "default"
    assert schema.inputs[2].control_after_generate and len(schema.outputs) == 1


def test_a_file_gives_the_sound_that_the_runtime_gives(node, clip, tiny_bundle, host):
    samples, rate_hz = make(node, comfy_stand_in.VideoFromFile(str(clip)), seed=7, steps=3)
    assert np.array_equal(samples, expected(tiny_bundle, clip, seed=7, steps=3))
    assert len(samples) == 2 * rate_hz
    [told] = host.bars
    assert len(told) == 3 and told[-1] == (3, 3)


def test_bytes_are_as_good_as_a_file(node, clip, tiny_bundle, host):
    video = comfy_stand_in.VideoFromFile(io.BytesIO(clip.read_bytes()))
    assert np.array_equal(make(node, video)[0], expected(tiny_bundle, clip))
    assert not list((host.folder / "temp").iterdir()), "nothing stays"


@pytest.mark.parametrize(
    ("start_s", "length_s", "num_seconds"), [(0.4, 0.8, 0.8), (0.4, 0, 1.6), (0, 0, 2)]
)
def test_of_a_trimmed_video_the_part_is_heard(
    node, clip, tiny_bundle, start_s, length_s, num_seconds
):
    samples, rate_hz = make(node, comfy_stand_in.TrimmedVideo(str(clip), start_s, length_s))
    part = vab_rt.Video(clip, start_s, length_s or None)
    assert np.array_equal(samples, expected(tiny_bundle, part))
    assert len(samples) == round(num_seconds * rate_hz)


def test_a_version_that_trims_without_telling_where_saves_the_part(node, clip, monkeypatch):
    monkeypatch.delattr(comfy_stand_in.TrimmedVideo, "get_active_trim_window")
    saved = []
    monkeypatch.setattr(
        comfy_stand_in.TrimmedVideo,
        "save_to",
        lambda self, path: saved.append(shutil.copy(clip, path)),
    )
    make(node, comfy_stand_in.TrimmedVideo(str(clip), 0.4, 0.8))
    assert len(saved) == 1


@pytest.mark.parametrize("rate_hz", [16, 25, Fraction(30_000, 1001)])
def test_frames_in_memory_keep_their_rate_and_length(node, rate_hz):
    components = sys.modules["comfy_api.latest"].Types.VideoComponents
    images = torch.linspace(0, 1, 80)[:, None, None, None].expand(80, 49, 65, 3)  # odd sizes
    video = comfy_stand_in.VideoFromComponents(components(images, Fraction(rate_hz)))
    samples, sample_rate_hz = make(node, video)
    assert len(samples) / sample_rate_hz == pytest.approx(80 / rate_hz, abs=0.001)


def test_an_interruption_ends_it_at_the_next_step(node, clip, host):
    host.interrupt_after = 2
    with pytest.raises(comfy_stand_in.Interrupted):
        make(node, comfy_stand_in.VideoFromFile(str(clip)), steps=8)
    assert len(host.bars[0]) == 1


def test_what_cannot_be_is_said_as_the_host_says_it(node, tmp_path):
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(b"no movie" * 100)
    with pytest.raises(vab_rt.VabError, match=r"broken\.mp4"):
        make(node, comfy_stand_in.VideoFromFile(str(broken)))
    with pytest.raises(vab_rt.VabError, match="does not exist"):
        make(node, comfy_stand_in.VideoFromFile(str(tmp_path / "gone.mp4")))
    components = sys.modules["comfy_api.latest"].Types.VideoComponents
    empty = comfy_stand_in.VideoFromComponents(components(torch.zeros(0, 4, 4, 3), Fraction(25)))
    with pytest.raises(vab_rt.VabError, match="0 frames"):
        make(node, empty)
    assert node.validate_inputs("tiny", "") is True and node.validate_inputs("tiny", None) is True
    assert "has no names for what it sees" in node.validate_inputs("tiny", "dog")
    assert "expected one of tiny" in node.validate_inputs("/etc", "")
    with pytest.raises(vab_rt.VabError, match="expected one of tiny"):
        make(node, comfy_stand_in.VideoFromFile("x"), model="../models")


def test_the_registry_can_read_what_it_needs():
    found = tomllib.loads((FOLDER / "pyproject.toml").read_text())
    own = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert found["project"]["version"] == own["version"]
    assert found["project"]["dependencies"] == [own["name"]]
    assert "comfyui" not in found["project"]["name"].lower()
    assert {"PublisherId", "DisplayName", "Icon"} <= set(found["tool"]["comfy"])
