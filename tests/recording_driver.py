"""A driver library that records what it is told, and programs that run on it.

No GPU is needed: the library is built here with a C compiler. `launch` runs a program in a process
of its own, because the driver library is found when the process starts.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

GUARDED = """
import gc, os, sys
from pathlib import Path
import numpy as np
from vab_rt.engines.gpu import DeviceArray, Gpu
from vab_rt.engines.sampling_kernels import CudaSampler
from vab_rt.errors import VabError
from vab_rt.sampling_arguments import StepSettings

def report(action):
    try:
        return action()
    except (VabError, AssertionError) as error:
        print(f"{type(error).__name__}: {error}")

def held():
    # arrays in the memory of the driver
    gc.collect()
    lines = Path(os.environ["FAKE_CUDA_LOG"]).read_text().splitlines()
    return sum({"allocate": 1, "free": -1}.get(line.split()[0], 0) for line in lines)

def start(gpu=None, max_steps=64, seeds=np.array([1, 2**63 + 5], np.uint64), **changes):
    sampler = CudaSampler(gpu or Gpu(), 2, 63, 37, max_steps=max_steps)
    request = {
        "guidance": 2.5, "temperature": 0.5, "top_k": 8, "first_step": 7,
        "mask_temperatures": np.array([1.5, 0], np.float32),
        "num_remask": np.array([[3, 4], [0, 0]], np.int32),
    }
    sampler.begin(seeds, **(request | changes))
    return sampler

