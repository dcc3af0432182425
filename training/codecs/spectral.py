"""The spectral codec: log spectra quantised by residual k-means, rendered by a ConvNeXt stack.

Encoder: log-magnitude bands and fine envelope of each frame, nothing learned but the codebooks.
Decoder: ConvNeXt blocks -> magnitude, frequency, coherence and envelope -> phase by accumulation
-> inverse STFT. Tokens at 50 Hz cannot carry phase, and a network that treats all times alike
cannot invent one that runs on, so each bin sums up its own frequency, as a phase vocoder does,
and noise turns the phase where the sound is not tonal. Everything runs at the token rate: it
trains on a CPU in minutes and decodes ten seconds in milliseconds.
"""

import math
from collections.abc import Iterator

import msgspec
import torch
from encodec.quantization import ResidualVectorQuantizer
from torch import Tensor, nn
from torch.nn import functional as F

from training.codecs.codebooks import distances, fit_codebooks
from training.codecs.transform import Transform
from vab_rt.config import ModelConfig
from vab_rt.errors import OptionError

FLOOR = 0.05  # of STFT magnitudes: below it lies the noise of any recording, not worth a token
ENERGY_FLOOR = 0.003
HEARD = 2.0  # nepers between the faintest band of a clip and the loudest of a frame
MAX_LOG_MAGNITUDE = 6.0
ENVELOPE_POINTS = 8  # per hop
MAX_LOG_GAIN = 3.0
POOL = 6  # bins of the upper half that share a band
BAND_BINS, BAND_CHANNELS = 12, 48
NUM_TURNS = 4093  # a prime, so that rows of the table do not line up


class SpectralSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Sizes of the codec that the tensor contract does not fix.

    least_codebooks: the decoder also learns to do with this many of the codebooks and no more, as a
    coarse model has them; 0: it always has all.
    """

    n_fft: int = 960
    decoder_width: int = 256
    decoder_blocks: int = 4
    expansion: int = 3
    least_codebooks: int = 0


class Spectrum(msgspec.Struct, frozen=True):
    """What the decoder says of each frame.

    log_magnitude, deviation (radians a frame, from the bin's own advance), offset (radians),
    coherence (1 tonal, 0 noise): [B, T, bins]; log_gain [B, T, ENVELOPE_POINTS].
    """

    log_magnitude: Tensor
    deviation: Tensor
    offset: Tensor
    coherence: Tensor
    log_gain: Tensor


class SpectralCodec(nn.Module):
    """audio [B, S] in [-1, 1] <-> tokens [B, K, T], S = T * hop."""

    def __init__(self, config: ModelConfig, settings: SpectralSettings) -> None:
        super().__init__()
        s = settings
        self.hop, self.bins = config.hop_samples, s.n_fft // 2 + 1
        self.least_codebooks = s.least_codebooks or config.num_codebooks
        if not 1 <= self.least_codebooks <= config.num_codebooks:
            raise OptionError(
                f"least_codebooks is {s.least_codebooks}, expected 0 (all) to "
                f"{config.num_codebooks}, the codec's"
            )
        self.low = self.bins // 2  # bins that are a band each
        code_dim = self.low + self.low // POOL + ENVELOPE_POINTS
        if config.code_dim != code_dim:
            raise OptionError(
                f"code_dim is {config.code_dim}, expected {code_dim} for n_fft {s.n_fft}"
            )
        self.transform = Transform(s.n_fft, config.hop_samples)
        self.quantizer = ResidualVectorQuantizer(
            dimension=code_dim, n_q=config.num_codebooks, bins=config.codebook_size
        )
        self.decoder = nn.Sequential(
            nn.Linear(code_dim, s.decoder_width),
            *[ConvNeXtBlock(s.decoder_width, s.expansion) for _ in range(s.decoder_blocks)],
            nn.LayerNorm(s.decoder_width),
            BandsOut(s.decoder_width, self.bins),
        )
        turns = torch.rand(NUM_TURNS, generator=torch.Generator().manual_seed(0))
        self.register_buffer("turns", (2 * turns - 1) * math.pi, persistent=False)

    @property
    def codebooks(self) -> Tensor:
        """[K, V, code_dim]"""
        return torch.stack([layer.codebook for layer in self.quantizer.vq.layers])

    def latents(self, audio: Tensor) -> Tensor:
        """What is quantised: log-magnitude bands, then the envelope [B, T, code_dim]."""
        real, imaginary = self.transform.analyse(audio)  # [B, T, bins]
        power = real.square() + imaginary.square()
        pooled = power[..., self.low : -1].unflatten(2, (-1, POOL)).mean(3)
        bands = torch.cat([power[..., : self.low], pooled], -1)
        envelope = audio.unflatten(1, (-1, ENVELOPE_POINTS, self.hop // ENVELOPE_POINTS))
        energy = envelope.square().mean(3)  # [B, T, ENVELOPE_POINTS]
        return torch.cat([(bands + FLOOR**2).log(), (energy + ENERGY_FLOOR**2).log()], -1) / 2

    def spectrum(self, latents: Tensor) -> Spectrum:
        return self._spectrum(latents, *self.decoder(latents))

    def _spectrum(self, latents: Tensor, of_bins: Tensor, log_gain: Tensor) -> Spectrum:
        correction, deviation, offset, coherence = of_bins.unbind(2)  # [B, T, bins] each
        low, pooled, _ = latents.split([self.low, self.low // POOL, ENVELOPE_POINTS], -1)
        upper = pooled[..., None].expand(-1, -1, -1, POOL).flatten(2)
        log_magnitude = torch.cat([low, upper, upper[..., -1:]], -1) + correction
        k = torch.arange(self.bins, device=latents.device)
        return Spectrum(
            log_magnitude=log_magnitude.clamp(max=MAX_LOG_MAGNITUDE),
            deviation=deviation,
            offset=offset + math.pi * (k % 2),  # zero is a pulse in the middle of the frame
            coherence=coherence.sigmoid(),
            log_gain=MAX_LOG_GAIN * (log_gain / MAX_LOG_GAIN).tanh(),
        )

    def centre_phase(self, num_frames: int) -> Tensor:
        """The phase that each bin's own frequency has reached [num_frames, bins]; in integers, as
        sums of radians lose digits."""
        t = torch.arange(1, num_frames + 1, device=self.turns.device)[:, None]
        k = torch.arange(self.bins, device=self.turns.device)
        n_fft = self.transform.n_fft
        return (t * k * self.hop % n_fft) * (2 * math.pi / n_fft)

    def render(self, spectrum: Spectrum) -> Tensor:
        """[B, S]"""
        s = spectrum
        num_frames = s.deviation.shape[1]
        t = torch.arange(num_frames, device=s.deviation.device)[:, None]
        k = torch.arange(self.bins, device=s.deviation.device)
        noise = self.turns[(t * 769 + k) % NUM_TURNS]  # [T, bins]
        phase = self.centre_phase(num_frames) + s.deviation.cumsum(1) + s.offset
        phase = phase + (1 - s.coherence) * noise
        magnitude = s.log_magnitude.exp()
        audio = self.transform.synthesise(magnitude * phase.cos(), magnitude * phase.sin())
        return audio * self._gain(s.log_gain)

    def _gain(self, log_gain: Tensor) -> Tensor:  # [B, T, ENVELOPE_POINTS] -> [B, S], by lines
        points = log_gain.exp().flatten(1)[..., None]  # [B, T * ENVELOPE_POINTS, 1]
        following = torch.cat([points[:, 1:], points[:, -1:]], 1)
        length = self.hop // ENVELOPE_POINTS
        ramp = torch.arange(length, device=points.device) / length
        return (points + (following - points) * ramp).flatten(1)

    def encode(self, audio: Tensor) -> Tensor:
        latents = self.latents(audio).transpose(1, 2)  # [B, code_dim, T]
        codes = self.quantizer.vq.encode(latents)  # [K, B, T]
        return codes.transpose(0, 1).to(torch.int32)

    def decode(self, tokens: Tensor) -> Tensor:
        """Also of fewer than K codebooks."""
        return self.render(self.spectrum(self.dequantise(tokens)))

    def dequantise(self, tokens: Tensor, num_kept: Tensor | None = None) -> Tensor:
        """Latents [B, T, code_dim] of tokens [B, K, T], or of the first num_kept [B] codebooks."""
        codes = [
            F.embedding(tokens[:, k], layer.codebook)
            for k, layer in enumerate(self.quantizer.vq.layers[: tokens.shape[1]])
        ]
        if num_kept is not None:
            codes = [(num_kept > k)[:, None, None] * each for k, each in enumerate(codes)]
        return sum(codes)

    def _num_kept(self, count: int, random: torch.Generator | None) -> Tensor | None:
        """Codebooks of each clip [B]: of every other one all (as in arXiv:2306.06546, quantizer
        dropout), of the rest any number from the least; None where that is all anyway."""
        num_all = len(self.quantizer.vq.layers)
        if random is None or self.least_codebooks == num_all:
            return None
        drawn = torch.randint(self.least_codebooks, num_all + 1, (count,), generator=random)
        whole = torch.rand(count, generator=random) < 0.5
        return torch.where(whole, num_all, drawn).to(self.turns.device)

    def forward(
        self, audio: Tensor, bfloat16: bool = False, random: torch.Generator | None = None
    ) -> Spectrum:
        """Training pass: the spectrum of the quantised audio, to render and to compare.

        random: of how many codebooks each clip has; None: all.
        """
        with torch.no_grad():
            tokens = self.encode(audio)
            quantised = self.dequantise(tokens, self._num_kept(len(audio), random))
        with torch.autocast(audio.device.type, torch.bfloat16, bfloat16):
            of_bins, log_gain = self.decoder(quantised)
        return self._spectrum(quantised, of_bins.float(), log_gain.float())

    def reconstruct(
        self, audio: Tensor, random: torch.Generator, dead_below: float, bfloat16: bool
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Training pass: what becomes of audio [B, S], and the losses of the spectrum behind it.

        No codebook moves: with no encoder to learn k-means has said it all, and tokens made before
        stay true. What is drawn is how many codebooks a clip has, where there is a choice.
        """
        spectrum = self(audio, bfloat16, random)
        return self.render(spectrum), self.spectrum_losses(spectrum, audio)

    def spectrum_losses(self, spectrum: Spectrum, target: Tensor) -> dict[str, Tensor]:
        """Magnitude and frequency against the codec's own transform of the target [B, S].

        Frequency: how far each bin's advance is from the true one, weighted by what is heard of it.
        """
        real, imaginary = self.transform.analyse(target)  # [B, T, bins]
        power = real.square() + imaginary.square()
        log_magnitude = (power + FLOOR**2).log() / 2
        magnitude = F.mse_loss(spectrum.log_magnitude, log_magnitude)  # peaks are few: no median
        phase = torch.atan2(imaginary, real)
        advance = self.centre_phase(1) + spectrum.deviation[:, 1:]
        error = advance - (phase[:, 1:] - phase[:, :-1])
        weight = (power[:, 1:] + FLOOR**2) ** 0.25
        frequency = ((1 - error.cos()) * weight).sum() / weight.sum()
        return {"magnitude": magnitude, "frequency": frequency}

    def distances(self, latents: Tensor, tokens: Tensor) -> Tensor:
        return distances(self.codebooks, latents, tokens)

    def fit(self, latents: Tensor) -> Iterator[None]:
        return fit_codebooks(self.quantizer, latents)

    def heard(self, latents: Tensor) -> Tensor:
        """Frames that hold more than silence [T], of one clip's latents [T, code_dim]."""
        return latents.amax(1) > latents.amin() + HEARD


class BandsOut(nn.Module):
    """[B, T, width] -> four values a bin [B, T, 4, bins], envelope [B, T, ENVELOPE_POINTS]."""

    def __init__(self, width: int, bins: int) -> None:
        super().__init__()
        self.num_bands = bins // BAND_BINS
        self.bands = nn.Linear(width, BAND_CHANNELS * self.num_bands)
        self.over_frequency = nn.Sequential(
            nn.GELU(),
            nn.ConvTranspose1d(BAND_CHANNELS, 32, 7, stride=3, padding=2),
            nn.GELU(),
            nn.ConvTranspose1d(32, 24, 6, stride=2, padding=2),
            nn.GELU(),
            nn.ConvTranspose1d(24, 16, 6, stride=2, padding=2),
            nn.GELU(),
            nn.Conv1d(16, 4, 5, padding=2),
        )
        self.envelope = nn.Linear(width, ENVELOPE_POINTS)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        bands = self.bands(x).flatten(0, 1).unflatten(1, (BAND_CHANNELS, self.num_bands))
        of_bins = self.over_frequency(bands)  # [B * T, 4, bins - 1]
        of_bins = torch.cat([of_bins, of_bins[..., -1:]], -1).unflatten(0, x.shape[:2])
        return of_bins, self.envelope(x)


class ConvNeXtBlock(nn.Module):
    """Depthwise convolution over time, then a pointwise feed-forward (arXiv:2201.03545)."""

    def __init__(self, width: int, expansion: int) -> None:
        super().__init__()
        self.depthwise = nn.Conv1d(width, width, 7, padding=3, groups=width)
        self.norm = nn.LayerNorm(width)
        self.expand = nn.Linear(width, expansion * width)
        self.contract = nn.Linear(expansion * width, width)
        self.scale = nn.Parameter(torch.full((width,), 0.1))

    def forward(self, x: Tensor) -> Tensor:  # [B, T, width]
        y = self.depthwise(x.transpose(1, 2)).transpose(1, 2)
        return x + self.scale * self.contract(F.gelu(self.expand(self.norm(y))))
