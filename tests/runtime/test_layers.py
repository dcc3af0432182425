"""The runtime stands alone: no torch, and nothing heavy before it is needed."""

import subprocess
import sys
from importlib.metadata import version

import pytest

pytestmark = pytest.mark.everywhere


def run(code: str, *arguments: str) -> str:
    command = [sys.executable, "-c", code, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


@pytest.mark.parametrize("system", ["vab", "v2a-mapper"])
def test_generating_needs_no_torch(system, tiny_bundle, v2a_bundle, videos):
    folder = tiny_bundle if system == "vab" else v2a_bundle
    code = (
        "import sys, vab_rt\n"
        "audio = vab_rt.load(sys.argv[1], threads=1).generate(sys.argv[2])\n"
        "print(len(audio.samples))\n"
        "heavy = 'torch diffusers transformers triton onnx'\n"
        "own = 'recipes export training kernels bench'\n"
        "for name in f'{heavy} {own}'.split():\n"
        "    assert name not in sys.modules, name\n"
    )
    assert int(run(code, str(folder), str(videos(25)))) == 16_000


def test_importing_is_light():
    code = (
        "import sys, vab_rt\n"
        "for name in ('numpy', 'onnxruntime', 'av', 'msgspec', 'typer', 'rich'):\n"
        "    assert name not in sys.modules, name\n"
        "print(sorted(vab_rt.__all__))\n"
    )
    names = ["Audio", "Delivery", "Found", "GenerateOptions", "MediaWarning", "Pipeline"]
    names += ["Step", "VabError", "Video", "VideoLike", "__version__", "load", "save_picture"]
    assert run(code).strip() == str(sorted(names))


def test_the_public_names():
    import vab_rt

    for name in vab_rt.__all__:
        assert name in dir(vab_rt) and getattr(vab_rt, name).__doc__, name
    assert vab_rt.__version__ == version("vab-rt")
    with pytest.raises(AttributeError, match="no attribute 'lode'"):
        vab_rt.lode  # noqa: B018
