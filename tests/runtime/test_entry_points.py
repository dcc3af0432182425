"""Every console script and every `python -m` command answers --help."""

import importlib.util
import subprocess
import sys
from importlib.metadata import entry_points
from pathlib import Path

import pytest

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


def help_of(command: list[str], folder: Path) -> str:
    done = subprocess.run(
        [*command, "--help"], cwd=folder, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, f"{command} --help exits {done.returncode}: {done.stderr}"
    return done.stdout


def test_there_is_one_script():
    assert SCRIPTS == ["vab-rt"]


@pytest.mark.parametrize("subcommand", [[], *SUBCOMMANDS], ids=" ".join)
def test_script_answers_help(subcommand, tmp_path):
    script = Path(sys.executable).parent / "vab-rt"
    assert "Usage" in help_of([str(script), *subcommand], tmp_path)


@needs_checkout
def test_commands_are_found():
    found = set(commands_of_the_checkout())
    expected = {"bench", "export.build_engines", "training.foleyworld", "recipes.train"}
    assert expected <= found


@needs_checkout
@pytest.mark.parametrize("module", list(commands_of_the_checkout()))
def test_module_answers_help(module):
    assert "usage" in help_of([sys.executable, "-m", module], ROOT).lower()
