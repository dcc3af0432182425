"""One tiny checkpoint for the tests of the exporter, and one bundle of it for the whole run."""

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory):
    from checkpoints import saved_checkpoint, tiny_config

    options = {"guidance": 5.0, "mask_temperature": 25.5}
    return saved_checkpoint(tmp_path_factory.mktemp("tiny"), tiny_config(), options=options)


@pytest.fixture(scope="session")
def bundle(checkpoint, tmp_path_factory) -> Path:
    """What the command makes of it, for processors and for GPUs; every process of a run reads the
    same, which the first one to need it has made."""
    from filelock import FileLock  # of torch

    from export.build_engines import main

    base = tmp_path_factory.getbasetemp()
    out = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "exported"
    with FileLock(f"{out}.lock"):
        if not out.exists():
            main([str(checkpoint.path), "--precision", "fp32,fp16,bf16", "--out", str(out)])
    return out
