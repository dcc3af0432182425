"""Our decoding loop and kernels around torch's backbone, where onnxruntime has no CUDA provider.

It is no peer and no product: it shows what the loop costs on a GPU beside the backbone, and lets
the peers be compared with one another.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from bench.report import console
from bench.roofline import GUIDED
from training.model import VAB
from vab_rt.config import ModelConfig
from vab_rt.contract import contract_of
from vab_rt.engines.device_loop import DeviceEngines, Enqueue, HostCalls
from vab_rt.engines.gpu import DeviceArray, Gpu
from vab_rt.systems.vab import Vab

WARM_UPS = 3


class TorchGraph:
    """VAB in torch, in a CUDA graph of its own; a backbone as `DeviceLoop` takes it.

    what: whether torch's compiler could compile it here.
    """

    can_be_captured = False

    def __init__(self, vab: VAB, gpu: Gpu) -> None:
        self.forward, self.what = compiled_or_plain(vab)
        self.dtype = vab.audio_in.weight.dtype
        self.stream = torch.cuda.ExternalStream(gpu.handle)

    def bind(self, tensors: dict[str, DeviceArray]) -> Enqueue:
        graph = torch.cuda.CUDAGraph()
        # All in one mode, also what replays: torch keeps tensors of its own for a graph.
        with torch.inference_mode(), torch.cuda.stream(self.stream):
            t = {name: tensor_of(array) for name, array in tensors.items()}

            def run() -> None:
                features, conditional = (t[n].to(self.dtype) for n in ("features", "conditional"))
                t["logits"].copy_(self.forward(t["tokens"], features, conditional))

            for each in t.values():
                each.zero_()  # memory that was used before holds what are no tokens
            for _ in range(WARM_UPS):
                run()
            torch.cuda.synchronize()
            with torch.cuda.graph(graph, stream=self.stream):
                run()

        def enqueue() -> None:
            with torch.inference_mode(), torch.cuda.stream(self.stream):
                graph.replay()

        return enqueue


def compiled_or_plain(vab: VAB) -> tuple[Callable[..., Tensor], str]:
    """A forward pass and what it is: the whole bench depends on there being one."""
    c, weight = vab.config, vab.audio_in.weight
    compiled = torch.compile(vab, dynamic=False)
    with torch.inference_mode():
        shape = (GUIDED, c.num_codebooks, c.num_token_steps)
        tokens = torch.zeros(shape, dtype=torch.int32, device=weight.device)
        features = weight.new_zeros(GUIDED, c.num_frames, c.visual_dim)
        try:
            compiled(tokens, features, weight.new_zeros(GUIDED))
        except Exception as error:  # noqa: BLE001 - of torch's compiler, of many kinds
            reason = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
            console.print(f"torch cannot compile the backbone here: {reason}", markup=False)
            return vab, "torch's backbone, not compiled"
    return compiled, "torch's backbone"


def tensor_of(array: DeviceArray) -> Tensor:
    """The same memory, as a tensor."""
    tensor = torch.as_tensor(array, device="cuda:0")  # without a number it may be a copy
    assert tensor.data_ptr() == array.address, f"a copy at {tensor.data_ptr():#x} of {array}"
    return tensor


def random_vab(config: ModelConfig) -> VAB:
    """With codebooks of noise, as no codec is there."""
    torch.manual_seed(0)
    vab = VAB(config).eval()
    vab.use_codebooks(torch.randn(config.num_codebooks, config.codebook_size, config.code_dim))
    return vab


def around_torch(vab: VAB) -> Vab:
    """A system that decodes tokens and nothing else; `vab` is on the GPU."""
    gpu, contract = Gpu(), contract_of(vab.config)["backbone"]
    graph = TorchGraph(vab, gpu)
    engines = DeviceEngines(
        {"backbone": HostCalls(gpu, graph, contract)},
        f"cuda, around {graph.what}",
        gpu=gpu,
        device_graphs={"backbone": graph},
        contracts={"backbone": contract},
    )
    return Vab(vab.config, engines)
