"""The bench of the command: its measuring of processes, its looped clip, its peer."""

import subprocess
import sys

import pytest

torch = pytest.importorskip("torch", reason="the bench compares with PyTorch: pip install '.[dev]'")

from checkpoints import tiny_config
from media import make_video

from bench.generate import loop_clip
from bench.machine import commit, machine, versions
from bench.runs import run
from bench.torch_loop import recipe_of
from training.configs import read_recipe
from vab_rt.bundle import open_bundle, shipped_models
from vab_rt.errors import OptionError
from vab_rt.media import probe
from vab_rt.video import Video, read_frames


def test_a_run_is_measured():
    code = "import time; held = b'1' * 100_000_000; time.sleep(0.2); print('a'); print('{}')"
    not_counted = b"1" * 300_000_000
    found = run([sys.executable, "-c", code])
    assert len(not_counted) == 300_000_000
    assert found.wall_s > 0.2
    assert 100 < found.peak_mb < 200
    assert found.last_line == "{}"
    assert found.json() == {}


def test_a_failed_run_is_an_error():
    with pytest.raises(subprocess.CalledProcessError) as raised:
        run([sys.executable, "-c", "print('why'); raise SystemExit(3)"])
    assert raised.value.returncode == 3
    assert raised.value.output == b"why\n"
    with pytest.raises(subprocess.CalledProcessError):
        run([sys.executable, "-c", "import os; os.abort()"])


def test_a_clip_is_looped(tmp_path):
    clip = make_video(tmp_path / "clip.mp4", num_frames=30, fps=10)  # 3 s, with B frames
    length_s = loop_clip(clip, tmp_path / "long.mp4", 10)
    assert length_s == 12
    assert probe(tmp_path / "long.mp4").duration_s == pytest.approx(12, abs=0.01)
    images, length_s = read_frames(Video(tmp_path / "long.mp4"), tiny_config())
    assert len(images) == 30  # 12 s at 2.5 Hz
    assert length_s == pytest.approx(12, abs=0.01)


def test_the_recipe_of_a_model_is_found():
    assert recipe_of(read_recipe("vab-dac").model) == read_recipe("vab-dac")
    for name in shipped_models():
        found = recipe_of(open_bundle(name).config)
        assert found.model == open_bundle(name).config
    with pytest.raises(OptionError, match=r"tiny-test.*export the bundle again"):
        recipe_of(tiny_config())


def test_facts_are_named():
    assert machine()["cores"] >= 1
    assert versions()["torch"] == torch.__version__.partition("+")[0]
    assert commit()
