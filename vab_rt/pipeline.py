"""Video in, sound out: read frames, encode frames, decode tokens, decode audio, return."""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import numpy.typing as npt

from vab_rt.audio import Audio
from vab_rt.bundle import open_bundle
from vab_rt.config import GenerateOptions, ModelConfig
from vab_rt.decoding import Tokens
from vab_rt.engines import Engine, Engines, open_engines
from vab_rt.errors import BundleError, OptionError
from vab_rt.stopwatch import Stopwatch
from vab_rt.video import VideoReader
from vab_rt.windows import Window, carry_over, cut_windows, join, num_windows

DEFAULTS = GenerateOptions()
FRAMES_PER_BATCH = 8
STAGES = ("decode_video", "visual", "tokens", "codec")


@dataclass(frozen=True)
class Step:
    """The state after one decoding step of one window."""

    window: int
    num_windows: int | None
    """as far as is known: what the container declares, exact in the last window"""
    step: int
    num_steps: int
    tokens: npt.NDArray[np.int32]
    """[K, T]; V is [MASK]"""
    audio: npt.NDArray[np.float32] | None
    """[samples] that this window adds to the sound, in -1 to 1; on its last step only"""
    timings_s: dict[str, float]
    """seconds spent so far, by stage"""


class Pipeline:
    """A loaded model. `generate` may be called any number of times, by one thread at a time."""

    def __init__(self, config: ModelConfig, engines: Engines, load_s: float = 0.0) -> None:
        self.config, self.engines, self.load_s = config, engines, load_s

    @property
    def device(self) -> str:
        return self.engines.device

    def generate(self, video: str | Path, options: GenerateOptions = DEFAULTS) -> Audio:
        """The sound of a video, exactly as long as the selected part of it.

        Raises MediaError for what cannot be read, OptionError for a selection without content.
        """
        steps = self.generate_steps(video, options)
        parts = [step.audio for step in steps if step.audio is not None]
        return Audio(np.concatenate(parts), self.config.sample_rate_hz)

    def generate_steps(
        self, video: str | Path, options: GenerateOptions = DEFAULTS
    ) -> Iterator[Step]:
        """The same, step by step; the `audio` of all steps in a row is the sound.

        On a GPU only the last step of each window is seen, as nothing comes back before it. Memory
        does not grow with the length of the video.
        """
        c, clock = self.config, Stopwatch(*STAGES)
        with clock.time("decode_video"):
            reader = VideoReader(video, c, options.start_s, options.duration_s)
        frames = clock.each("decode_video", reader.frames())
        features = clock.each("visual", encode_frames(frames, self.engines.visual_encoder))
        tokens: Tokens | None = None
        tail = np.empty(0, np.float32)
        for window in cut_windows(features, lambda: _exact_duration(reader, c), c):
            decoding = self.decode_window(window, tokens, options)
            for step, tokens in clock.each("tokens", decoding):
                audio = None
                if step == options.steps - 1:
                    with clock.time("codec"):
                        audio, tail = join(self.decode_audio(tokens)[0], tail, window, c)
                yield Step(
                    window=window.index,
                    num_windows=_expected_windows(reader, window, c),
                    step=step,
                    num_steps=options.steps,
                    tokens=tokens[0],
                    audio=audio,
                    timings_s=dict(clock.seconds),
                )

    def decode_window(
        self, window: Window, previous: Tokens | None, options: GenerateOptions
    ) -> Iterator[tuple[int, Tokens]]:
        """The tokens [1, K, T] of one window, step by step; `previous` are those of the last."""
        seeds = np.array([window.seed(options.seed)], np.uint64)
        tokens = carry_over(previous, self.config)
        return self.decode_tokens(window.features[None], tokens, seeds, options)

    def decode_tokens(
        self,
        features: npt.NDArray[np.float32],
        tokens: Tokens,
        seeds: npt.NDArray[np.uint64],
        options: GenerateOptions,
    ) -> Iterator[tuple[int, Tokens]]:
        """Fill the [MASK] positions of tokens [B, K, T] to fit features [B, F, visual_dim].

        seeds [B]. Yields (step, tokens), on a GPU the last alone; each clip gets the tokens it
        would get alone.
        """
        return self.engines.decode_tokens(features, tokens, seeds, options)

    def decode_audio(self, tokens: Tokens) -> npt.NDArray[np.float32]:
        """Sound [B, S] of finished tokens [B, K, T]. Raises BundleError when it is not finite."""
        audio = self.engines.codec_decoder(tokens=tokens)
        if not np.isfinite(audio).all():
            raise BundleError(
                "the codec decoder returned samples that are NaN or infinite, expected -1 to 1; "
                "export the model again"
            )
        return audio


def load(
    model: str | Path | None = None,
    device: str = "auto",
    *,
    engines: Engines | None = None,
    threads: int | None = None,
) -> Pipeline:
    """A pipeline for a bundle: its folder, or the name of a shipped model; None is the default.

    device: auto, cpu, cuda, tensorrt, tensorrt-rtx; never another than asked for. engines: ready
    ones, instead of the bundle's own. threads: None takes one per physical core. Raises
    BundleError, BackendError, OptionError.
    """
    begin = time.perf_counter()
    if engines is not None and (device != "auto" or threads is not None):
        raise OptionError(
            f"device {device} and threads {threads} came with ready engines, expected neither; "
            "open the engines as you want them"
        )
    bundle = open_bundle(model)
    if bundle.config.given_codebooks:
        raise BundleError(
            f"model {bundle.config.name} predicts only the codebooks after the first "
            f"{bundle.config.given_codebooks}, expected one that predicts all; a coarse-to-fine "
            "model cannot generate alone, load the coarse one"
        )
    ready = engines or open_engines(bundle, device, threads)
    return Pipeline(bundle.config, ready, load_s=time.perf_counter() - begin)


def encode_frames(
    frames: Iterator[npt.NDArray[np.uint8]], visual_encoder: Engine
) -> Iterator[npt.NDArray[np.float32]]:
    """Visual features [visual_dim] of frames [image_size, image_size, 3], a few at a time."""
    while batch := list(islice(frames, FRAMES_PER_BATCH)):
        yield from visual_encoder(frames=np.stack(batch))  # [N, visual_dim]


def _exact_duration(reader: VideoReader, config: ModelConfig) -> float:
    if config.samples_in(reader.duration_s) < 1:
        raise OptionError(
            f"the selection is {reader.duration_s:g} s long, expected at least one sample, "
            f"1/{config.sample_rate_hz} s; choose an earlier start or a longer duration"
        )
    return reader.duration_s


def _expected_windows(reader: VideoReader, window: Window, config: ModelConfig) -> int | None:
    if window.is_last:
        return window.index + 1
    if reader.expected_s is None:
        return None
    return max(window.index + 2, num_windows(reader.expected_s, config))
