"""What every stage of a model asks of the machine, from its config: nothing is computed for it."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from bench.roofline import GUIDED, Work, backbone_work
from bench.torch_loop import flops_of
from training.codecs.codec import build_codec
from training.configs import Recipe
from training.visual_encoder import build_visual_encoder


def stage_work(recipe: Recipe, number_bytes: int, steps: int) -> dict[str, Work]:
    """The work of one clip: its frames, the guided token loop, and its sound.

    Bytes are those of weights, inputs and outputs, each once a pass: what lies between need not
    leave the chip. FLOPs are those that torch counts, of shapes alone.
    """
    c = recipe.model
    frame = c.image_size**2 * 3  # bytes
    # EVA02 reads numbers back from tensors as it is built, so that it has to be built in earnest.
    encoder = build_visual_encoder(c).to("meta")
    frames = torch.zeros(
        c.num_frames, c.image_size, c.image_size, 3, dtype=torch.uint8, device="meta"
    )
    with torch.no_grad():
        visual = work_of(encoder, encoder, frames, number_bytes)
    with FakeTensorMode(allow_non_fake_inputs=True), torch.no_grad():
        codec = build_codec(c, recipe.codec).eval()
        tokens = torch.zeros(1, c.num_codebooks, c.num_token_steps, dtype=torch.int32)
        sound = work_of(codec, codec.decode, tokens, number_bytes)
    return {
        "visual_encoder": visual + Work(0, c.num_frames * (frame + 4 * c.visual_dim)),
        "token_loop": backbone_work(c, GUIDED, number_bytes).times(steps),
        "codec_decoder": sound + Work(0, 4 * (c.num_samples + tokens.numel())),
    }


def work_of(
    module: nn.Module, call: Callable[[Tensor], Tensor], example: Tensor, number_bytes: int
) -> Work:
    """FLOPs of call(example), and bytes of the weights of those parts of `module` that it runs."""
    with parts_run(module) as parts:
        flops = flops_of(call, example)
    ran = set(map(id, parts))
    weights = {
        id(weight): weight.numel()
        for part in parts
        # Of attention that torch computes as one function, the children are not called.
        for weight in part.parameters(recurse=not any(id(x) in ran for x in part.children()))
    }
    return Work(flops, number_bytes * sum(weights.values()))


@contextmanager
def parts_run(module: nn.Module) -> Iterator[list[nn.Module]]:
    """The parts whose forward runs within the block."""
    ran: list[nn.Module] = []
    hooks = [
        part.register_forward_hook(lambda part, *_: ran.append(part)) for part in module.modules()
    ]
    try:
        yield ran
    finally:
        for hook in hooks:
            hook.remove()
