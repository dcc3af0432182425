"""The whole transformer of VAB (paper section 3.2 and table 7)."""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vab_rt.config import ModelConfig

FEED_FORWARD_FACTOR = 4


class VAB(nn.Module):
    """Masked audio tokens and visual features -> logits for every token.

    The stream is [visual, audio]: F / image_stride visual positions, then T token positions. The
    first `expert_layers` layers have a feed-forward per modality, the others share one; attention
    is always shared and bidirectional.
    """

    def __init__(self, config: ModelConfig, dropout: float = 0.0) -> None:
        super().__init__()
        c = self.config = config
        self.register_buffer("codebooks", torch.zeros(c.num_codebooks, c.codebook_size, c.code_dim))
        self.mask_codes = nn.Parameter(torch.randn(c.num_codebooks, 1, c.code_dim) * 0.02)
        self.audio_in = nn.Linear(c.num_codebooks * c.code_dim, c.width)  # a part for each level
        self.visual_in = nn.Linear(c.visual_dim, c.width)
        self.visual_beside = AlignedFrames(c) if c.aligned_visual else None
        self.guidance_in = GuidanceScale(c) if c.max_guidance else None
        self.modality = nn.Parameter(torch.randn(2, c.width) * 0.02)
        self.layers = nn.ModuleList(
            Layer(c.width, c.heads, expert=i < c.expert_layers, dropout=dropout)
            for i in range(c.layers)
        )
        self.norm = nn.LayerNorm(c.width)
        self.num_predicted = c.num_codebooks - c.given_codebooks
        self.heads = nn.Linear(c.width, self.num_predicted * c.codebook_size)
        self.register_buffer("bias", attention_bias(c), persistent=False)
        self.register_buffer("positions", sinusoids(c), persistent=False)
        self._initialise()

    def _initialise(self) -> None:
        """Unit variance in, and residual branches that add up to about as much."""
        initialise_linears(self)
        for layer in self.layers:
            for branch in filter(None, (layer.audio, layer.visual)):
                branch.contract.weight.data *= (2 * len(self.layers)) ** -0.5
            layer.out.weight.data *= (2 * len(self.layers)) ** -0.5
        if self.guidance_in is not None:
            nn.init.zeros_(self.guidance_in.contract.weight)

    @torch.no_grad()
    def use_codebooks(self, codebooks: Tensor) -> None:
        """Take over the codec's codebooks [K, V, code_dim], scaled in to unit variance."""
        self.codebooks.copy_(codebooks)
        per_codebook = codebooks.std((1, 2), keepdim=True)  # [K, 1, 1]
        self.mask_codes.copy_(torch.randn_like(self.mask_codes) * per_codebook)
        self.audio_in.weight /= per_codebook.square().mean().sqrt()

    def forward(
        self, tokens: Tensor, features: Tensor, conditional: Tensor, first_frame: int = 0
    ) -> Tensor:
        """tokens [B, K, T] (V is [MASK]), features [B, F, visual_dim], conditional [B] of 0 or 1
        -> logits [B, K - given_codebooks, T, V].

        Where conditional is 0 the visual embedding is zeroed (VATT); of a model with max_guidance
        it may be more than 1, the scale that logits are guided by. F and T may be those of a part
        of the clip that begins at `first_frame`.
        """
        x = self._through(tokens, features, conditional, len(self.layers), first_frame)
        logits = self.heads(self.norm(x[:, -tokens.shape[2] :]))  # [B, T, K * V]
        return logits.unflatten(2, (self.num_predicted, -1)).transpose(1, 2)

    def encode(
        self, tokens: Tensor | None, features: Tensor | None, depth: int, first_frame: int = 0
    ) -> Tensor:
        """The stream after the first `depth` layers [B, F + T, D]; for retrieval and classes.

        A modality that is None is absent, and so are its positions. F and T may be those of a part
        of the clip that begins at `first_frame`.
        """
        conditional = None if features is None else features.new_ones(len(features))
        return self._through(tokens, features, conditional, depth, first_frame)

    def _through(
        self,
        tokens: Tensor | None,
        features: Tensor | None,
        conditional: Tensor | None,
        depth: int,
        first_frame: int = 0,
    ) -> Tensor:
        x = self.embed(tokens, features, conditional)
        num_visual = 0 if features is None else features.shape[1] // self.config.image_stride
        rows = self._rows(num_visual, x.shape[1] - num_visual, first_frame)
        if self.config.sinusoids:
            x = x + self.positions[rows]
        bias = self.bias[:, :, rows][..., rows]
        for layer in self.layers[:depth]:
            x = layer(x, bias, num_visual)
        return x

    def embed(
        self, tokens: Tensor | None, features: Tensor | None, conditional: Tensor | None
    ) -> Tensor:
        """The present modalities' embeddings, without positions [B, F + T, D]."""
        parts = []
        if features is not None:
            seen = conditional[:, None, None]
            if self.guidance_in is not None:
                seen = seen.clamp(max=1)
            positions = features.unflatten(1, (-1, self.config.image_stride)).mean(2)
            parts.append(self.visual_in(positions) * seen + self.modality[0])
        if tokens is not None:
            codes = self.projected_codes()
            summed = sum(F.embedding(tokens[:, k], codes[k]) for k in range(tokens.shape[1]))
            audio = summed + self.audio_in.bias + self.modality[1]  # [B, T, D]
            if features is not None and self.visual_beside is not None:
                audio = audio + self.visual_beside(features, tokens.shape[2]) * seen
            parts.append(audio)
        x = torch.cat(parts, 1)
        if self.guidance_in is None or conditional is None:
            return x
        return x + self.guidance_in(conditional)

    def projected_codes(self) -> Tensor:
        """Every code by its own level's projection [K, V + 1, D]; runtimes fold it at load.

        One projection of the sum would leave the levels of DAC, of 8 numbers each, mixed up.
        """
        codes = torch.cat([self.codebooks, self.mask_codes], 1)  # [K, V + 1, code_dim]
        levels = self.audio_in.weight.unflatten(1, (len(codes), -1))  # [D, K, code_dim]
        return codes @ levels.permute(1, 2, 0)

    def _rows(self, num_visual: int, num_audio: int, first_frame: int) -> slice | Tensor:
        """Which positions of the whole clip's stream these are."""
        c = self.config
        if (num_visual, num_audio) == (c.num_visual, c.num_token_steps):
            return slice(None)
        first_step = round(first_frame * c.hop_rate_hz / c.visual_rate_hz)
        first, device = first_frame // c.image_stride, self.bias.device
        visual = torch.arange(first, first + num_visual, device=device)
        audio = torch.arange(first_step, first_step + num_audio, device=device) + c.num_visual
        return torch.cat([visual, audio])


