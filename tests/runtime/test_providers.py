"""Devices through onnxruntime's execution providers: what onnxruntime is asked for, what is refused
and what is told, with a session that records; and OpenVINO, which runs where it is installed."""

import platform
import sys
from collections import Counter
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import onnxruntime
import pytest
from tiny_bundle import tiny_config

import vab_rt
from vab_rt.bundle import open_bundle
from vab_rt.doctor import examine
from vab_rt.engines import open_engines, providers
from vab_rt.engines.providers import PROVIDERS, Target, tell_placement, what_is_missing
from vab_rt.errors import BackendError

MACHINES = {"Linux": "x86_64", "Windows": "AMD64", "Darwin": "arm64"}
CPU, SESSION = "CPUExecutionProvider", onnxruntime.InferenceSession


class RecordingSession(SESSION):
    """A session on the CPU that says it is on what was asked for, but for some operators."""

    asked, left = [], ()

    def __init__(self, graph, options, *, providers, enable_fallback):
        RecordingSession.asked.append((providers[0], enable_fallback))
        super().__init__(graph, options, providers=[CPU], enable_fallback=enable_fallback)
        self._asked = providers[0][0] if isinstance(providers[0], tuple) else CPU

    def get_provider_graph_assignment_info(self):
        for part in super().get_provider_graph_assignment_info():
            for node in part.get_nodes():
                is_left = node.op_type in self.left or "all" in self.left
                name = CPU if is_left else self._asked
                yield SimpleNamespace(ep_name=name, get_nodes=lambda node=node: [node])


@pytest.fixture
def machine(monkeypatch):
    """Makes this one a machine of that system with onnxruntime's providers and without a plugin."""

    def become(system, *names):
        monkeypatch.setattr(platform, "system", lambda: system)
        monkeypatch.setattr(platform, "machine", lambda: MACHINES[system])
        monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: [*names, CPU])
        monkeypatch.setattr(onnxruntime, "InferenceSession", RecordingSession)
        monkeypatch.setattr(RecordingSession, "asked", [])
        monkeypatch.setitem(sys.modules, "onnxruntime_ep_openvino", None)
        monkeypatch.setitem(PROVIDERS, "migraphx", replace(PROVIDERS["migraphx"], driver="/"))

    return become


OPENVINO = '{"CPU": {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": "1"}}'


@pytest.mark.parametrize(
    ("device", "system", "settings"),
    [
        ("coreml", "Darwin", {"ModelFormat": "MLProgram"}),
        ("directml", "Windows", {"device_id": "0"}),
        ("directml:1", "Windows", {"device_id": "1"}),
        ("migraphx:2", "Linux", {"device_id": "2"}),
        ("openvino", "Linux", {"load_config": OPENVINO, "device_type": "CPU"}),  # the older wheel
    ],
)
def test_what_onnxruntime_is_asked_for(tiny_bundle, machine, caplog, device, system, settings):
    name = PROVIDERS[device.partition(":")[0]].name
    machine(system, name)
    bundle = open_bundle(tiny_bundle)
    engines = open_engines(bundle, device, threads=1)
    assert engines.device == device and caplog.text == ""
    assert RecordingSession.asked == [((name, settings), 0)] * len(bundle.needed_graphs)
    tokens = np.arange(2 * 200, dtype=np.int32).reshape(2, 2, 100) % tiny_config().codebook_size
    on_cpu = open_engines(bundle, "cpu", threads=1)["codec_decoder"](tokens=tokens)
    np.testing.assert_array_equal(engines["codec_decoder"](tokens=tokens), on_cpu)
    assert engines.graphs["codec_decoder"]._engine._session.get_inputs()[0].shape[0] == 1


@pytest.mark.parametrize("system", MACHINES)
def test_a_provider_that_is_missing_is_never_replaced(tiny_bundle, machine, system):
    machine(system)
    findings = {one.subject: one for one in examine()}
    for device, provider in PROVIDERS.items():
        is_of_it = any(name.startswith(system) for name in provider.systems)
        remedy = provider.install if is_of_it else "this is .*; use --device cpu"
        needs = f"device {device} needs {provider.name}, .*{remedy}$"
        with pytest.raises(BackendError, match=needs):
            open_engines(open_bundle(tiny_bundle), device)
        finding = findings[f"device {device}"]
        assert not (finding.is_good or finding.is_needed)
        assert finding.advice == (provider.install if is_of_it else "")
    assert {name for name, *_ in RecordingSession.asked} <= {CPU}  # which the doctor times


