"""Wrong words on the command line of a bench, and what it cannot do without, are one line."""

import contextlib
import importlib
import io
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("torch", reason="the bench compares with PyTorch: pip install '.[dev]'")

from bench import __main__ as command
from bench import record
from bench.gpu import work_of_stages
from bench.models import model_names, read_model
from bench.peers import comparison
from vab_rt.engines import cuda
from vab_rt.engines.gpu import FoundGpu
from vab_rt.errors import BackendError, OptionError


@pytest.mark.parametrize(
    ("name", "words", "reason"),
    [
        ("generate", ["--runs", "0"], "'0', expected a whole number from 1 on"),
        ("editing", ["--files", "0"], "'0', expected a whole number from 1 on"),
        ("full_size", ["--repeats", "-1"], "expected a whole number from 1 on"),
        ("full_size", ["--system", "vab"], "invalid choice: 'vab'"),
        ("sampling", ["--threads", "0"], "expected a whole number from 1 on"),
        ("sampling", ["--runs", "many"], "'many', expected a whole number"),
        ("peers", ["--repeats", "0"], "expected a whole number from 1 on"),
        ("peers", ["--device", "gpu"], "invalid choice: 'gpu'"),
        ("peers", ["--size", "huge"], "invalid choice: 'huge'"),
        ("gpu", ["--batches", "1,17"], "'1,17', expected at most 16 clips"),
        ("gpu", ["--batches", "1,x"], "'x', expected a whole number"),
        ("gpu", ["--precision", "fp8"], "invalid choice: 'fp8'"),
        ("profile", ["--runs", "0"], "expected a whole number from 1 on"),
        ("installed", ["--extra"], "unrecognized arguments: --extra"),
        ("record", ["--minutes", "0.5"], "expected a whole number from 1 on"),
    ],
)
def test_wrong_arguments_are_a_usage_error(name, words, reason, capsys):
    with pytest.raises(SystemExit) as error:
        importlib.import_module(command.BENCHES[name]).main(words)
    assert error.value.code == 2
    assert reason in " ".join(capsys.readouterr().err.split())


@pytest.fixture(scope="module")
def flags():
    """What each bench says that it takes."""
    found = {}
    for name, module in command.BENCHES.items():
        with contextlib.redirect_stdout(io.StringIO()) as out, pytest.raises(SystemExit) as end:
            importlib.import_module(module).main(["--help"])
        assert end.value.code == 0
        found[name] = {*re.findall(r"--[a-z][a-z_-]*", out.getvalue())}
    return found


def test_the_page_of_the_bench_names_what_there_is(flags):
    page = Path(command.__file__).with_name("README.md").read_text()
    commands = re.findall(r"python -m bench (\w+)((?: --[\w-]+(?: [\w/]+)?)*)", page)
    assert {name for name, _ in commands} == command.BENCHES.keys()
    for name, words in commands:
        assert {*re.findall(r"--[\w-]+", words)} <= flags[name], (name, words)
    for test in re.findall(r"tests/\w+/\w+\.py", page):
        assert (record.ROOT / test).is_file()


def test_a_record_asks_for_what_there_is(flags):
    rtx = FoundGpu("RTX 4090", "8.9", 24 << 30)
    for gpu, has_provider in ((rtx, False), (rtx, True), (None, False)):
        for part in record.parts(gpu, has_provider):
            if part.words[0] == "bench":
                _, name, *rest = part.words
                assert {word for word in rest if word.startswith("--")} <= flags[name]


def run(monkeypatch, name, *words, main=None):
    monkeypatch.setattr(sys, "argv", ["bench", name, *words])
    if main is not None:
        monkeypatch.setattr(importlib.import_module(command.BENCHES[name]), "main", main)
    with pytest.raises(SystemExit) as error:
        command.main()
    return error.value.code


def test_what_a_bench_cannot_do_without_is_named(monkeypatch):
    for error, words in (
        (ModuleNotFoundError("No module named 'av'", name="av"), "bench peers needs av; install"),
        (subprocess.CalledProcessError(3, ["python", "x"]), "a command of bench peers exits 3: "),
        (OptionError("no"), "error: no"),
    ):

        def fail(arguments, error=error):
            raise error

        assert words in run(monkeypatch, "peers", main=fail)


def test_a_module_of_our_own_that_is_missing_is_a_bug(monkeypatch):
    def fail(arguments):
        raise ModuleNotFoundError("No module named 'bench.nothing'", name="bench.nothing")

    monkeypatch.setattr(importlib.import_module("bench.installed"), "main", fail)
    monkeypatch.setattr(sys, "argv", ["bench", "installed"])
    with pytest.raises(ModuleNotFoundError):
        command.main()


def test_a_recipe_that_there_is_not_names_those_that_there_are(monkeypatch):
    with pytest.raises(OptionError, match=r"no recipe 'vab'; expected one of: default, .*vab-enco"):
        read_model("vab")
    with pytest.raises(OptionError, match="has no model of VAB"):
        read_model("v2a-mapper")
    with pytest.raises(OptionError, match="no recipe 'vab'"):
        work_of_stages("vab", "fp16", "torch")


def test_models_are_those_of_the_recipes():
    from training.configs import read_recipe, recipe_names

    assert model_names() == recipe_names()
    for name in model_names():
        assert read_model(name) == read_recipe(name).model


@pytest.mark.parametrize(
    ("device", "module"), [("tensorrt", "tensorrt"), ("tensorrt-rtx", "tensorrt_rtx")]
)
def test_a_device_without_its_library_is_refused_before_anything_is_exported(
    monkeypatch, device, module
):
    monkeypatch.setitem(sys.modules, module, None)
    config = comparison.model_of_size("small")
    with pytest.raises(BackendError, match=f"device {device} needs {module}"):
        comparison.build("default", config, comparison.find_device(), device)
    monkeypatch.setattr(cuda, "has_cuda_provider", lambda: False)
    with pytest.raises(BackendError, match="device cuda needs onnxruntime with the CUDA provider"):
        comparison.build("default", config, comparison.find_device(), "cuda")


WITHOUT = ("av", "encodec", "open_clip", "diffusers", "tensorrt", "tensorrt_rtx")


def test_around_torch_neither_exporter_nor_video_reader_is_needed():
    """A machine that was lent for its GPU has torch, and not everything beside it."""
    code = f"import sys\nfor name in {WITHOUT}: sys.modules[name] = None\n"
    code += "import bench.gpu, bench.record, bench.sampling, bench.peers.torch_backbone\n"
    code += "print(bench.gpu.work_of_stages('vab-encodec', 'fp16', 'torch')['token_loop'].flops)\n"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert float(done.stdout) == pytest.approx(11e12, rel=0.1)
