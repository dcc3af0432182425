"""The upper half of a sound's spectrum, made anew from what a codec knows of the lower one.

Tokens say nothing above half of what the sound has. There the decoder says how strong a few bands
are, every 5 ms, and noise gets those strengths, as spectral band replication does (ISO/IEC 14496-3,
section 4.6.18, whose bands are copied from below instead). So a codec for 16 kHz gives sound of 32.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from training.codecs.bands import smoothed

UPPER_BANDS, POINTS = 6, 4  # of a frame's strengths, one after the other
UPPER_DIM = UPPER_BANDS * POINTS
FLOOR = 3e-5  # RMS of a band, of which nothing is heard
HEARD = 4.0  # of its power, which something in a band has that is not empty
TAPS = 125  # of the filter between the rates
CUT = 0.98  # of the lower half, where the filter takes 6 dB
ROWS = (199, 211, 223, 227, 229, 233)  # of noise, a point each: bands do not repeat at once


class Upper(nn.Module):
    """Strengths of the upper bands: what a decoder says of frames [B, T, width] -> logarithms of
    RMS [B, T, UPPER_DIM]. hop: samples of a frame, at the full rate."""

    def __init__(self, width: int, hop: int) -> None:
        super().__init__()
        assert hop % (2 * POINTS) == 0, hop
        self.hop = hop
        self.hidden, self.out = nn.Linear(width, 192), nn.Linear(192, UPPER_DIM)
        nn.init.zeros_(self.out.weight)
        nn.init.constant_(self.out.bias, math.log(30 * FLOOR))
        self.register_buffer("filter", low_pass(), persistent=False)  # [TAPS]
        for i, noise in enumerate(noises(hop // POINTS)):
            self.register_buffer(f"noise_{i}", noise, persistent=False)

    def forward(self, frames: Tensor) -> Tensor:
        return self.out(F.gelu(self.hidden(frames)))

    def halved(self, audio: Tensor) -> Tensor:  # [B, S] -> [B, S / 2]
        padded = F.pad(audio[:, None], (TAPS // 2, TAPS // 2))
        return F.conv1d(padded, self.filter[None, None], stride=2)[:, 0]

    def doubled(self, audio: Tensor) -> Tensor:  # [B, S / 2] -> [B, S]
        even, odd = self.filter[::2], F.pad(self.filter[1::2], (1, 0))
        phases = 2 * torch.stack([even, odd])[:, None]  # [2, 1, TAPS // 2 + 1]
        return F.conv1d(F.pad(audio[:, None], (TAPS // 4, TAPS // 4)), phases).mT.flatten(1)

    def sound(self, strengths: Tensor) -> Tensor:
        """Noise of these strengths [B, T, UPPER_DIM] -> audio [B, T * hop]."""
        above = (2 * (strengths - math.log(FLOOR))).exp() - 1  # an exporter drops FLOOR**2 itself
        gain = FLOOR * above.clamp(min=0).sqrt()
        gain = gain.unflatten(2, (POINTS, UPPER_BANDS)).flatten(1, 2)  # [B, points, UPPER_BANDS]
        before, after = torch.cat([gain[:, :1], gain], 1), torch.cat([gain, gain[:, -1:]], 1)
        at = torch.arange(before.shape[1], device=gain.device)
        noise = [getattr(self, f"noise_{i}") for i in range(UPPER_BANDS)]
        noise = torch.stack([x[at % len(x)] for x in noise], 1)  # [points + 1, UPPER_BANDS, length]
        both = torch.stack([before, after], 2) @ noise  # [B, points + 1, 2, length]
        length = both.shape[3]
        rising = (torch.arange(length, device=gain.device) + 0.5) / length
        audio = both[:, :, 0] * (1 - rising) + both[:, :, 1] * rising  # by lines, point to point
        return audio.flatten(1)[:, length // 2 : -(length // 2)]

    def strengths(self, audio: Tensor) -> Tensor:
        """The true ones of audio [B, S]."""
        n = self.hop  # what fades in and out before and after, as a step would be in all bands
        fade = torch.hann_window(2 * n, device=audio.device)[:n]
        inside = torch.ones(audio.shape[1], device=audio.device)
        padded = F.pad(audio, (n, n), "reflect") * torch.cat([fade, inside, fade.flip(0)])
        spectrum = torch.fft.rfft(padded)
        bands = torch.stack(
            [torch.fft.irfft(spectrum * x, n=padded.shape[1])[:, n:-n] for x in shares(padded)], -1
        )  # [B, S, UPPER_BANDS]
        power = bands.unflatten(1, (-1, self.hop // POINTS)).square().mean(2)
        power = smoothed(power)  # [B, points, UPPER_BANDS]
        return (power + FLOOR**2).log().unflatten(1, (-1, POINTS)).flatten(2) / 2

    def loss(self, strengths: Tensor, audio: Tensor) -> Tensor:
        """How far strengths are from those of audio [B, S], in nepers: least at their median, as
        the mean power of what cannot be told would be too bright. Bands of a clip in which nothing
        is teach nothing: it was recorded at a lower rate."""
        with torch.no_grad():
            true = self.strengths(audio)
            power = (2 * true).exp().unflatten(2, (POINTS, UPPER_BANDS)).mean((1, 2))
            heard = (power > (1 + HEARD) * FLOOR**2).float()  # [B, UPPER_BANDS]
            weight = heard.repeat(1, POINTS)[:, None].expand_as(true)
        return ((strengths - true).abs() * weight).sum() / weight.sum().clamp(min=1)


def shares(audio: Tensor) -> Tensor:
    """Which bins of the spectrum of audio [..., S] are of which band [UPPER_BANDS, bins], 0 or 1.

    From half of the spectrum to its end, each 1.12 times as wide as the one below, as the ear's.
    """
    edges = 2 ** torch.linspace(0, 1, UPPER_BANDS + 1, dtype=torch.float64) / 2
    bins = audio.shape[-1] // 2 + 1
    place = torch.arange(bins, dtype=torch.float64) / (bins - 1)
    low, high = edges[:-1, None], edges[1:, None]
    return ((place >= low) & (place < high)).float().to(audio.device)


def noises(length: int) -> list[Tensor]:
    """Noise of each band and of RMS 1, that goes on where it ends [ROWS of that band, length]."""
    random, found = torch.Generator().manual_seed(0), []
    for i, rows in enumerate(ROWS):
        white = torch.randn(rows * length, generator=random, dtype=torch.float64)
        noise = torch.fft.irfft(torch.fft.rfft(white) * shares(white)[i], n=len(white))
        noise = (noise / noise.square().mean().sqrt()).half()  # as small files store it
        found.append(noise.float().unflatten(0, (rows, length)))
    return found


def low_pass() -> Tensor:
    """A windowed sinc [TAPS] that sums to 1."""
    t = torch.arange(TAPS, dtype=torch.float64) - TAPS // 2
    window = torch.kaiser_window(TAPS, False, 8.0, dtype=torch.float64)
    taps = torch.sinc(t * CUT / 2) * window
    return (taps / taps.sum()).float()
