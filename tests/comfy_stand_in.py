"""A stand-in for the parts of ComfyUI that our node touches: it takes the calls that the real ones
take (comfy_api/latest/_io.py, 0.3.64) and no others."""

import inspect
import sys
from collections import namedtuple
from pathlib import Path
from types import ModuleType, SimpleNamespace

COMMON = ["id", "display_name", "optional", "tooltip", "lazy"]
WIDGET = ["default", "socketless"]
INPUTS = {
    "Video": COMMON,
    "Int": [*COMMON, *WIDGET, "min", "max", "step", "control_after_generate", "display_mode"]
    + ["force_input"],
    "Float": [*COMMON, *WIDGET, "min", "max", "step", "round", "display_mode", "force_input"],
    "String": [*COMMON, *WIDGET, "multiline", "placeholder", "dynamic_prompts", "force_input"],
    "Combo": [COMMON[0], "options", *COMMON[1:], *WIDGET, "control_after_generate", "upload"]
    + ["image_folder", "remote"],
}
OUTPUT = ["id", "display_name", "tooltip", "is_output_list"]
SCHEMA = ["node_id", "display_name", "category", "inputs", "outputs", "hidden", "description"]
SCHEMA += ["is_input_list", "is_output_node", "is_deprecated", "is_experimental", "is_api_node"]
SCHEMA += ["not_idempotent", "enable_expand"]


def record(name: str, fields: list[str], num_required: int = 0):
    """A class with these arguments; others are a TypeError, as in the real one."""
    return namedtuple(name, fields, defaults=[None] * (len(fields) - num_required))


class NodeOutput:
    def __init__(self, *args, ui=None, expand=None, block_execution=None):
        self.args = args


class VideoFromFile:
    """file: a path as text, or a BytesIO. One that knows of parts has get_active_trim_window."""

    def __init__(self, file):
        self.file = file

    def get_stream_source(self):
        return self.file

    def save_to(self, path, format="auto", codec="auto", metadata=None):
        Path(path).write_bytes(Path(self.file).read_bytes())


class TrimmedVideo(VideoFromFile):
    """As later versions have them: the source is the whole file."""

    def __init__(self, file, start_time, duration):
        super().__init__(file)
        self.window = float(start_time), float(duration)

    def as_trimmed(self, start_time=None, duration=None, strict_duration=False):
        raise NotImplementedError

    def get_active_trim_window(self):
        return self.window


class VideoFromComponents:
    """Frames in memory, encoded as the real one does."""

    def __init__(self, components):
        self.components = components

    def get_components(self):
        return self.components

    def save_to(self, path, format="auto", codec="auto", metadata=None):
        from media import make_video

        images = self.components.images
        make_video(
            Path(path),
            num_frames=len(images),
            fps=self.components.frame_rate,
            size=(images.shape[2], images.shape[1]),
            picture=lambda number: (images[number] * 255).byte().numpy(),
        )


class Interrupted(Exception):
    """comfy.model_management.InterruptProcessingException"""


class Host:
    """What a test looks at: bars, the latest progress of each; and whether somebody interrupts."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.bars, self.interrupt_after = folder, [], None

    def check(self) -> None:
        self.interrupt_after = None if self.interrupt_after is None else self.interrupt_after - 1
        if self.interrupt_after == 0:
            raise Interrupted

    def modules(self) -> dict[str, ModuleType]:
        host = self

        class ProgressBar:
            def __init__(self, total, node_id=None):
                self.told = []
                host.bars.append(self.told)

            def update_absolute(self, value, total=None, preview=None):
                assert total is None or 0 < value <= total
                self.told.append((value, total))

        kinds = {
            name: SimpleNamespace(Input=record(f"{name}Input", fields, 1))
            for name, fields in INPUTS.items()
        }
        io = SimpleNamespace(
            **kinds,
            Audio=SimpleNamespace(Output=record("AudioOutput", OUTPUT)),
            Schema=record("Schema", SCHEMA, 1),
            ComfyNode=type("ComfyNode", (), {}),
            NodeOutput=NodeOutput,
        )
        latest = module(
            "comfy_api.latest",
            io=io,
            ComfyExtension=type("ComfyExtension", (), {}),
            InputImpl=SimpleNamespace(
                VideoFromFile=VideoFromFile, VideoFromComponents=VideoFromComponents
            ),
            Types=SimpleNamespace(
                VideoComponents=record("VideoComponents", ["images", "frame_rate", "audio"], 2)
            ),
        )
        utils = module("comfy.utils", ProgressBar=ProgressBar)
        management = module(
            "comfy.model_management", throw_exception_if_processing_interrupted=self.check
        )
        folders = module(
            "folder_paths",
            models_dir=str(self.folder / "models"),
            get_temp_directory=lambda: str(self.folder / "temp"),
        )
        comfy = module("comfy", utils=utils, model_management=management)
        return {m.__name__: m for m in (comfy, utils, management, folders, latest)} | {
            "comfy_api": module("comfy_api", latest=latest)
        }


def module(name: str, **content) -> ModuleType:
    made = ModuleType(name)
    made.__dict__.update(content)
    return made


def load_nodes(host: Host, monkeypatch, folder: Path):
    """The package in a folder, as ComfyUI loads those in custom_nodes."""
    import importlib.util

    for name, made in host.modules().items():
        monkeypatch.setitem(sys.modules, name, made)
    path = folder / "__init__.py"
    spec = importlib.util.spec_from_file_location("custom_node", path)
    package = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "custom_node", package)
    monkeypatch.delitem(sys.modules, "custom_node.nodes", raising=False)
    spec.loader.exec_module(package)
    assert inspect.iscoroutinefunction(package.comfy_entrypoint)
    return package
