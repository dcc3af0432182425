"""The decoding loop on a GPU, around a backbone of a few lines of CUDA: no onnxruntime, no torch.

What the loop is made of is all there: the shipped kernels, the captured step, tokens that each step
reads and changes. The tokens have to be those of the loop on the host.
"""

import ctypes
import shutil
import subprocess

import msgspec
import numpy as np
import pytest

core = pytest.importorskip("cuda.core", reason="cuda-core is not installed: pip install cuda-core")

from cuda.pathfinder import DynamicLibNotFoundError

from vab_rt.config import ModelConfig
from vab_rt.contract import contract_of
from vab_rt.engines import Engines
from vab_rt.engines.device_loop import DeviceEngines
from vab_rt.engines.gpu import Gpu
from vab_rt.errors import BackendError
from vab_rt.options import TokenOptions
from vab_rt.sampling import fastest_sampler, sample_step

SOURCE = """
// A row of `heads` for the token at this place, and what is seen at its time, where it is shown.
// One block for each of the B * K * T places; compiled without FMA, so that the host gets the same.
extern "C" __global__ void backbone(const int *tokens, const float *features,
                                    const float *conditional, const float *heads,
                                    const float *seen, float *logits, int K, int T, int V, int F,
                                    int C) {
  long long place = blockIdx.x;
  int b = place / (K * T), frame = place % T * F / T;
  for (int v = threadIdx.x; v < V; v += blockDim.x) {
    float shown = 0;
    for (int c = 0; c < C; ++c)
      shown = shown + features[(b * F + frame) * C + c] * seen[c * V + v];
    logits[place * V + v] = heads[(long long)tokens[place] * V + v] + shown * conditional[b];
  }
}
"""
ON_THE_HOST = """
#define __global__
struct Index { unsigned x; };
static Index blockIdx, threadIdx;
static const Index blockDim{1};
"""
RUN_ON_THE_HOST = """
extern "C" void run(int rows, const int *tokens, const float *features, const float *conditional,
                    const float *heads, const float *seen, float *logits, int K, int T, int V,
                    int F, int C) {
  for (blockIdx.x = 0; blockIdx.x < (unsigned)(rows * K * T); ++blockIdx.x)
    backbone(tokens, features, conditional, heads, seen, logits, K, T, V, F, C);
}
"""
TINY = ModelConfig(
    name="tiny",
    codec="spectral",
    image_encoder="none",
    image_size=8,
    visual_dim=6,
    visual_rate_hz=2.0,
    clip_s=2.0,
    num_codebooks=2,
    codebook_size=16,
    code_dim=4,
    width=8,
    layers=1,
    expert_layers=0,
    heads=1,
)
PAPER = msgspec.structs.replace(
    TINY, clip_s=10.0, visual_rate_hz=1.0, num_codebooks=4, codebook_size=2048
)


class Tables:
    """The weights of the stand-in, and its logits on the host [B, K, T, V]."""

    def __init__(self, config):
        self.config, random = config, np.random.default_rng(0)
        c = config
        self.heads = random.standard_normal((c.codebook_size + 1, c.codebook_size), np.float32)
        self.seen = random.standard_normal((c.visual_dim, c.codebook_size), np.float32)

    def logits(self, tokens, features, conditional):
        c = self.config
        frames = np.arange(c.num_token_steps) * c.num_frames // c.num_token_steps  # [T]
        shown = np.zeros((len(tokens), 1, c.num_token_steps, c.codebook_size), np.float32)
        for channel in range(c.visual_dim):
            shown += features[:, None, frames, channel, None] * self.seen[channel]
        return self.heads[tokens] + shown * conditional[:, None, None, None]

    def sizes(self):
        c = self.config
        sizes = (c.num_codebooks, c.num_token_steps, c.codebook_size, c.num_frames, c.visual_dim)
        return tuple(map(np.int32, sizes))


class CudaBackbone:
    def __init__(self, gpu, tables, can_be_captured):
        self.gpu, self.tables, self.can_be_captured = gpu, tables, can_be_captured
        self.kernel = compiled("".join(map(str, gpu.capability))).get_kernel("backbone")
        self.weights = [gpu.array(np.float32, w.shape) for w in (tables.heads, tables.seen)]
        for array, values in zip(self.weights, (tables.heads, tables.seen), strict=True):
            gpu.upload(array, values)

    def bind(self, tensors):
        inputs = [tensors[name].address for name in ("tokens", "features", "conditional")]
        weights = [array.address for array in self.weights]
        places = int(np.prod(tensors["tokens"].shape))
        config = core.LaunchConfig(grid=places, block=128)
        arguments = (*inputs, *weights, tensors["logits"].address, *self.tables.sizes())
        return lambda: core.launch(self.gpu.stream, config, self.kernel, *arguments)


def compiled(capability):
    options = core.ProgramOptions(arch=f"sm_{capability}", fma=False)
    return core.Program(SOURCE, "c++", options).compile("cubin")


