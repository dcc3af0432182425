"""The node, by ComfyUI's V3 schema. ComfyUI brings torch, which only holds the samples."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import comfy.model_management
import comfy.utils
import folder_paths
import torch
from comfy_api.latest import ComfyExtension, InputImpl, Types, io

import vab_rt
from vab_rt.bundle import open_bundle, shipped_models
from vab_rt.errors import MediaError, OptionError
from vab_rt.options import check_kinds

_loaded: dict[str, vab_rt.Pipeline] = {}  # the model that was used last


class VabRtSound(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> Any:
        names = list(_models())
        return io.Schema(
            node_id="VabRtSound",
            display_name="Video to Sound (vab-rt)",
            category="audio",
            description="Sound that fits what a video shows, exactly as long as it.",
            inputs=[
                io.Video.Input("video", tooltip="Its own sound is not heard."),
                io.Combo.Input(
                    "model",
                    options=names,
                    default="default",
                    tooltip="Those that come along, and bundles in ComfyUI's folder models/vab_rt.",
                ),
                io.Int.Input(
                    "seed",
                    default=0,
                    min=0,
                    max=2**64 - 1,
                    control_after_generate=True,
                    tooltip="The same seed and video give the same sound.",
                ),
                io.Int.Input(
                    "steps", default=0, min=0, max=1024, tooltip="0: as the model has it."
                ),
                io.Float.Input(
                    "guidance",
                    default=0.0,
                    min=0.0,
                    max=100.0,
                    step=0.1,
                    tooltip="How closely to follow what is seen. 0: as the model has it.",
                ),
                io.String.Input(
                    "kind",
                    default="",
                    tooltip="What makes the sound, such as dog; empty: what the model sees.",
                ),
            ],
            outputs=[io.Audio.Output(tooltip="Mono.")],
        )

    @classmethod
    def validate_inputs(cls, model: str, kind: str | None) -> bool | str:
        """What the page says before anything runs. kind: None where another node gives it."""
        try:
            check_kinds((kind,) if kind else (), open_bundle(_path_of(model)).config)
        except vab_rt.VabError as error:
            return str(error)
        return True

    @classmethod
    def execute(
        cls, video: Any, model: str, seed: int, steps: int, guidance: float, kind: str
    ) -> Any:
        """Raises VabError, which ComfyUI shows at the node, and its own when it is interrupted."""
        named: dict[str, Any] = {"kinds": (kind,) if kind else ()}
        named |= {"steps": steps} if steps else {}
        named |= {"guidance": guidance} if guidance else {}
        options = vab_rt.GenerateOptions(seed=seed, **named)
        with opened(video) as part:
            samples, rate_hz = _sound(_load(model), part, options)
        waveform = samples[None, None]  # [1, 1, S]: batch, channels, samples
        return io.NodeOutput({"waveform": waveform, "sample_rate": rate_hz})


def _sound(
    pipeline: vab_rt.Pipeline, video: vab_rt.Video, options: vab_rt.GenerateOptions
) -> tuple[torch.Tensor, int]:
    """Samples [S], and how many there are a second."""
    bar, parts = comfy.utils.ProgressBar(1), []
    for step in pipeline.generate_steps(video, options):
        comfy.model_management.throw_exception_if_processing_interrupted()
        parts += [] if step.audio is None else [torch.from_numpy(step.audio)]
        done, total = step.position()
        bar.update_absolute(done, total or done + 1)
    return torch.cat(parts), pipeline.config.sample_rate_hz


@contextmanager
def opened(video: Any) -> Iterator[vab_rt.Video]:
    """A VIDEO as the runtime reads it: from its own file where it has one, of which it may be a
    part; frames that are in memory alone are encoded first."""
    with tempfile.TemporaryDirectory(dir=_temporary()) as folder:
        copy = Path(folder) / "video.mp4"
        if not isinstance(video, InputImpl.VideoFromFile) or _hides_its_part(video):
            _even(video).save_to(str(copy))
            yield vab_rt.Video(copy)
            return
        source, (start_s, duration_s) = video.get_stream_source(), _part(video)
        if not isinstance(source, str):
            copy.write_bytes(source.getbuffer())
            source = copy
        yield vab_rt.Video(source, start_s, duration_s or None)


def _part(video: Any) -> tuple[float, float]:
    """Where it starts in its file and how long it is, in seconds; 0 is to the end. Older ComfyUI
    knows whole files alone."""
    return video.get_active_trim_window() if hasattr(video, "get_active_trim_window") else (0, 0)


def _hides_its_part(video: Any) -> bool:
    """Between the two, versions cut videos without telling where."""
    return hasattr(video, "as_trimmed") and not hasattr(video, "get_active_trim_window")


def _even(video: Any) -> Any:
    """The same with even sides, as H.264 wants them. Raises MediaError for no frame."""
    if isinstance(video, InputImpl.VideoFromFile):
        return video
    found = video.get_components()
    num_frames, height, width = found.images.shape[:3]
    if not num_frames or height < 2 or width < 2:
        raise MediaError(
            f"the video has {num_frames} frames of {width}x{height} pixels, expected one frame of "
            "2x2 at least; check what makes it"
        )
    images = found.images[:, : height // 2 * 2, : width // 2 * 2]
    return InputImpl.VideoFromComponents(
        Types.VideoComponents(images=images, frame_rate=found.frame_rate)
    )


def _temporary() -> str:
    folder = Path(folder_paths.get_temp_directory())
    folder.mkdir(parents=True, exist_ok=True)
    return str(folder)


def _models() -> dict[str, Path | str]:
    """Names, and what the runtime is given for them."""
    own = sorted(Path(folder_paths.models_dir, "vab_rt").glob("*/vab.json"))
    return {
        **{path.parent.name: path.parent for path in own},
        **{name: name for name in shipped_models()},
    }


def _path_of(model: str) -> Path | str:
    """The path of a model, one of those offered, whatever a request names. Raises OptionError."""
    models = _models()
    if model not in models:
        raise OptionError(f"model is {model}, expected one of {', '.join(models)}")
    return models[model]


def _load(model: str) -> vab_rt.Pipeline:
    """The model that was used last is at hand. Raises VabError."""
    if model not in _loaded:
        _loaded.clear()
        _loaded[model] = vab_rt.load(_path_of(model), offline=True)
    return _loaded[model]


class VabRtExtension(ComfyExtension):
    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        return [VabRtSound]


async def comfy_entrypoint() -> VabRtExtension:
    return VabRtExtension()
