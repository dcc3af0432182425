"""Every console script and every `python -m` command answers --help."""

import importlib.util
import subprocess
import sys
from importlib.metadata import entry_points
from pathlib import Path

import pytest
from module_help import helps_of

ROOT = Path(__file__).parents[2]
SCRIPTS = sorted(e.name for e in entry_points(group="console_scripts") if e.dist.name == "vab-rt")
SUBCOMMANDS = [["generate"], ["info"], ["doctor"]]
has_torch = importlib.util.find_spec("torch") is not None
needs_checkout = pytest.mark.skipif(
    not has_torch, reason="training, export and bench run from a checkout with PyTorch installed"
)


def commands_of_the_checkout():
    """Modules with a `__main__` block, and packages with a `__main__.py`."""
    for folder in ("bench", "export", "kernels", "recipes", "training"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            module = ".".join(path.relative_to(ROOT).with_suffix("").parts)
            if path.name == "__main__.py":
                yield module.removesuffix(".__main__")
            elif 'if __name__ == "__main__":' in path.read_text():
                yield module


def test_there_is_one_script():
    assert SCRIPTS == ["vab-rt"]


@pytest.mark.parametrize("subcommand", [[], *SUBCOMMANDS], ids=" ".join)
def test_script_answers_help(subcommand, tmp_path):
    command = [Path(sys.executable).parent / "vab-rt", *subcommand, "--help"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0 and "Usage" in done.stdout, done.stderr


@needs_checkout
def test_commands_are_found():
    found = set(commands_of_the_checkout())
    expected = {"bench", "export.build_engines", "training.foleyworld", "recipes.train"}
    assert expected <= found


@needs_checkout
def test_modules_answer_help():
    for module, text in helps_of(list(commands_of_the_checkout())).items():
        assert "usage" in text.lower(), module