def test_without_a_gpu_of_amd_there_is_nothing_to_install(tiny_bundle, machine, monkeypatch):
    machine("Linux")
    monkeypatch.setitem(PROVIDERS, "migraphx", replace(PROVIDERS["migraphx"], driver="/dev/no-kfd"))
    with pytest.raises(BackendError, match="there is no /dev/no-kfd, the .*; use --device cpu"):
        open_engines(open_bundle(tiny_bundle), "migraphx")


def test_an_onnxruntime_that_does_not_tell_the_placement(tiny_bundle, machine, monkeypatch):
    machine("Darwin", PROVIDERS["coreml"].name)
    monkeypatch.setattr(onnxruntime, "InferenceSession", object)
    with pytest.raises(BackendError, match="does not tell what a provider takes; use --device"):
        open_engines(open_bundle(tiny_bundle), "coreml")


def test_what_a_provider_leaves_to_the_cpu_is_told(tiny_bundle, machine, caplog, monkeypatch):
    machine("Darwin", PROVIDERS["coreml"].name)
    monkeypatch.setattr(RecordingSession, "left", ("Gather", "Tanh"))
    open_engines(open_bundle(tiny_bundle), "coreml", threads=1)
    [told] = caplog.messages
    assert told.startswith("device coreml leaves to the CPU: 3 of 11 nodes of backbone (Gather, T")
    assert "2 of 4 nodes of codec_decoder (Gather, Tanh)" in told and "visual" not in told
    monkeypatch.setattr(RecordingSession, "left", ("all",))
    with pytest.raises(BackendError, match=r"device coreml leaves .*; use --device cpu"):
        open_engines(open_bundle(tiny_bundle), "coreml", threads=1)


def test_a_device_that_fails_is_no_fault_of_the_bundle(tiny_bundle, machine, monkeypatch):
    machine("Windows", PROVIDERS["directml"].name)

    def refuse(session, graph, options, **asked):
        raise RuntimeError("no adapter 7\nat line 5")

    monkeypatch.setattr(RecordingSession, "__init__", refuse)
    with pytest.raises(BackendError, match=r"on directml:7 \(no adapter 7\), .*--device cpu$"):
        open_engines(open_bundle(tiny_bundle), "directml:7", threads=1)


def test_a_plugin_without_a_device_of_its_own(tiny_bundle, machine, monkeypatch):
    """OpenVINO on a processor of AMD."""
    machine("Linux")
    monkeypatch.setattr(providers, "_is_installed", lambda plugin: plugin is not None)
    monkeypatch.setattr(providers, "_register", lambda plugin: None)
    monkeypatch.setattr(onnxruntime, "get_ep_devices", list)
    with pytest.raises(BackendError, match="finds no device here .*; use --device cpu"):
        open_engines(open_bundle(tiny_bundle), "openvino")
    [finding] = [one for one in examine() if one.subject == "device openvino"]
    assert not finding.is_good and "finds no device here" in finding.found


@pytest.fixture
def openvino():
    found, install = what_is_missing("openvino")
    if found:
        pytest.skip(f"{found}; {install}")


@pytest.mark.usefixtures("openvino")
def test_openvino_makes_the_sound_of_the_cpu(videos, caplog):
    """Every node of the default model, its Attention too, is OpenVINO's."""
    wishes = {"seed": 7, "steps": 3}
    pipeline = vab_rt.load(device="openvino", threads=1)
    assert (pipeline.device, caplog.text) == ("openvino", "")
    ours = vab_rt.load(device="cpu", threads=1).generate(videos(25), **wishes)
    theirs = pipeline.generate(videos(25), **wishes)
    np.testing.assert_allclose(theirs.samples, ours.samples, atol=1e-4)
    assert np.abs(ours.samples).max() > 0.01


@pytest.mark.usefixtures("openvino")
def test_a_part_that_openvino_does_not_find(tiny_bundle):
    with pytest.raises(BackendError, match=r"device openvino:abacus is not there: .*cpu, expected"):
        open_engines(open_bundle(tiny_bundle), "openvino:abacus")


def test_a_provider_that_takes_all_is_not_talked_about(caplog):
    all_of_it = {"backbone": Counter({("MineExecutionProvider", "MatMul"): 3})}
    tell_placement(Target("mine", "MineExecutionProvider"), all_of_it)
    assert caplog.text == ""