def initialise_linears(model: nn.Module) -> None:
    """Gives a transformer with `heads` and `visual_in` weights that keep unit variance."""
    for module in model.modules():
        if isinstance(module, nn.Linear):
            nn.init.trunc_normal_(module.weight, std=module.in_features**-0.5)
    nn.init.trunc_normal_(model.heads.weight, std=0.02)
    nn.init.trunc_normal_(model.visual_in.weight, std=1.0)  # features have unit length


class AlignedFrames(nn.Module):
    """Each token step's own frame and its neighbours, projected to D: what is seen as it sounds."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.steps_per_frame = config.hop_rate_hz / config.visual_rate_hz
        self.mix = nn.Conv1d(config.visual_dim, config.width, 3, padding=1, bias=False)
        nn.init.trunc_normal_(self.mix.weight, std=0.7)  # features have unit length

    def forward(self, features: Tensor, num_steps: int) -> Tensor:  # [B, F, C] -> [B, T, D]
        frames = self.mix(features.transpose(1, 2)).transpose(1, 2)  # [B, F, D]
        times = (torch.arange(num_steps, device=features.device) + 0.5) / self.steps_per_frame
        return frames[:, times.long().clamp(max=features.shape[1] - 1)]


class GuidanceScale(nn.Module):
    """How far a guidance scale is above 1, as an embedding that is 0 there; it begins as 0."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.above = config.max_guidance - 1
        self.expand = nn.Linear(1, config.width)
        self.contract = nn.Linear(config.width, config.width, bias=False)

    def forward(self, scale: Tensor) -> Tensor:  # [B] -> [B, 1, D]
        above = (scale[:, None, None] - 1).clamp(min=0) / self.above
        return above * self.contract(F.gelu(self.expand(above)))


