"""Several processes that train one model: `torchrun --nproc-per-node N -m recipes.train ...`."""

import datetime
import os
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, distributed, nn

LONGEST_STAGE = datetime.timedelta(days=7)
"""That the first process may go through alone: codec, image encoder and data are made by it."""


@contextmanager
def init_distributed() -> Iterator[None]:
    """Joins the group that torchrun started, if it did; NCCL with GPUs, gloo without.

    Processes that wait for the first one do not give up after torch's 10 to 30 minutes.
    """
    if "RANK" not in os.environ:
        yield
        return
    backend = "nccl" if torch.cuda.is_available() else "gloo"
    if backend == "nccl":
        torch.cuda.set_device(device())  # else every process also fills the first GPU
    distributed.init_process_group(backend, timeout=LONGEST_STAGE)
    try:
        yield
    finally:
        distributed.destroy_process_group()


def rank() -> int:
    return distributed.get_rank() if distributed.is_initialized() else 0


def world_size() -> int:
    return distributed.get_world_size() if distributed.is_initialized() else 1


def device() -> torch.device:
    """This process's own: a GPU where there is one, else the CPU."""
    if not torch.cuda.is_available():
        return torch.device("cpu")
    return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))


def on_device(array: NDArray[np.generic], device: torch.device) -> Tensor:
    """The array as a tensor there; a GPU fetches it while the host goes on."""
    tensor = torch.from_numpy(array)
    if device.type != "cuda":
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)


def barrier() -> None:
    """Until all processes are here."""
    if distributed.is_initialized():
        distributed.barrier()


@contextmanager
def rank_zero_first() -> Iterator[None]:
    """The first process goes through the block before the others, which find its files made."""
    if rank() != 0:
        barrier()
    yield
    if rank() == 0:
        barrier()


def broadcast(value: float) -> float:
    """The first process's value, so that all decide alike."""
    if not distributed.is_initialized():
        return value
    shared = torch.tensor([value], dtype=torch.float64, device=device())
    distributed.broadcast(shared, 0)
    return float(shared.item())


def all_reduce_mean(value: Tensor) -> Tensor:
    """The mean of a scalar that each process has. It stays on its device: reading it waits for a
    GPU."""
    if distributed.is_initialized():
        distributed.all_reduce(value := value.detach().clone())
        value /= world_size()
    return value


def ddp(module: nn.Module) -> nn.Module:
    """The module with its gradients averaged over all processes."""
    if not distributed.is_initialized():
        return module
    on = device()
    return nn.parallel.DistributedDataParallel(
        module, device_ids=[on.index] if on.type == "cuda" else None
    )
