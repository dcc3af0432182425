"""Where hosts of one graph are, and what npm has installed for them."""

import os
from pathlib import Path

HOSTS = Path(__file__).parents[1] / "examples" / "hosts"


def node_modules(package: str) -> Path | None:
    """The folder that has it: NODE_MODULES, or the one beside the host of Node."""
    for folder in (os.environ.get("NODE_MODULES"), HOSTS / "node" / "node_modules"):
        if folder and (Path(folder) / package).is_dir():
            return Path(folder)
    return None
