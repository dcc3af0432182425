"""Programs without vab_rt around one graph: the runtime's tokens and sound for the same seed.

That of Node runs where NODE_MODULES, or examples/hosts/node/node_modules, has onnxruntime-node;
that in C++ where ORT_INCLUDE has onnxruntime_c_api.h.
"""

import os
import re
import shutil
import subprocess
import sys
import wave
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from command import PATIENCE_S
from media import make_video
from one_graph_hosts import HOSTS, node_modules
from tiny_bundle import tiny_config

import vab_rt
from export.one_graph import build_one_graph
from vab_rt.bundle import open_bundle
from vab_rt.options import TokenOptions
from vab_rt.seeing import as_frames
from vab_rt.video import Video, read_frames

SEED = 0xFEDCBA9876543210
HOST_NAMES = ("python", "node", "cpp")


@pytest.fixture(scope="module")
def material(tmp_path_factory, tiny_bundle):
    """A folder with the graph, a clip's frames, and half a clip's; the runtime."""
    folder = tmp_path_factory.mktemp("hosts")
    pipeline = vab_rt.load(tiny_bundle, threads=1)
    graph = build_one_graph(open_bundle(tiny_bundle), with_video=True)
    (folder / "one.onnx").write_bytes(graph.SerializeToString())
    next(fact for fact in graph.metadata_props if fact.key == "vab_rt.one_graph").value = "2"
    (folder / "newer.onnx").write_bytes(graph.SerializeToString())
    features = build_one_graph(open_bundle(tiny_bundle))
    (folder / "features.onnx").write_bytes(features.SerializeToString())
    c = pipeline.config
    frames = np.random.default_rng(0).integers(0, 256, (c.num_frames, 8, 8, 3), np.uint8)
    (folder / "frames.rgb").write_bytes(frames.tobytes())
    (folder / "half.rgb").write_bytes(frames[: c.num_frames // 2].tobytes())
    (folder / "wrong.rgb").write_bytes(b"x" * 100)
    np.save(folder / "frames.npy", frames)
    np.save(folder / "wrong.npy", frames.astype(np.float32))
    return folder, pipeline.system, frames


@pytest.fixture(scope="module", params=HOST_NAMES)
def host(request, tmp_path_factory):
    """Runs a host as a command, or skips."""
    command = COMMANDS[request.param](tmp_path_factory.mktemp(request.param))

    def run(folder, *words):
        return run_in(folder, *command, *words)

    return run


def run_in(folder, *command):
    how = {"capture_output": True, "text": True, "timeout": PATIENCE_S}
    return subprocess.run(command, cwd=folder, check=False, **how)


def python_command(_):
    return [sys.executable, HOSTS / "python" / "host.py"]


def node_command(folder):
    node, modules = shutil.which("node"), node_modules("onnxruntime-node")
    if node is None or modules is None:
        pytest.skip("no node, or no onnxruntime-node; NODE_MODULES names the folder that has it")
    for script in (HOSTS / "node").glob("*.mjs"):
        shutil.copy(script, folder)
    (folder / "node_modules").symlink_to(modules)
    return [node, folder / "host.mjs"]


def cpp_command(folder):
    compiler, include = shutil.which("g++"), os.environ.get("ORT_INCLUDE")
    if compiler is None or include is None:
        pytest.skip("no g++, or no ORT_INCLUDE, the folder of onnxruntime_c_api.h")
    library = next(Path(onnxruntime.__file__).parent.glob("capi/libonnxruntime.so.*"))
    (folder / "libonnxruntime.so.1").symlink_to(library)
    words = ["-std=c++17", "-Wall", "-Werror", "-isystem", include, HOSTS / "cpp" / "host.cpp"]
    words += [folder / "libonnxruntime.so.1", f"-Wl,-rpath,{folder}", "-o", folder / "host"]
    subprocess.run([compiler, *words], check=True, timeout=PATIENCE_S)
    return [folder / "host"]


COMMANDS = {"python": python_command, "node": node_command, "cpp": cpp_command}


def test_a_host_gives_the_runtimes_tokens_and_sound(host, material):
    folder, system, frames = material
    words = ("guidance=2.5", "top_k=5", "steps=3", "temperature=0.9", "tokens=tokens.i32")
    told = host(folder, "one.onnx", "frames.rgb", "out.wav", f"seed={SEED}", *words)
    assert (told.returncode, told.stdout, told.stderr) == (0, "out.wav: 2 s\n", "")
    c = system.config
    features = np.stack([*system.see(as_frames(frames))])[None]
    given = np.full((1, c.num_codebooks, c.num_token_steps), c.mask_id, np.int32)
    options = TokenOptions(guidance=2.5, top_k=5, steps=3, temperature=0.9)
    *_, (_, tokens) = system.decode_tokens(features, given, np.array([SEED], "u8"), options)
    found = np.fromfile(folder / "tokens.i32", np.int32)
    assert np.array_equal(found, tokens.ravel())
    sound = system.render(tokens)[0]
    assert np.abs(read_wav(folder / "out.wav") - sound / max(1, np.abs(sound).max())).max() <= 1e-4


def test_what_is_missing_of_a_clip_stands_still_and_is_not_heard(host, material):
    folder, *_ = material
    told = host(folder, "one.onnx", "half.rgb", "half.wav")
    assert (told.returncode, told.stdout) == (0, "half.wav: 1 s\n")
    assert len(read_wav(folder / "half.wav")) == 16000


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("steps=0", "steps is 0, expected a whole number from 1 to 1024"),
        (f"seed={2**64}", f"expected a whole number from 0 to {2**64 - 1}"),
        ("seed=-1", f"expected a whole number from 0 to {2**64 - 1}"),
        ("temperature=nan", "temperature is nan, expected a number from (1e-06|0.000001) to"),
        ("seed=0x10", "seed is 0x10, expected a whole number from 0 to"),
        ("images=frames.rgb", "takes no images, expected frames alone"),
        ("absent.onnx", "(no such file|NO_?SUCH_?FILE|doesn't exist)"),
        ("step=4", "'step(=4)?', expected NAME=VALUE with one of: seed, steps"),
        ("wrong.rgb", "expected .*1 to 4 frames of 8 x 8 RGB, 192 bytes each"),
        ("newer.onnx", "one graph of version 2, expected 1; export it again"),
        ("features.onnx", "takes features, expected frames; export it with --with-video"),
    ],
    ids=str,
)
def test_what_does_not_fit_is_refused_in_one_line(host, material, word, message):
    folder, *_ = material
    model = word if word.endswith(".onnx") else "one.onnx"
    frames = word if word == "wrong.rgb" else "frames.rgb"
    told = host(folder, model, frames, "refused.wav", *[word][: "=" in word])
    assert told.returncode == 1 and told.stdout == ""
    assert re.fullmatch(f".*{message}.*\n", told.stderr)
    assert not (folder / "refused.wav").exists()


