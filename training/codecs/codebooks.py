"""The codebooks of a residual quantiser: k-means first, then moving averages of what they code.

The modules are the encodec package's, so that weights fit by name. Training them is written here:
in its training mode codes that nothing falls to are never replaced
(github.com/facebookresearch/encodec/issues/61), all codes shrink towards zero in the step after
k-means, and the encoder commits to the first codebook alone (.../issues/25).
"""

from collections.abc import Iterator, Sequence

import torch
from encodec.quantization import ResidualVectorQuantizer
from encodec.quantization.core_vq import EuclideanCodebook
from torch import Tensor


@torch.no_grad()
def fit_codebooks(
    quantizer: ResidualVectorQuantizer,
    points: Tensor,
    rounds: int = 20,
    seen: Sequence[int] | None = None,
) -> Iterator[None]:
    """Residual k-means on points [N, D]; one codebook after the other, each yields.

    seen: from which of the D numbers on each codebook looks to choose a code; None: at all.
    """
    residual = points
    for layer, first in zip(quantizer.vq.layers, seen or [0] * quantizer.n_q, strict=True):
        centres = kmeans(residual[:, first:], quantizer.bins, rounds)
        owner = nearest(residual[:, first:], centres)
        centres = means_of(residual, owner, quantizer.bins)
        shares = owner.bincount(minlength=quantizer.bins) / len(points)
        book = layer._codebook
        book.embed.copy_(centres)
        book.cluster_size.copy_(shares)
        book.embed_avg.copy_(centres * shares[:, None])
        book.inited.fill_(1)
        residual = residual - centres[owner]
        yield


def quantise(
    quantizer: ResidualVectorQuantizer,
    latents: Tensor,
    random: torch.Generator,
    dead_below: float,
    num_kept: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """latents [B, T, D] -> the same quantised, straight through, and the commitment loss.

    num_kept [B]: of how many codebooks each clip is made; None: of all.

    The loss is the mean over codebooks of the squared distance of a residual to its code
    (arXiv:2210.13438 section 3.4); its gradient reaches the encoder alone. In training mode the
    codebooks follow the latents; dead_below is that of `follow`.
    """
    residual = latents.flatten(0, 1)  # [B * T, D]
    total, losses = torch.zeros_like(residual), []
    for k, layer in enumerate(quantizer.vq.layers):
        book, points = layer._codebook, residual.detach()
        owner = nearest(points, book.embed)
        code = book.embed[owner]  # [B * T, D]
        error = (residual - code).square()
        kept = None
        if num_kept is not None:
            kept = (num_kept > k).repeat_interleave(latents.shape[1])[:, None]  # [B * T, 1]
        losses.append((error if kept is None else error * kept).mean())
        if quantizer.training:
            follow(book, points, owner, random, dead_below)
        residual = residual - code
        total = total + (code if kept is None else code * kept)
    total = total.unflatten(0, latents.shape[:2])  # [B, T, D]
    return latents + (total - latents).detach(), torch.stack(losses).mean()


@torch.no_grad()
def follow(
    book: EuclideanCodebook,
    points: Tensor,
    owner: Tensor,
    random: torch.Generator,
    dead_below: float,
) -> None:
    """Move each code to the running mean of the points [N, D] that are its own (owner [N]).

    A code whose running share of the points is below `dead_below` of an even share becomes one of
    the points, with an even share to begin with. EnCodec replaces below 2 points a batch, which for
    its batches and 1,024 codes is 0.4 of an even share. cluster_size holds shares.
    """
    size = book.codebook_size
    shares = owner.bincount(minlength=size) / len(points)
    sums = torch.zeros_like(book.embed).index_add_(0, owner, points)
    book.cluster_size.lerp_(shares, 1 - book.decay)
    book.embed_avg.lerp_(sums / len(points), 1 - book.decay)
    dead = book.cluster_size < dead_below / size
    drawn = torch.randint(len(points), (size,), generator=random).to(points.device)
    book.embed_avg[dead] = points[drawn[dead]] / size
    book.cluster_size[dead] = 1 / size
    book.embed.copy_(book.embed_avg / book.cluster_size[:, None])


def means_of(points: Tensor, owner: Tensor, count: int) -> Tensor:
    """Mean of the points [N, D] of each owner [count, D], 0 where one has none."""
    sums = points.new_zeros(count, points.shape[1]).index_add_(0, owner, points)
    return sums / owner.bincount(minlength=count).clamp(min=1)[:, None]


def kmeans(points: Tensor, count: int, rounds: int) -> Tensor:
    """Centres [count, D] of points [N, D]. A centre that lost its points takes a random one.

    While centres still move, distances are of bfloat16 about the mean: CPUs made for it are
    several times faster, and what falls to the wrong one of two near centres moves neither.
    """
    middle = points.mean(0)
    points = points - middle
    random = torch.Generator().manual_seed(0)
    drawn = torch.randperm(len(points), generator=random)[:count]
    if len(drawn) < count:
        drawn = torch.randint(len(points), (count,), generator=random)
    centres = points[drawn.to(points.device)].clone()
    for _ in range(rounds):
        owner = nearest(points, centres, torch.bfloat16)
        used = owner.bincount(minlength=count) > 0
        spare = torch.randint(len(points), (count,), generator=random).to(points.device)
        centres = torch.where(used[:, None], means_of(points, owner, count), points[spare])
    return centres + middle


def distances(codebooks: Tensor, latents: Tensor, tokens: Tensor, seen: int = 0) -> Tensor:
    """What `Codec.distances` promises, of codebooks [K, V, D] that share the space of the latents:
    squared, as a share of the squared length of what is left, from number `seen` of D on."""
    residual = latents
    for codes, owner in zip(codebooks, tokens, strict=False):
        residual = residual - codes[owner]
    residual = residual[:, seen:]
    length = residual.square().sum(1, keepdim=True).clamp(min=torch.finfo(residual.dtype).tiny)
    exact = (residual[:, None] - codebooks[len(tokens), :, seen:]).square().sum(2)  # [N, V]
    return exact / length


def nearest(points: Tensor, centres: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """Index of the nearest centre of each point [N]."""
    half_norms = centres.square().sum(1) / 2
    chunks = points.split(8192)
    turned = centres.T.to(dtype)
    return torch.cat([(chunk.to(dtype) @ turned - half_norms).argmax(1) for chunk in chunks])
