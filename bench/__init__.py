"""Figures of the runtime, and of its peers beside it."""

import vab_rt  # noqa: F401  # before any library that imports onnxruntime, whose telemetry it turns off
