"""Everyone who is compared, on the features of one clip, and what each has to show beforehand."""

from collections.abc import Callable
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor
from torch._dynamo.utils import counters

from bench.peers import parity
from bench.peers.autoregressive import Autoregressive
from bench.peers.devices import Device
from bench.peers.figures import Peer
from bench.peers.foleygen import FoleyGen
from bench.peers.parallel import Parallel
from bench.report import console
from bench.roofline import Work
from training.model import VAB
from vab_rt.options import TokenOptions
from vab_rt.systems.vab import Vab

T = TypeVar("T")


class Contenders:
    """Our system, and both models in torch, plain and compiled.

    failed: why a peer is left out, by its name: it cannot be run here, or differs. Ours cannot be
    left out.
    """

    def __init__(self, device: Device, vab: VAB, system: Vab, options: TokenOptions) -> None:
        self.device, self.system, self.options, c = device, system, options, system.config
        self.failed: dict[str, str] = {}
        torch.manual_seed(0)
        foleygen = FoleyGen(c).eval().to(device.kind, device.dtype)
        vab = vab.to(device.kind, device.dtype)
        features = torch.randn(1, c.num_frames, c.visual_dim)
        self.features = torch.nn.functional.normalize(features, dim=-1)
        self.parallel = {
            "eager": Parallel(vab, options),
            "compiled": Parallel(vab, options, compile_step),
        }
        self.autoregressive = {
            "eager": Autoregressive(foleygen, options),
            "compiled": Autoregressive(foleygen, options, compile_step),
        }

    def ours(self, seed: int, options: TokenOptions | None = None) -> parity.Steps:
        """Tokens [1, K, T] after each step that the runtime shows, on the host; a GPU shows one."""
        c = self.system.config
        masked = np.full((1, c.num_codebooks, c.num_token_steps), c.mask_id, np.int32)
        seeds = np.array([seed], np.uint64)
        steps = self.system.decode_tokens(
            self.features.numpy(), masked, seeds, options or self.options
        )
        return [tokens for _, tokens in steps]

    def peers(self, work: dict[str, Work]) -> dict[str, Peer]:
        """Each from features on the host to tokens on the host."""

        def in_torch(way: Parallel | Autoregressive) -> Callable[[int], Tensor]:
            return lambda seed: way.tokens(self.features, seed).cpu()

        parallel, autoregressive = work["parallel"], work["autoregressive"]
        p, a = self.parallel, self.autoregressive
        found = {
            "ours": Peer(f"vab-rt on {self.system.engines.device}", parallel, self.ours),
            "eager": Peer("the same VAB, torch", parallel, in_torch(p["eager"])),
            "compiled": Peer("the same VAB, torch.compile", parallel, in_torch(p["compiled"])),
            "autoregressive_eager": Peer("FoleyGen, torch", autoregressive, in_torch(a["eager"])),
            "autoregressive_compiled": Peer(
                "FoleyGen, torch.compile", autoregressive, in_torch(a["compiled"])
            ),
        }
        return {name: peer for name, peer in found.items() if name not in self.failed}

    def attempt(self, name: str, call: Callable[[], T]) -> T | None:
        """call(); where that raises, the peer of that name is left out, unless it is ours."""
        try:
            return call()
        except Exception as error:
            if name == "ours":
                raise
            reason = (str(error).strip() or "no reason given").splitlines()[0]
            self.failed[name] = f"{type(error).__name__}: {reason}"
            console.print(f"{name} is left out: {self.failed[name]}", markup=False)
            return None


def compile_step(step: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """As torch is fastest at one shape: fused, and on a GPU in CUDA graphs."""
    return torch.compile(step, mode="reduce-overhead", dynamic=False)


def num_graph_breaks() -> int:
    """Places where torch.compile fell back to Python; a fair peer has none."""
    return sum(counters["graph_break"].values())


def num_skipped_graphs() -> int:
    """Parts that torch.compile did not capture in a CUDA graph; on a GPU a fair peer has none."""
    return counters["inductor"]["cudagraph_skips"]


def check(contenders: Contenders) -> tuple[dict[str, float], Tensor | None]:
    """Differences of ours, and of FoleyGen in plain PyTorch, from their references; and its columns
    [1, K, T + K], to compare others with. Raises Differs where ours is too large."""
    limits, features = parity.TOLERANCES[contenders.device.precision], contenders.features
    parallel, eager = contenders.parallel["eager"], contenders.autoregressive["eager"]
    backbone, require = contenders.system.engines["backbone"], parity.require
    errors = {
        "backbone": require(
            "logits (backbone)", parity.logits_error(parallel, features, backbone), limits.logits
        ),
        "steps": require(
            "tokens (steps)",
            parity.share_unequal_steps(parallel, features, contenders.ours),
            limits.tokens,
        ),
    }

    def check_eager() -> Tensor:
        columns = torch.stack(
            list(eager.columns(features, contenders.options.seed)), 2
        )  # [1, K, T + K]
        error = parity.cached_error(eager, features, columns)
        errors["cache"] = require("logits (cache)", error, limits.logits)
        return columns

    columns = contenders.attempt("autoregressive_eager", check_eager)
    print_errors(errors)
    return errors, columns


def check_compiled(contenders: Contenders, columns: Tensor | None) -> dict[str, float]:
    """Differences of the compiled FoleyGen; it takes as long as compiling does."""
    limits, features = parity.TOLERANCES[contenders.device.precision], contenders.features
    way, errors = contenders.autoregressive["compiled"], {}

    def check_columns(columns: Tensor) -> None:
        error = parity.cached_error(way, features, columns)
        errors["static_cache"] = parity.require("logits (static_cache)", error, limits.logits)
        share = parity.share_unequal_columns(way, features, contenders.options.seed, columns)
        errors["columns"] = parity.require("tokens (columns)", share, limits.tokens)

    if columns is None:
        contenders.failed["autoregressive_compiled"] = "there are no columns to compare it with"
    else:
        contenders.attempt("autoregressive_compiled", lambda: check_columns(columns))
        print_errors(errors)
    return errors


def print_errors(errors: dict[str, float]) -> None:
    console.print("parity: " + ", ".join(f"{name} {error:.1e}" for name, error in errors.items()))
