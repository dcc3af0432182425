"""The README, and the pages on using and training, say nothing that does not work: every command
and every line of Python is tried.

What takes minutes is not run here but held to its own --help: the command exists and has every
option that a page gives it.
"""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from media import make_video
from module_help import helps_of

import vab_rt
from vab_rt.bundle import shipped_models

ROOT = Path(__file__).parents[2]
PAGES = "".join(
    (ROOT / name).read_text() for name in ("README.md", "docs/USING.md", "docs/TRAINING.md")
)
MAP = (ROOT / "docs/ARCHITECTURE.md").read_text()
NOT_RUN = {
    "pip install .": "`make demo` and `make test-wheel` install it",
    "pip install --editable '.[dev]'": "`make test` runs this line to make .venv",
}
needs_model = pytest.mark.skipif(
    "default" not in shipped_models(), reason="vab_rt/bundles/default is not there yet"
)


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", PAGES, re.MULTILINE | re.DOTALL)


def commands(program: str) -> list[str]:
    lines = (line for block in blocks("sh") for line in block.splitlines() if line.strip())
    found = (line for line in map(strip_comment, lines) if line.split()[0] == program)
    return list(dict.fromkeys(found))  # each once


def strip_comment(line: str) -> str:
    return line.partition(" #")[0].strip()


def run(command: list[str], folder: Path) -> str:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{shlex.join(command)} exits {done.returncode}: {done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with in.mp4 and, as if it had been exported, the model of the last example."""
    folder = tmp_path_factory.mktemp("readme")
    make_video(folder / "in.mp4", num_frames=100)  # 4 s
    for name in ("SOUNDS", "FILMS"):
        (folder / name).mkdir()
    sound = vab_rt.Audio(np.random.default_rng(0).normal(0, 0.1, 16_000).astype("f4"), 16_000)
    sound.save(folder / "SOUNDS" / "noise.wav")
    make_video(folder / "FILMS" / "short.mp4", num_frames=25)
    (folder / "runs/default").mkdir(parents=True)
    (folder / "runs/default/ckpt").symlink_to(ROOT / "vab_rt/bundles/default")
    return folder


def test_every_line_is_of_a_kind_that_is_tested():
    known = {line for program in ("vab-rt", "python", "pip") for line in commands(program)}
    lines = (line for block in blocks("sh") for line in block.splitlines() if line.strip())
    assert known == set(map(strip_comment, lines))
    assert set(commands("pip")) == set(NOT_RUN)


@needs_model
@pytest.mark.parametrize("line", commands("vab-rt"))
def test_vab_rt(line, folder):
    arguments = shlex.split(line)
    if arguments[1] == "generate":
        Path(folder, arguments[3]).unlink(missing_ok=True)
    run([str(Path(sys.executable).parent / "vab-rt"), *arguments[1:]], folder)
    if arguments[1] == "generate":
        assert Path(folder, arguments[3]).stat().st_size > 1000


def test_python_commands_have_every_option():
    """They train, export or measure for minutes; their own tests run them on small inputs."""
    options = {}
    for line in commands("python"):
        _, dash_m, module, *words = shlex.split(line)
        assert dash_m == "-m"
        with_subcommand = f"{module} {words[0]}" if words else module
        command = with_subcommand if with_subcommand in WITH_SUBCOMMAND else module
        options.setdefault(command, set()).update(w for w in words if w.startswith("--"))
    for command, text in helps_of(list(options)).items():
        for option in options[command]:
            assert re.search(rf"{option}\b", text), f"{command} has no option {option}"


WITH_SUBCOMMAND = {"bench generate", "training.foleyworld render"}


@needs_model
def test_python_lines(folder):
    (code,) = blocks("python")
    assert len([line for line in code.splitlines() if line.strip()]) <= 5
    Path(folder, "out.wav").unlink(missing_ok=True)
    run([sys.executable, "-c", code], folder)
    assert Path(folder, "out.wav").stat().st_size > 4 * 16_000 * 2


def test_recipes_of_the_examples_exist():
    names = re.findall(r"^python -m recipes\.train (\S+)", PAGES, re.MULTILINE)
    assert len(names) == 3
    assert all((ROOT / f"training/configs/{name}.toml").is_file() for name in names)


def test_files_of_the_map_exist():
    section = MAP.partition("## Files")[2]
    folder = ""
    for line in filter(None, section.splitlines()):
        indent, name = re.match(r"( +)(\S+)", line).groups()
        folder = name if len(indent) == 4 else folder
        path = ROOT / name if len(indent) == 4 else ROOT / folder / name
        if name != "bundles/":  # holds what training leaves
            assert path.exists(), f"the map names {path}"
    anywhere = {path.name for path in ROOT.glob("[!.]*/**/*.py")}
    named = set(re.findall(r"[a-z]\w*\.py\b", section))
    assert named <= anywhere, f"the map names {named - anywhere}"


def test_the_map_leaves_no_file_of_the_runtime_out():
    section = MAP.partition("## Files")[2]
    for path in (ROOT / "vab_rt").glob("[!_]*.py"):
        assert f"  {path.name} " in section, f"the map does not name {path.name}"


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md", *sorted(ROOT.glob("docs/*.md"))])
def test_links_lead_somewhere(page):
    path = ROOT / page
    for target in re.findall(r"\]\((?!https?:|hf:)([^)#]+)\)", path.read_text()):
        assert (path.parent / target).exists(), f"{page} links to {target}"


@pytest.mark.parametrize("target", sorted(set(re.findall(r"`make (\w+)`", PAGES))))
def test_make_targets_exist(target):
    run(["make", "--dry-run", target], ROOT)
