"""Sound synthesis: struck modes, coloured noise, harmonic tones. 16 kHz mono, 10 s."""

from collections.abc import Sequence

import numpy as np
from scipy import signal

SAMPLE_RATE_HZ = 16_000
CLIP_S = 10.0
NUM_SAMPLES = int(SAMPLE_RATE_HZ * CLIP_S)

LAST_HIT_S = 9.85  # later hits would be cut off by the end of the clip
TABLE_SIZE = 4096


def clip_times() -> np.ndarray:
    """The time of each sample, float32 [S]."""
    return np.arange(NUM_SAMPLES, dtype=np.float32) / np.float32(SAMPLE_RATE_HZ)


def strike(
    modes_hz: Sequence[float],
    gains: Sequence[float],
    decays_s: Sequence[float],
    rng: np.random.Generator,
    noise: tuple[float, float] = (0.0, 0.01),
    attack_s: float = 0.0006,
) -> np.ndarray:
    """One hit: decaying sinusoids plus a noise burst (gain, decay in s). Peak 1."""
    length_s = min(0.9, 6.0 * max(max(decays_s), noise[1]))
    t = np.arange(int(length_s * SAMPLE_RATE_HZ), dtype=np.float32) / SAMPLE_RATE_HZ
    burst = rng.standard_normal(len(t), dtype=np.float32)
    burst[1:] = 0.5 * (burst[1:] + burst[:-1])  # less of what a low-bitrate codec loses
    hit = noise[0] * np.exp(-t / noise[1]) * burst
    for hz, gain, decay_s in zip(modes_hz, gains, decays_s, strict=True):
        if hz < 0.45 * SAMPLE_RATE_HZ:
            hit += gain * np.exp(-t / decay_s) * np.sin(2 * np.pi * hz * t)
    hit *= np.minimum(1.0, t / attack_s)
    return hit / np.abs(hit).max()


def play_hits(hit: np.ndarray, times_s: Sequence[float], gains: Sequence[float]) -> np.ndarray:
    """The hit at each time, float32 [S]; a new contact damps what still rings."""
    audio = np.zeros(NUM_SAMPLES, np.float32)
    damp = np.linspace(1.0, 0.15, 48, dtype=np.float32)
    for time_s, gain in zip(times_s, gains, strict=True):
        start = round(time_s * SAMPLE_RATE_HZ)
        audio[start : start + len(damp)] *= damp[: len(audio) - start]
        audio[start + len(damp) :] = 0.0
        end = min(NUM_SAMPLES, start + len(hit))
        audio[start:end] += gain * hit[: end - start]
    return audio


def noise_band(rng: np.random.Generator, low_hz: float, high_hz: float) -> np.ndarray:
    """Gaussian noise in a band, RMS 1, float32 [S]."""
    white = rng.standard_normal(NUM_SAMPLES, dtype=np.float32)
    return band(white, low_hz, high_hz)


def band(audio: np.ndarray, low_hz: float, high_hz: float) -> np.ndarray:
    """Second-order band-pass, normalised to RMS 1."""
    sos = signal.butter(2, (low_hz, high_hz), "bandpass", fs=SAMPLE_RATE_HZ, output="sos").astype(
        np.float32
    )
    out = signal.sosfilt(sos, audio)
    return out / (np.sqrt(np.mean(out * out)) + 1e-9)


def tone(pitch_hz: np.ndarray, partials: Sequence[float]) -> np.ndarray:
    """A harmonic sound with a moving pitch [S]; partials are the gains of harmonics 1, 2, ..."""
    turns = np.arange(TABLE_SIZE) / TABLE_SIZE
    table = np.zeros(TABLE_SIZE, np.float32)
    for k, gain in enumerate(partials, start=1):
        table += gain * np.sin(2 * np.pi * k * turns + k * k)  # spread phases: a lower crest
    phase = np.cumsum(pitch_hz, dtype=np.float64) / SAMPLE_RATE_HZ
    index = (phase * TABLE_SIZE).astype(np.int64) & (TABLE_SIZE - 1)
    return table[index] / np.float32(np.sqrt(np.mean(table * table)))


def active_rms(audio: np.ndarray) -> float:
    """RMS over the 20-ms blocks that sound, i.e. lie above a tenth of the loudest block."""
    blocks = audio[: len(audio) // 320 * 320].reshape(-1, 320)
    power = np.einsum("bs,bs->b", blocks, blocks) / 320
    return float(np.sqrt(power[power >= 0.01 * power.max()].mean()))


def limit(audio: np.ndarray) -> np.ndarray:
    """Leave |x| <= 0.6 alone and bend the rest below 0.9."""
    size = np.abs(audio)
    over = np.flatnonzero(size > 0.6)
    bent = audio.astype(np.float32, copy=True)
    bent[over] = np.sign(audio[over]) * (0.6 + 0.3 * np.tanh((size[over] - 0.6) / 0.3))
    return bent
