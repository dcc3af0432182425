"""Clips as files: mp4 with H.264 and AAC, and contact sheets."""

from fractions import Fraction
from pathlib import Path

import av
import numpy as np

from training.foleyworld.scenes import Scene
from training.foleyworld.sounds import CLIP_S, NUM_SAMPLES, SAMPLE_RATE_HZ
from training.foleyworld.truth import write_truth

AUDIO_FRAME_SAMPLES = 1024
CHUNK_FRAMES = 25


def frame_times(rate_hz: float) -> np.ndarray:
    """The times of a clip's frames: frame i shows (i + 0.5) / rate."""
    return (np.arange(round(CLIP_S * rate_hz)) + 0.5) / rate_hz


def write_clip(path: Path, scene: Scene, width: int, height: int, fps: int, silent: bool) -> None:
    """Write `path` (mp4) and its truth beside it as .json."""
    with av.open(str(path), "w") as container:
        video = container.add_stream("libx264", rate=fps)
        video.width, video.height, video.pix_fmt = width, height, "yuv420p"
        video.options = {"crf": "20", "preset": "veryfast"}
        sound = None if silent else container.add_stream("aac", rate=SAMPLE_RATE_HZ, layout="mono")
        times = frame_times(fps)
        for start in range(0, len(times), CHUNK_FRAMES):
            for picture in scene.frames(times[start : start + CHUNK_FRAMES], width, height):
                frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
                container.mux(video.encode(frame))
        container.mux(video.encode(None))
        if sound is not None:
            _encode_audio(container, sound, scene.audio())
    write_truth(path.with_suffix(".json"), scene.truth)


def _encode_audio(
    container: av.container.OutputContainer, stream: av.AudioStream, audio: np.ndarray
) -> None:
    for start in range(0, NUM_SAMPLES, AUDIO_FRAME_SAMPLES):
        block = audio[None, start : start + AUDIO_FRAME_SAMPLES]
        frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(block), "fltp", "mono")
        frame.sample_rate, frame.pts = SAMPLE_RATE_HZ, start
        frame.time_base = Fraction(1, SAMPLE_RATE_HZ)
        container.mux(stream.encode(frame))
    container.mux(stream.encode(None))


def write_sheet(path: Path, scenes: list[Scene], columns: int = 10, size: int = 64) -> None:
    """Frames over time above a log spectrogram with event marks, one block per clip."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt
    from scipy import signal

    figure, axes = plt.subplots(2 * len(scenes), 1, figsize=(11, 2.1 * len(scenes)), squeeze=False)
    times = frame_times(columns / CLIP_S)
    for scene, (top, bottom) in zip(scenes, axes.reshape(-1, 2), strict=True):
        top.imshow(np.concatenate(scene.frames(times, size, size), axis=1))
        top.set_title(f"{scene.seed}: {scene.caption(times[0])}", fontsize=8)
        top.axis("off")
        audio = scene.audio()
        hz, seconds, power = signal.spectrogram(audio, SAMPLE_RATE_HZ, nperseg=512, noverlap=352)
        level = 10 * np.log10(power + 1e-10)
        bottom.pcolormesh(seconds, hz, level, vmin=-90, vmax=-30, cmap="magma", rasterized=True)
        for events in scene.truth.events.values():
            bottom.vlines(events, 7000, 8000, color="cyan", linewidth=1)
        bottom.set_xlim(0, CLIP_S)
        bottom.tick_params(labelsize=6)
    figure.tight_layout(pad=0.4)
    figure.savefig(path, dpi=80)
    plt.close(figure)
