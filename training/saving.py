"""What torch saves appears whole or not at all."""

from pathlib import Path
from typing import Any

import torch

from vab_rt.output import whole_file, writing


def save_whole(path: Path, content: dict[str, Any]) -> None:
    """torch.save beside `path`, which is replaced by it. Raises OutputError."""
    with whole_file(path, force=True) as beside, writing(path):
        try:
            torch.save(content, beside)
        except RuntimeError as error:  # of torch's zip writer, on a full disk
            raise OSError(str(error).partition("\n")[0]) from error