class Layer(nn.Module):
    """Pre-norm attention shared by both modalities, then a feed-forward, per modality or shared."""

    def __init__(self, width: int, heads: int, expert: bool, dropout: float) -> None:
        super().__init__()
        self.num_heads, self.dropout = heads, dropout
        self.norm = nn.LayerNorm(width, bias=False)
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.out = nn.Linear(width, width, bias=False)
        self.audio = FeedForward(width, dropout)
        self.visual = FeedForward(width, dropout) if expert else None

    def forward(self, x: Tensor, bias: Tensor, num_visual: int) -> Tensor:  # [B, F + T, D]
        x = x + F.dropout(self.attention(self.norm(x), bias), self.dropout, self.training)
        if self.visual is None:
            return x + self.audio(x)
        visual, audio = x[:, :num_visual], x[:, num_visual:]
        return torch.cat([visual + self.visual(visual), audio + self.audio(audio)], 1)

    def attention(self, x: Tensor, bias: Tensor) -> Tensor:
        q, k, v = (
            y.unflatten(2, (self.num_heads, -1)).transpose(1, 2)  # [B, H, F + T, D / H]
            for y in self.qkv(x).chunk(3, -1)
        )
        mixed = attend(q, k, v, bias, spelled_out=self.training and x.device.type == "cpu")
        return self.out(mixed.transpose(1, 2).flatten(2))


def attend(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, spelled_out: bool) -> Tensor:
    """Attention [B, H, P, D / H]. spelled_out: from its parts, whose backward pass torch 2.14
    computes 4 times faster on CPUs than that of its fused one."""
    if not spelled_out:
        return F.scaled_dot_product_attention(q, k, v, attn_mask=bias)
    scores = q @ (k * k.shape[-1] ** -0.5).transpose(-1, -2) + bias.to(q.dtype)
    return scores.softmax(-1).to(v.dtype) @ v


class FeedForward(nn.Module):
    """Norm, expand, GELU, contract; no biases."""

    def __init__(self, width: int, dropout: float) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width, bias=False)
        self.expand = nn.Linear(width, FEED_FORWARD_FACTOR * width, bias=False)
        self.contract = nn.Linear(FEED_FORWARD_FACTOR * width, width, bias=False)
        self.dropout = dropout

    def forward(self, x: Tensor) -> Tensor:
        y = self.contract(F.gelu(self.expand(self.norm(x))))
        return F.dropout(y, self.dropout, self.training)


def stream_times(config: ModelConfig) -> Tensor:
    """Where each position of the stream lies, in token steps [P], P = F / image_stride + T.

    On "index" these are 0, 1, 2, ... over the concatenation, as ALiBi is published. On "time"
    both streams lie on the clock, so that a frame is near the tokens that sound with it.
    """
    c = config
    if c.alibi == "index":
        return torch.arange(c.num_visual + c.num_token_steps, dtype=torch.float32)
    visual_s = (torch.arange(c.num_visual) + 0.5) * c.image_stride / c.visual_rate_hz
    audio_s = (torch.arange(c.num_token_steps) + 0.5) / c.hop_rate_hz
    return torch.cat([visual_s, audio_s]) * c.hop_rate_hz


def attention_bias(config: ModelConfig) -> Tensor:
    """ALiBi, both directions (arXiv:2108.12409): -slope * distance [1, H, F + T, P], -50 at least.

    What lies farther away has e^-50 of the weight either way; but numbers below 1e-38, which
    processors treat one by one, would make attention take 3 times as long.
    """
    times = stream_times(config)
    distance = (times[:, None] - times[None]).abs()
    slopes = 2.0 ** (-8.0 / config.heads * torch.arange(1, config.heads + 1))
    return (-slopes[:, None, None] * distance).clamp(min=-50.0)[None]


def sinusoids(config: ModelConfig) -> Tensor:
    """1-D sinusoidal positions [F + T, D]; a symmetric bias cannot tell left from right."""
    half = config.width // 2
    rates = torch.exp(-math.log(10_000.0) * torch.arange(half) / half)
    angles = stream_times(config)[:, None] * rates
    return torch.cat([angles.sin(), angles.cos()], 1)