def request(config, clips, seed=0):
    """What is given beside tokens, tokens of which some are known, and seeds."""
    c, random = config, np.random.default_rng(seed)
    features = random.standard_normal((clips, c.num_frames, c.visual_dim), np.float32)
    tokens = np.full((clips, c.num_codebooks, c.num_token_steps), c.mask_id, np.int32)
    tokens[-1, :, : c.num_token_steps // 3] = 3
    seeds = np.arange(clips, dtype=np.uint64) + np.uint64(2**63 + seed)
    return {"features": features}, tokens, seeds


def decoded(engines, case, options):
    branches = TINY.branches(options.guidance)
    return list(engines.decode_tokens("backbone", *case, options, branches))[-1][1]


@pytest.fixture(scope="module")
def gpu():
    try:
        return Gpu()
    except BackendError as error:
        pytest.skip(f"needs a GPU: {error}")


@pytest.fixture(scope="module")
def sides(gpu):
    """The loop on the GPU and the one on the host, of a config; each pair is made once."""
    made = {}

    def pair(config, can_be_captured=True):
        key = config, can_be_captured
        if key not in made:
            tables = Tables(config)
            graphs = {"backbone": CudaBackbone(gpu, tables, can_be_captured)}
            contracts = {"backbone": contract_of(config)["backbone"]}
            host = {"backbone": lambda **inputs: tables.logits(**inputs)}
            sampler = sample_step if config.codebook_size < 100 else fastest_sampler(2)
            made[key] = (
                DeviceEngines({}, "cuda", gpu=gpu, device_graphs=graphs, contracts=contracts),
                Engines(host, "cpu", sampler),
            )
        return made[key]

    return pair


def test_the_stand_in_computes_on_the_host_what_its_tables_say(tmp_path):
    compiler = shutil.which("c++") or shutil.which("g++") or shutil.which("clang++")
    if compiler is None:
        pytest.skip("needs a C++ compiler")
    source, library = tmp_path / "backbone.cpp", tmp_path / "backbone.so"
    source.write_text(ON_THE_HOST + SOURCE + RUN_ON_THE_HOST)
    command = [compiler, "-O1", "-ffp-contract=off", "-shared", "-fPIC", source, "-o", library]
    subprocess.run(command, check=True)
    config, tables = TINY, Tables(TINY)
    given, tokens, _ = request(config, 3)
    features = given["features"]
    conditional = np.array([1, 0, 1], np.float32)
    found = np.full((*tokens.shape, config.codebook_size), np.nan, np.float32)
    arrays = (tokens, features, conditional, tables.heads, tables.seen, found)
    addresses = [array.ctypes.data_as(ctypes.c_void_p) for array in arrays]
    ctypes.CDLL(str(library)).run(len(tokens), *addresses, *map(int, tables.sizes()))
    np.testing.assert_array_equal(found, tables.logits(tokens, features, conditional))


def test_the_stand_in_compiles_without_a_gpu():
    try:
        assert len(compiled("90").code) > 1000
    except DynamicLibNotFoundError as error:
        pytest.skip(f"needs NVRTC: {error}")


@pytest.mark.parametrize("can_be_captured", [True, False])
@pytest.mark.parametrize("guidance", [1.0, 2.5])
@pytest.mark.parametrize("clips", [1, 3, 16])
def test_the_tokens_are_those_of_the_host(sides, clips, guidance, can_be_captured):
    config = TINY
    on_gpu, on_host = sides(config, can_be_captured)
    options = TokenOptions(guidance=guidance, top_k=5, temperature=2.0)
    case = request(config, clips)
    expected = decoded(on_host, case, options)
    for _ in range(2):
        np.testing.assert_array_equal(decoded(on_gpu, case, options), expected)
    assert (expected[-1, :, : config.num_token_steps // 3] == 3).all()


@pytest.mark.parametrize("clips", [1, 4])
def test_the_tokens_are_those_of_the_host_at_the_size_of_the_paper(sides, clips):
    on_gpu, on_host = sides(PAPER)
    case, options = request(PAPER, clips), TokenOptions()
    np.testing.assert_array_equal(decoded(on_gpu, case, options), decoded(on_host, case, options))


def test_a_clip_of_a_batch_has_the_tokens_that_it_has_alone(sides):
    on_gpu, _ = sides(TINY)
    given, tokens, seeds = request(TINY, 7)
    together = decoded(on_gpu, (given, tokens, seeds), TokenOptions())
    for i in range(7):
        one = slice(i, i + 1)
        case = {"features": given["features"][one]}, tokens[one], seeds[one]
        alone = decoded(on_gpu, case, TokenOptions())
        np.testing.assert_array_equal(alone[0], together[i])


def test_one_captured_step_serves_every_request_of_its_shape(sides):
    on_gpu, on_host = sides(TINY)
    for seed, steps in ((1, 16), (2, 3), (3, 40), (1, 16)):
        options = TokenOptions(steps=steps, guidance=1.5 + seed, top_k=seed, mask_temperature=2.0)
        case = request(TINY, 2, seed)
        found = decoded(on_gpu, case, options)
        np.testing.assert_array_equal(found, decoded(on_host, case, options))
    assert on_gpu.loop_for("backbone", 2, (1.0, 0.0)).launching_s > 0
