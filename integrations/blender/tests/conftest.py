"""Blender as a Python module, with the add-on installed from its zip: pip install bpy==5.0.1.

BLENDER_ZIP=build/vab_rt-....zip pytest -c /dev/null integrations/blender/tests
"""

import os
import tempfile
from pathlib import Path
from types import SimpleNamespace

import pytest

RESOURCES = tempfile.TemporaryDirectory(prefix="blender-", ignore_cleanup_errors=True)
os.environ["BLENDER_USER_RESOURCES"] = RESOURCES.name  # before Blender starts
bpy = pytest.importorskip("bpy")


@pytest.fixture(scope="session")
def installed() -> None:
    path = str(Path(os.environ["BLENDER_ZIP"]).resolve())
    bpy.ops.extensions.package_install_files(
        filepath=path, repo="user_default", enable_on_install=True
    )


@pytest.fixture
def project(installed, tmp_path):
    """A new project that is saved in a folder of its own: `scene`, and its `strips`."""
    bpy.ops.wm.read_homefile(use_empty=True)
    bpy.ops.wm.save_as_mainfile(filepath=str(tmp_path / "film.blend"))
    scene = bpy.context.scene
    if hasattr(bpy.context.workspace, "sequencer_scene"):
        bpy.context.workspace.sequencer_scene = scene
    editor = scene.sequence_editor_create()
    return SimpleNamespace(scene=scene, strips=editor.strips, folder=tmp_path)


@pytest.fixture
def movie(project):
    """Makes a movie file, and a selected strip of it from frame 101 on, in channel 1."""

    def add(name="ball", fps=25, num_frames=75, start=101):
        from fractions import Fraction

        rate = Fraction(fps)
        project.scene.render.fps = round(rate)
        project.scene.render.fps_base = round(rate) / float(rate)
        path = project.folder / f"{name}.mp4"
        _write_movie(path, rate, num_frames)
        return project.strips.new_movie(name, str(path), 1, start)

    return add


def _write_movie(path: Path, fps, num_frames: int) -> None:
    import av
    import numpy as np

    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=fps)
        stream.width, stream.height, stream.pix_fmt = 96, 64, "yuv420p"
        for number in range(num_frames):
            picture = np.full((64, 96, 3), 40, np.uint8)
            top = abs(number * 3 % 96 - 48)
            picture[top : top + 16, 40:56] = 220  # a block that goes up and down
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