def test_frames_come_from_numpy_too(material):
    folder, *_ = material
    command = python_command(folder)
    told = run_in(folder, *command, "one.onnx", "frames.npy", "npy.wav")
    assert (told.returncode, told.stdout) == (0, "npy.wav: 2 s\n")
    told = run_in(folder, *command, "one.onnx", "wrong.npy", "npy.wav")
    assert told.returncode == 1 and "wrong.npy holds float32" in told.stderr


@pytest.mark.parametrize(("size", "fps"), [((480, 270), 25), ((66, 122), 30), ((64, 48), 12)])
def test_frames_are_those_of_the_reader(tmp_path, size, fps):
    video = make_video(tmp_path / "in.mp4", num_frames=2 * fps, fps=fps, size=size)
    command = [sys.executable, HOSTS / "frames.py", video, tmp_path / "frames.rgb", "8", "2", "2"]
    subprocess.run(command, check=True, timeout=PATIENCE_S)
    frames, _ = read_frames(Video(video), tiny_config())
    assert np.array_equal(np.fromfile(tmp_path / "frames.rgb", np.uint8), np.ravel(frames))


def test_tritons_configuration_is_of_the_default_models_graph():
    text = (HOSTS / "triton" / "vab" / "config.pbtxt").read_text()
    found = re.findall(r'name: "(\w+)" data_type: TYPE_(\w+) dims: \[([^]]*)\]', text)
    graph = build_one_graph(open_bundle("default"), with_video=True).graph
    assert found == [triton_tensor(tensor) for tensor in (*graph.input, *graph.output)]
    assert text.index("output [") > text.index('"mask_temperature"')


def triton_tensor(tensor):
    """Scalars are [1] there."""
    kinds = {"UINT8": 2, "UINT32": 12, "INT32": 6, "INT64": 7, "FP32": 1, "FP64": 11}
    kind = next(k for k, value in kinds.items() if value == tensor.type.tensor_type.elem_type)
    dims = [str(dim.dim_value) for dim in tensor.type.tensor_type.shape.dim] or ["1"]
    return tensor.name, kind, f" {', '.join(dims)} "


def read_wav(path):
    with wave.open(str(path)) as file:
        assert file.getparams()[:3] == (1, 2, 16000)
        return np.frombuffer(file.readframes(file.getnframes()), "<i2") / np.float32(32767)
