"""Execution providers of onnxruntime beside those of the CPU and of CUDA: which there are, what
each is told, what is missing, and what it left to the CPU."""

import json
import logging
import platform
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from vab_rt.errors import BackendError, first_line

log = logging.getLogger(__name__)

CPU = "CPUExecutionProvider"
Placement = Counter[tuple[str, str]]
"""How many nodes are with which provider, of which operator."""


@dataclass(frozen=True)
class Provider:
    """One of onnxruntime's execution providers.

    systems: where there is one, as `platform` names them. package: what pip installs it with.
    settings: what it is told of the device ("": the first) and of threads. plugin: the module that
    registers it beside the plain onnxruntime; the other packages are an onnxruntime of their own,
    in the same folder. driver: a file without which there is nothing to run on.
    """

    name: str
    systems: tuple[str, ...]
    package: str
    settings: Callable[[str, int], dict[str, str]]
    plugin: str | None = None
    driver: str | None = None

    @property
    def install(self) -> str:
        """The plain onnxruntime goes first: pip would leave the files of both in one folder."""
        if self.plugin or self.package == "onnxruntime":
            return f"pip install {self.package}"
        return f"pip uninstall -y onnxruntime && pip install {self.package}"


def _openvino(part: str, threads: int) -> dict[str, str]:
    """float32 in the graph is meant: OpenVINO would take bfloat16 or float16 where it can."""
    hints = {"INFERENCE_PRECISION_HINT": "f32"}
    if part == "cpu":
        hints["INFERENCE_NUM_THREADS"] = str(threads)
    return {"load_config": json.dumps({part.upper(): hints})}


def _numbered(gpu: str, threads: int) -> dict[str, str]:
    return {"device_id": gpu or "0"}


PROVIDERS = {
    "openvino": Provider(
        "OpenVINOExecutionProvider",
        ("Linux x86_64", "Windows AMD64"),
        "onnxruntime-ep-openvino",
        _openvino,
        "onnxruntime_ep_openvino",
    ),
    "coreml": Provider(
        "CoreMLExecutionProvider",
        ("Darwin",),
        "onnxruntime",
        lambda part, threads: {"ModelFormat": "MLProgram"},
    ),
    "directml": Provider("DmlExecutionProvider", ("Windows",), "onnxruntime-directml", _numbered),
    "migraphx": Provider(
        "MIGraphXExecutionProvider",
        ("Linux x86_64",),
        "onnxruntime-migraphx",
        _numbered,
        driver="/dev/kfd",
    ),
}
"""By device, as users name it."""


@dataclass(frozen=True)
class Target:
    """What sessions run on. device: as users name it. plugged: onnxruntime's handle of the device
    where the provider came as a plugin."""

    device: str = "cpu"
    provider: str = CPU
    settings: Mapping[str, str] = field(default_factory=dict)
    plugged: Any = None


ON_CPU = Target()


def find_target(device: str, part: str, threads: int) -> Target:
    """Raises BackendError where the provider, or that part of it, is not there."""
    provider = PROVIDERS[device]
    found, install = what_is_missing(device)
    if found:
        advice = f"install it with: {install}" if install else "use --device cpu"
        raise BackendError(f"device {device} needs {provider.name}, and {found}; {advice}")
    label = f"{device}:{part}" if part else device
    if device != "openvino":
        return Target(label, provider.name, provider.settings(part, threads))
    part = part or "cpu"
    settings = provider.settings(part, threads)
    if not _is_installed(provider.plugin):  # the wheel that has it inside
        return Target(label, provider.name, settings | {"device_type": part.upper()})
    parts = plugged_in(provider)
    if part not in parts:
        raise BackendError(
            f"device {label} is not there: OpenVINO finds {', '.join(sorted(parts))}, expected "
            f"{part} among them; choose one that it finds, as in openvino:cpu"
        )
    return Target(label, provider.name, settings, parts[part])


def what_is_missing(device: str) -> tuple[str, str]:
    """What was found instead of a device's provider, and how to install it where that helps; two
    empty strings where it is installed. Raises BackendError for a plugin that does not load."""
    provider, here = PROVIDERS[device], f"{platform.system()} {platform.machine()}"
    if not here.startswith(provider.systems):
        found = f"it is of {' and '.join(provider.systems)} alone, this is {here}"
        return found.replace("Darwin", "macOS"), ""
    if provider.driver and not Path(provider.driver).exists():
        return f"there is no {provider.driver}, the driver of its GPUs", ""
    import onnxruntime as ort  # type: ignore[import-untyped]  # it ships no types

    if not hasattr(ort.InferenceSession, "get_provider_graph_assignment_info"):  # before 1.24
        return f"onnxruntime {ort.__version__} does not tell what a provider takes", ""
    if _is_installed(provider.plugin):
        if plugged_in(provider):
            return "", ""
        return (
            f"{provider.package} finds no device here that it runs on, such as an Intel processor",
            "",
        )
    available = ort.get_available_providers()
    if provider.name in available:
        return "", ""
    if provider.plugin:
        return f"{provider.package} is not installed", provider.install
    others = ", ".join(name.removesuffix("ExecutionProvider") for name in available)
    return f"onnxruntime {ort.__version__} has {others}", provider.install


def plugged_in(provider: Provider) -> dict[str, Any]:
    """The devices that a plugin finds, by its names for them, in small letters. Raises BackendError
    where it does not load."""
    import onnxruntime as ort

    def parts() -> dict[str, Any]:
        found = [one for one in ort.get_ep_devices() if one.ep_name == provider.name]
        return {one.ep_metadata.get("ov_device", "").lower(): one for one in found}

    assert provider.plugin is not None
    try:
        if not parts():  # also where the host has registered it
            _register(provider.plugin)
        return parts()
    except Exception as error:  # onnxruntime's own exceptions share no other base
        raise BackendError(
            f"{provider.package} does not load into onnxruntime {ort.__version__} "
            f"({first_line(error)}), expected it to; install it again: pip install "
            f"--force-reinstall --no-deps {provider.package}"
        ) from error


@cache
def _register(plugin: str) -> None:
    """Once in a process: onnxruntime refuses a second time."""
    import onnxruntime as ort

    ort.register_execution_provider_library(plugin, import_module(plugin).get_library_path())


def _is_installed(plugin: str | None) -> bool:
    return plugin is not None and find_spec(plugin) is not None


def tell_placement(target: Target, placements: Mapping[str, Placement]) -> None:
    """Logs, by graph, the nodes that are not with the target's provider. Raises BackendError where
    it has none."""
    left = []
    for graph, counts in placements.items():
        elsewhere = {kind: n for (name, kind), n in counts.items() if name != target.provider}
        if elsewhere:
            kinds = ", ".join(sorted(elsewhere))
            left.append(f"{sum(elsewhere.values())} of {counts.total()} nodes of {graph} ({kinds})")
    told = f"device {target.device} leaves to the CPU: {'; '.join(left)}"
    if all(name != target.provider for counts in placements.values() for name, _ in counts):
        raise BackendError(f"{told}; expected some of them on the device; use --device cpu")
    if left:
        log.warning("%s", told)
