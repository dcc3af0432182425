"""Fixtures of the tests that need a GPU."""

import pytest

from vab_rt.engines.gpu import Gpu
from vab_rt.errors import BackendError


@pytest.fixture(scope="module")
def gpu():
    try:
        return Gpu()
    except BackendError as error:
        pytest.skip(f"needs a GPU: {error}")
