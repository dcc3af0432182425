"""docs/API.md and docs/CLI.md are as the code is; their examples and EMBEDDING.md's run."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from media import make_video

import vab_rt
from export.reference import main, pages

DOCS = Path(__file__).parents[2] / "docs"
PYTHON = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
EXAMPLES = [
    code
    for page in ("EMBEDDING", "API")
    for code in PYTHON.findall((DOCS / f"{page}.md").read_text())
]


def test_the_pages_are_as_the_code_is(tmp_path):
    main(["--check"])
    for name in pages():
        (tmp_path / name).write_text("stale")
    with pytest.raises(SystemExit, match=r"API.md and CLI.md not as the code is; run python -m"):
        main(["--check", "--docs", str(tmp_path)])
    main(["--docs", str(tmp_path)])
    main(["--check", "--docs", str(tmp_path)])


def test_every_public_name_and_every_option_is_there():
    found = pages()
    for name in vab_rt.__all__:
        assert name == "__version__" or name in found["API.md"], name
    for flag in ("--seed", "--json", "--quiet, -q", "--force, -f", "--start TIME"):
        assert f"`{flag}" in found["CLI.md"], flag
    rows = [line for page in found.values() for line in page.splitlines() if line[:1] == "|"]
    assert len(rows) > 40 and all(len(re.split(r"(?<!\\)\|", row)) in (5, 6) for row in rows)


def test_the_examples_run(tmp_path):
    make_video(tmp_path / "in.mp4", num_frames=100)
    code = "\n".join(EXAMPLES)
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert len(EXAMPLES) == 7 and done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1].startswith("error: missing.mp4 does not exist, expected")
    sounds = {path.name for path in tmp_path.iterdir() if not path.name.endswith(".vab.json")}
    assert sounds == {"in.mp4", "out.wav", "part.mp4", "again.wav", "copy.mp4"}
