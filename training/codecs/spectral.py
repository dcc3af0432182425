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

from training.codecs.bands import (
    FINE_BANDS,
    LEVEL_BANDS,
    fine_bands,
    level_bands,
    masked,
    smoothed,
)
from training.codecs.codebooks import distances, fit_codebooks
from training.codecs.networks import BandsOut, ConvNeXtBlock
from training.codecs.transform import Transform
from training.codecs.upper import POINTS
from vab_rt.config import ModelConfig
from vab_rt.errors import OptionError

MOVES = 1.0  # nepers from frame to frame
HEARD = 2.0  # nepers between the faintest band of a clip and the loudest of a frame
MAX_LOG_MAGNITUDE = 6.0
ENVELOPE_POINTS = 8  # per hop
GAINS, LEVEL_GAINS = (-2.0, 1.0), (-3.0, 2.0)  # in nepers, by which each may be mended
HISS = 0.7  # of the power of the floor, that every band has
ENVELOPE_WEIGHT = 2.0
LEVEL_WEIGHT = 4.0  # of a level beside a fine band when codes are chosen
CODE_DIM = FINE_BANDS + LEVEL_BANDS + ENVELOPE_POINTS
LEAST_FLOORS = {"floor": 5e-4, "energy_floor": 1.5e-4}
NUM_TURNS = 4093  # a prime, so that rows of the table do not line up


class SpectralSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Sizes of the codec that the tensor contract does not fix.

    least_codebooks: the decoder also learns to do with this many of the codebooks and no more, as a
    coarse model has them; 0: it always has all.
    encoder_width: of the network that learns the latents (`learned.py`); 0: nothing is learned but
    codebooks. frames_per_token: how many frames one code of learned latents says at once.
    floor: of STFT magnitudes, 20 times the RMS of noise that has it; energy_floor: of the RMS of an
    envelope's points. masked, masked_envelope: of the power of the loudest, what lies below is not
    heard. Recordings need far lower ones than FoleyWorld. upper: all this is of the lower half of
    the spectrum, and the decoder makes the upper one anew (`upper.py`).
    """

    n_fft: int = 960
    decoder_width: int = 256
    decoder_blocks: int = 4
    expansion: int = 3
    least_codebooks: int = 0
    encoder_width: int = 0
    encoder_blocks: int = 2
    frames_per_token: int = 1
    floor: float = 0.02
    energy_floor: float = 0.002
    masked: float = 1e-4
    masked_envelope: float = 3e-3
    upper: bool = False

    def __post_init__(self) -> None:
        for name, least in LEAST_FLOORS.items():
            if not getattr(self, name) >= least:
                raise OptionError(
                    f"{name} is {getattr(self, name)}, expected at least {least:g}: the exporter "
                    "takes smaller squares for nothing"
                )


class Spectrum(msgspec.Struct, frozen=True):
    """What the decoder says of each frame.

    log_magnitude, deviation (radians a frame, from the bin's own advance), offset (radians),
    coherence (1 tonal, 0 noise): [B, T, bins]. What the sound is brought to, logarithms like those
    of the latents: level [B, T, LEVEL_BANDS], envelope [B, T, ENVELOPE_POINTS]. upper
    [B, T, UPPER_DIM]: strengths of bands above, where there are any.
    """

    log_magnitude: Tensor
    deviation: Tensor
    offset: Tensor
    coherence: Tensor
    level: Tensor
    envelope: Tensor
    upper: Tensor | None = None


class SpectralCodec(nn.Module):
    """audio [B, S] in [-1, 1] <-> tokens [B, K, T], S = T * hop."""

    def __init__(self, config: ModelConfig, settings: SpectralSettings) -> None:
        super().__init__()
        s = self.settings = settings
        self.hop, self.bins = frame_hop(config, s), s.n_fft // 2 + 1
        self.least_codebooks = s.least_codebooks or config.num_codebooks
        if not 1 <= self.least_codebooks <= config.num_codebooks:
            raise OptionError(
                f"least_codebooks is {s.least_codebooks}, expected 0 (all) to "
                f"{config.num_codebooks}, the codec's"
            )
        self.transform = Transform(s.n_fft, self.hop)
        self._make_networks(config)
        fine, level = fine_bands(self.bins), level_bands(self.bins)
        self.register_buffer("fine", fine / fine.sum(0), persistent=False)  # [bins, FINE_BANDS]
        self.register_buffer("spread", (fine / fine.sum(1, True)).T, persistent=False)
        self.register_buffer("level", level / level.sum(0), persistent=False)
        self.register_buffer("member", level.T, persistent=False)  # [LEVEL_BANDS, bins]
        parts = ((FINE_BANDS, 1.0), (LEVEL_BANDS, LEVEL_WEIGHT), (ENVELOPE_POINTS, ENVELOPE_WEIGHT))
        weight = torch.cat([torch.full((n,), w) for n, w in parts])
        self.register_buffer("weight", weight, persistent=False)  # [code_dim]
        turns = torch.rand(NUM_TURNS, generator=torch.Generator().manual_seed(0))
        self.register_buffer("turns", (2 * turns - 1) * math.pi, persistent=False)

    def _make_networks(self, config: ModelConfig) -> None:
        s = self.settings
        if config.code_dim != CODE_DIM:
            raise OptionError(
                f"code_dim is {config.code_dim}, expected {CODE_DIM} for the spectral codec"
            )
        self.quantizer = ResidualVectorQuantizer(
            dimension=CODE_DIM, n_q=config.num_codebooks, bins=config.codebook_size
        )
        self.decoder = nn.Sequential(
            nn.Linear(CODE_DIM, s.decoder_width),
            *[ConvNeXtBlock(s.decoder_width, s.expansion) for _ in range(s.decoder_blocks)],
            nn.LayerNorm(s.decoder_width),
            BandsOut(s.decoder_width, self.bins),
        )

    @property
    def seen(self) -> list[int]:
        """From which number of the latents on each codebook looks: the first at levels and envelope
        alone, so that it says when and how loud, and the others of what."""
        return [FINE_BANDS] + [0] * (len(self.quantizer.vq.layers) - 1)

    @property
    def codebooks(self) -> Tensor:
        """[K, V, code_dim]"""
        return torch.stack([layer.codebook for layer in self.quantizer.vq.layers])

    def latents(self, audio: Tensor) -> Tensor:
        """What is quantised [B, T, code_dim]."""
        return self.points(audio)

    def points(self, audio: Tensor) -> Tensor:
        """[B, T, CODE_DIM]: logarithms of fine bands, of levels and of the envelope, each times its
        weight."""
        s = self.settings
        real, imaginary = self.transform.analyse(audio)  # [B, T, bins]
        power = real.square() + imaginary.square()
        fine = masked(power @ self.fine, s.floor, s.masked)
        level = masked(power @ self.level, s.floor, s.masked)
        energy = self._masked_energy(audio)
        return torch.cat([fine, level, energy], -1).log() / 2 * self.weight

    def _masked_energy(self, audio: Tensor) -> Tensor:  # [B, S] -> [B, T, ENVELOPE_POINTS]
        return masked(
            self._energy(audio), self.settings.energy_floor, self.settings.masked_envelope
        )

    def _energy(self, audio: Tensor) -> Tensor:
        """Mean square around each point of the envelope [B, T, ENVELOPE_POINTS]."""
        parts = audio.unflatten(1, (-1, self.hop // ENVELOPE_POINTS)).square().mean(2)
        return smoothed(parts).unflatten(1, (-1, ENVELOPE_POINTS))

    def spectrum(self, latents: Tensor) -> Spectrum:
        logs = latents / self.weight
        return self._spectrum(logs, self.decoder(logs))

    def _spectrum(self, logs: Tensor, of_bins: Tensor) -> Spectrum:
        correction, deviation, offset, coherence = of_bins.unbind(2)  # [B, T, bins] each
        fine, level, envelope = logs.split([FINE_BANDS, LEVEL_BANDS, ENVELOPE_POINTS], -1)
        log_magnitude = (fine @ self.spread + correction).clamp(max=MAX_LOG_MAGNITUDE)
        k = torch.arange(self.bins, device=logs.device)
        return Spectrum(
            log_magnitude=log_magnitude,
            deviation=deviation,
            offset=offset + math.pi * (k % 2),  # zero is a pulse in the middle of the frame
            coherence=coherence.sigmoid(),
            level=level,
            envelope=envelope,
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
        audio = audio * self._gain(self._lacking(audio, s.envelope).clamp(*GAINS))
        audio = self._with_level(audio, s.level)
        return audio * self._gain(self._lacking_hops(audio, s.envelope))

    def _lacking(self, audio: Tensor, envelope: Tensor) -> Tensor:
        """Nepers that audio [B, S] lacks to have an envelope [B, T, ENVELOPE_POINTS]."""
        return envelope - self._masked_energy(audio).log() / 2

    def _lacking_hops(self, audio: Tensor, envelope: Tensor) -> Tensor:
        """Half of what hops lack to have the energy of an envelope, as levels and envelope disagree
        where blows are short; from hop to hop by lines [B, T, ENVELOPE_POINTS], as gains that
        follow each point would spread low tones over all bands."""
        found = self._energy(audio).mean(2, keepdim=True) + self.settings.energy_floor**2
        target = (2 * envelope).exp().mean(2, keepdim=True)
        gain = ((target / found).log() / 4).clamp(*GAINS)  # [B, T, 1]
        before = torch.cat([gain[:, :1], gain[:, :-1]], 1)
        after = torch.cat([gain[:, 1:], gain[:, -1:]], 1)
        points = torch.arange(ENVELOPE_POINTS, device=audio.device)
        place = (points + 0.5) / ENVELOPE_POINTS - 0.5  # of each point, from the middle of its hop
        return gain + (before - gain) * (-place).relu() + (after - gain) * place.relu()

    def _with_level(self, audio: Tensor, level: Tensor) -> Tensor:
        """Audio [B, S] with a level [B, T, LEVEL_BANDS]: where phases of bins and frames do not
        agree, as tokens cannot say them, what is rendered is fainter than its spectrum."""
        floor = self.settings.floor
        real, imaginary = self.transform.analyse(audio)  # [B, T, bins]
        found = (real.square() + imaginary.square()) @ self.level
        target = (2 * level).exp()
        masked = self.settings.masked * target.amax(2, keepdim=True)
        unheard = floor**2 + 3 * masked  # codes err: 3, not 1
        target = (target - unheard).clamp(min=HISS * floor**2)
        ratio = (target + floor**2 / 16) / (found + floor**2 / 16)
        gain = (ratio.log() / 2).clamp(*LEVEL_GAINS).exp() @ self.member
        return self.transform.synthesise(real * gain, imaginary * gain)

    def _gain(self, log_gain: Tensor) -> Tensor:  # [B, T, ENVELOPE_POINTS] -> [B, S], by lines
        points = log_gain.exp().flatten(1)[..., None]  # [B, T * ENVELOPE_POINTS, 1]
        following = torch.cat([points[:, 1:], points[:, -1:]], 1)
        length = self.hop // ENVELOPE_POINTS
        ramp = torch.arange(length, device=points.device) / length
        return (points + (following - points) * ramp).flatten(1)

    def encode(self, audio: Tensor) -> Tensor:
        residual, tokens = self.latents(audio), []
        for seen, codes in zip(self.seen, self.codebooks, strict=True):
            centres = codes[:, seen:]
            scores = residual[..., seen:] @ centres.T - centres.square().sum(1) / 2
            tokens.append(scores.argmax(-1))  # [B, T]
            residual = residual - F.embedding(tokens[-1], codes)
        return torch.stack(tokens, 1).to(torch.int32)

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
            of_bins = self.decoder(quantised / self.weight)
        return self._spectrum(quantised / self.weight, of_bins.float())

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
        log_magnitude = (power + self.settings.floor**2).log() / 2
        magnitude = F.mse_loss(spectrum.log_magnitude, log_magnitude)  # peaks are few: no median
        phase = torch.atan2(imaginary, real)
        advance = self.centre_phase(1) + spectrum.deviation[:, 1:]
        error = advance - (phase[:, 1:] - phase[:, :-1])
        weight = (power[:, 1:] + self.settings.floor**2) ** 0.25
        frequency = ((1 - error.cos()) * weight).sum() / weight.sum()
        return {"magnitude": magnitude, "frequency": frequency}

    def distances(self, latents: Tensor, tokens: Tensor) -> Tensor:
        return distances(self.codebooks, latents, tokens, self.seen[len(tokens)])

    def fit(self, latents: Tensor) -> Iterator[None]:
        return fit_codebooks(self.quantizer, latents, seen=self.seen)

    def fit_shares(self, latents: Tensor) -> Tensor:
        """A choice of one clip's latents [T, code_dim]: all frames in which levels move, as blows
        are rare and what goes on is not; a few of the rest, fewer of silence."""
        logs = (latents / self.weight)[:, FINE_BANDS:]
        level = logs[:, :LEVEL_BANDS].amax(1)
        heard = level > logs[:, :LEVEL_BANDS].amin() + HEARD
        moves = (logs[1:] - logs[:-1]).abs().amax(1) > MOVES
        moves = F.pad(moves, (1, 0)) | F.pad(moves, (0, 1))
        return torch.where(heard & moves, 1.0, torch.where(heard, 0.15, 0.05))


def frame_hop(config: ModelConfig, settings: SpectralSettings) -> int:
    """Samples from frame to frame of what is coded. Raises OptionError."""
    frames = settings.frames_per_token
    parts = frames * (2 * POINTS if settings.upper else 1)
    if frames < 1 or config.hop_samples % parts or (parts > 1 and not settings.encoder_width):
        raise OptionError(
            f"frames_per_token is {frames} and upper {str(settings.upper).lower()}, expected 1 and "
            f"false, or with an encoder_width a number that, {2 * POINTS} times where upper is "
            f"true, divides hop_samples, {config.hop_samples}"
        )
    return config.hop_samples // (2 * frames if settings.upper else frames)