tokens = DeviceArray(0x10000, np.int32, (2, 63))
conditional = DeviceArray(0x20000, np.float32, (2, 63, 37))
unconditional = DeviceArray(0x30000, np.float32, (2, 63, 37))
"""


@pytest.fixture(scope="module")
def fake_driver(tmp_path_factory):
    """A folder that holds the recording libcuda.so.1."""
    pytest.importorskip("cuda.core", reason="cuda-core is not installed: pip install cuda-core")
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if compiler is None or sys.platform != "linux":
        pytest.skip("the recording driver library needs Linux and a C compiler")
    folder = tmp_path_factory.mktemp("driver")
    source, target = Path(__file__).with_name("fake_cuda.c"), folder / "libcuda.so.1"
    subprocess.run([compiler, "-shared", "-fPIC", "-o", target, source], check=True)
    return folder


@pytest.fixture
def launch(fake_driver, tmp_path):
    """Runs lines of Python on the fake driver; returns what they print and the driver's log."""

    def run(lines, **settings):
        log = tmp_path / "log"
        others = filter(None, [os.environ.get("LD_LIBRARY_PATH")])  # where Python may lie
        environment = os.environ | {
            "LD_LIBRARY_PATH": os.pathsep.join([str(fake_driver), *others]),
            "FAKE_CUDA_LOG": str(log),
            "FAKE_CUDA_CAPABILITY": "90",
            "PYTHONPATH": os.pathsep.join(sys.path),
        }
        done = subprocess.run(
            [sys.executable, "-c", GUARDED + lines],
            env=environment | settings,
            check=False,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout, log.read_text().splitlines() if log.exists() else []

    return run


LOOP = """
from vab_rt.config import ModelConfig
from vab_rt.options import TokenOptions
from vab_rt.contract import contract_of
from vab_rt.engines import Engines, device_loop
from vab_rt.engines.device_loop import DeviceEngines, DeviceLoop, HostCalls
from vab_rt.sampling import sample_step

config = ModelConfig(
    name="tiny", codec="spectral", image_encoder="none", image_size=8, visual_dim=6,
    visual_rate_hz=2.0, clip_s=2.0, num_codebooks=2, codebook_size=16, code_dim=4, width=8,
    layers=1, expert_layers=0, heads=1,
)
contract = contract_of(config)["backbone"]
rng = np.random.default_rng(0)

def exact(*shape):
    # sixteenths: every sum and product below is exact, however a BLAS splits and orders it
    return (rng.integers(-64, 65, shape) / 16).astype(np.float32)

heads, seen = exact(17, 16), exact(6, 16)

def view(array):
    kind = np.ctypeslib.as_ctypes_type(np.dtype(array.dtype))
    size = int(np.prod(array.shape))
    return np.ctypeslib.as_array((kind * size).from_address(array.address)).reshape(array.shape)

def logits_of(tokens, features, conditional):
    shown = (features.mean(1) @ seen) * conditional[:, None]
    return (heads[tokens] + shown[:, None, None]).astype(np.float32)

class Marked:
    # shows its runs in the log, as copies of one float
    def __init__(self, gpu, can_be_captured):
        self.gpu, self.can_be_captured = gpu, can_be_captured
    def bind(self, tensors):
        source = DeviceArray(tensors["conditional"].address, np.float32, (1,))
        target = DeviceArray(tensors["logits"].address, np.float32, (1,))
        return lambda: self.gpu.copy(target, source)

class Computing:
    can_be_captured = False
    def bind(self, tensors):
        t = {name: view(array) for name, array in tensors.items()}
        def run():
            t["logits"][...] = logits_of(t["tokens"], t["features"], t["conditional"])
        return run

class HostSampler:
    # CudaSampler's calls, with the reference
    def __init__(self, gpu, *shape, max_steps=64):
        pass
    def begin(self, seeds, **request):
        self.seeds, self.request, self.step = seeds, request, 0
    def launch(self, tokens, conditional, unconditional=None, stream=None):
        r, step = self.request, self.step
        settings = StepSettings(
            seeds=self.seeds, step=r.get("first_step", 0) + step,
            guidance=r["guidance"], temperature=r["temperature"],
            top_k=r["top_k"], mask_temperature=float(r["mask_temperatures"][step]),
            num_remask=r["num_remask"][step],
        )
        other = None if unconditional is None else view(unconditional)
        sample_step(view(tokens), view(conditional), other, settings)
        self.step += 1
    def check(self):
        pass

def request(clips):
    tokens = np.full((clips, 2, 100), 16, np.int32)
    tokens[-1, :, :30] = 3
    given = {"features": exact(clips, 4, 6)}
    return given, tokens, np.arange(clips, dtype=np.uint64)

def engines_of(gpu):
    host = lambda **inputs: logits_of(**inputs)
    return DeviceEngines(
        {"backbone": host}, "cuda", gpu=gpu, device_graphs={"backbone": Computing()},
        contracts={"backbone": contract},
    )

gpu = Gpu()
"""


def told(log):
    """The driver's log without addresses: what was done, and how many bytes."""
    copies, others = ("upload", "download", "copy"), ("launch", "replay", "begin", "end")
    lines = [line.split() for line in log if line.split()[0] in copies + others]
    return [f"{w[0]} {w[-1]}" if w[0] in copies else " ".join(w[:2]) for w in lines]


TOKENS, FEATURES = 4 * 2 * 100, 4 * 4 * 6
STEP = [f"copy {TOKENS}", "copy 4", "launch sample", "launch remask"]
"""The unconditional branch gets the tokens, then the backbone runs, then the kernels."""
PARAMETERS, STATE = 4 * (8 + 2 + 3 * 2), 16 + 4
BEGIN = [f"upload {2 * FEATURES}", f"upload {TOKENS}", f"upload {PARAMETERS}", f"upload {STATE}"]
END = [f"download {TOKENS}", "download 4"]
RUN = """
loop = DeviceLoop(gpu, Marked(gpu, CAPTURED), contract, 1, 2)
loop.run(*request(1), TokenOptions(steps=3))
"""


THROUGH_BUFFERS = (
    LOOP
    + """
import sys
import vab_rt
from vab_rt.bundle import open_bundle
from vab_rt.engines import open_engines
from vab_rt.engines.device_loop import device_engines

device_loop.CudaSampler = HostSampler
bundle, video = open_bundle(FOLDER), VIDEO
on_host = open_engines(bundle, "cpu", 1)

class Graph:
    can_be_captured = False
    def __init__(self, name):
        self.call, contract = on_host[name], bundle.contracts[name]
        self.inputs, self.output = [t.name for t in contract.inputs], contract.outputs[0].name
    def bind(self, tensors):
        t = {name: view(array) for name, array in tensors.items()}
        def run():
            t[self.output][...] = self.call(**{name: t[name] for name in self.inputs})
        return run

graphs = {name: Graph(name) for name in bundle.needed_graphs}
engines = device_engines(bundle, gpu, graphs, "cuda", dict.fromkeys(graphs, "fp32"))
sounds = [
    vab_rt.load(bundle.folder, engines=e).generate(video, OPTIONS).samples
    for e in (on_host, engines)
]
print(len(sounds[0]), np.abs(sounds[0] - sounds[1]).max(), engines.device)
steps = vab_rt.load(bundle.folder, engines=engines).generate_steps(video, OPTIONS)
print(sorted({(step.step, step.audio is not None) for step in steps}))
"""
)


def through_buffers(launch, folder, video, options):
    """A bundle's own graphs, run by onnxruntime in what the driver takes for its memory, twice ->
    samples, the largest difference from the host's, device, steps that were seen, and log."""
    names = {"FOLDER": repr(str(folder)), "VIDEO": repr(str(video)), "OPTIONS": options}
    code = THROUGH_BUFFERS
    for name, value in names.items():
        code = code.replace(name, value)
    out, log = launch(code)
    sound, steps = out.splitlines()
    length, difference, device = sound.split()
    return int(length), float(difference), device, steps, log
