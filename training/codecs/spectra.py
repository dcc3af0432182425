"""Spectra of sound at several window lengths, and how far two of them are apart."""

import torch
from torch import Tensor
from torch.nn import functional as F
from torchaudio.functional import melscale_fbanks

LEVEL_SAMPLES = 4096


class MultiScaleSpectra:
    """Distances of audio [B, S] from a target [B, S], each a mean over `sizes`.

    mel: L1 of mel magnitudes and mean square of their logarithms (arXiv:2210.13438 section 3.4; the
    logarithm is audiocraft's). log_mel: L1 of the logarithms. convergence: of the spectra before
    mel (arXiv:1808.06719), normalised over the batch: per sample it explodes on near-silent crops
    and drives the output to zero. level: mean square of the logarithms of energies of bands over
    LEVEL_SAMPLES, in which noise evens out, so that it is least where no level is lost.
    sizes: window lengths in samples, hops a quarter. bands: of the longest window; a short one has
    fewer, so that each holds a bin. floor: of a band's mean magnitude, where noise of deviation 1
    has 0.89; what is far below it is not heard.
    """

    def __init__(
        self,
        sample_rate_hz: int,
        sizes: tuple[int, ...],
        bands: int,
        device: torch.device,
        floor: float = 1e-3,
    ) -> None:
        self.sizes, self.floor = sizes, floor
        self.windows = {n: torch.hann_window(n, device=device) for n in sizes}
        self.filters = {
            n: band_means(n, min(bands, n // 8), sample_rate_hz).to(device) for n in sizes
        }

    def __call__(self, output: Tensor, target: Tensor, names: frozenset[str]) -> dict[str, Tensor]:
        """Those of the distances that are asked for by name; nothing else is computed."""
        parts: dict[str, list[Tensor]] = {name: [] for name in NAMES & names}
        for n in self.sizes if parts else ():
            a, b = self._magnitude(output, n), self._magnitude(target, n)  # [B, frames, bins]
            if "convergence" in parts:
                parts["convergence"].append((a - b).norm() / b.norm().clamp(min=self.floor))
            if "level" in parts:
                parts["level"].append(self._level_distance(a, b, n))
            a, b = a @ self.filters[n], b @ self.filters[n]  # [B, frames, bands]
            log_a, log_b = (a + self.floor).log(), (b + self.floor).log()
            if "mel" in parts:
                parts["mel"].append(F.l1_loss(a, b) + F.mse_loss(log_a, log_b))
            if "log_mel" in parts:
                parts["log_mel"].append(F.l1_loss(log_a, log_b))
        return {name: torch.stack(values).mean() for name, values in parts.items()}

    def _level_distance(self, output: Tensor, target: Tensor, n: int) -> Tensor:
        frames = min(LEVEL_SAMPLES * 4 // n, output.shape[1])
        logs = [
            (
                F.avg_pool1d((x.square() @ self.filters[n]).transpose(1, 2), frames) + self.floor**2
            ).log()
            for x in (output, target)
        ]  # [B, bands, blocks]
        return F.mse_loss(logs[0] / 2, logs[1] / 2)

    def _magnitude(self, audio: Tensor, n: int) -> Tensor:  # [B, S] -> [B, frames, bins]
        window = self.windows[n]
        spectrum = torch.stft(audio, n, n // 4, window=window, return_complex=True)
        power = spectrum.real.square() + spectrum.imag.square()
        return (power / window.square().sum() + 1e-12).sqrt().transpose(1, 2)


NAMES = frozenset({"mel", "log_mel", "convergence", "level"})


def band_means(n: int, bands: int, sample_rate_hz: int) -> Tensor:
    """Weights [bins, bands] that take the mean of a magnitude spectrum over each mel band."""
    filters = melscale_fbanks(n // 2 + 1, 0.0, sample_rate_hz / 2, bands, sample_rate_hz)
    return filters / filters.sum(0).clamp(min=1e-6)
