"""The command line as users meet it: flags, exit codes, output, entry points."""

import json
import os
import pty
import re
import subprocess
import sys
import warnings
from importlib.metadata import version

import msgspec
import pytest
from command import Result, command
from media import count_opens, damage, make_video, packets_of, samples_of

from vab_rt.cli import main
from vab_rt.errors import OptionError
from vab_rt.options import GenerateOptions
from vab_rt.video import Video

COMMANDS = ("generate", "info", "doctor")
JSON_KEYS = {
    "output",
    "duration_s",
    "sample_rate_hz",
    "gain_db",
    "model",
    "device",
    "precision",
    "seed",
    "library",
    "kinds",
    "timings_s",
}
TIMINGS = {"load", "decode_video", "visual", "tokens", "codec", "write", "total"}


def test_without_arguments_help_is_shown(run):
    result = run()
    assert result.code == 2
    assert all(name in result.out + result.err for name in COMMANDS)


def test_the_version_is_told(run):
    assert run("--version") == Result(0, f"vab-rt {version('vab-rt')}\n", "")


UNUSED = {"torch", "pydantic", "rich", "asyncio", "ssl", "PIL"}


@pytest.mark.everywhere
@pytest.mark.parametrize(
    ("words", "unused", "code"),
    [
        (("generate", "--help"), {"numpy", "av", "onnxruntime", "torch"}, 0),
        (("--version",), {"numpy", "av", "onnxruntime", "torch", "pydantic"}, 0),
        (("generate", "IN", "OUT", "--steps", "0"), {"numpy", "av", "onnxruntime"}, 1),
        (
            ("generate", "IN", "OUT", "--quiet", "--model", "MODEL"),
            UNUSED | {"vab_rt.picture", "vab_rt.library", "vab_rt.search", "vab_rt.editing"},
            0,
        ),
    ],
)
def test_commands_import_nothing_that_they_do_not_use(
    words, unused, code, tiny_bundle, videos, tmp_path
):
    """typer 0.29 would import pydantic for every command."""
    given = {"IN": videos(30), "OUT": tmp_path / "out.wav", "MODEL": tiny_bundle}
    script = (
        f"import sys; sys.argv = {['vab-rt', *(str(given.get(word, word)) for word in words)]}\n"
        "from vab_rt.cli import main\n"
        f"try: main()\nfinally: print(sorted({unused} & set(sys.modules)))"
    )
    words = [sys.executable, "-c", script]
    result = subprocess.run(words, capture_output=True, text=True, check=False)
    assert result.returncode == code and result.stdout.endswith("[]\n"), result


def test_a_file_that_reads_as_an_option_is_told(run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "-in.mp4").touch()
    found = run("generate", "-in.mp4", "out.wav"), run("generate", "-out.mp4", "out.wav")
    told = "-in.mp4 is a file here, and reads as an option: say ./-in.mp4"
    assert [(one.code, told in one.err) for one in found] == [(2, True), (2, False)]


def test_defaults_are_those_of_the_options(run):
    text = " ".join(re.sub(r"[│\n]", " ", run("generate", "--help").out).split())
    assert "hf:ORG/NAME@REVISION on a hub" in text  # rich takes brackets for its own
    part = {"start_s": Video("").start_s, "duration_s": Video("").duration_s}
    fields = msgspec.structs.asdict(GenerateOptions()) | part
    assert fields.pop("kinds") == () and "--kind NAME" in text
    assert fields.pop("library") is None and "--library FOLDER" in text
    for field, value in fields.items():
        flag = "--" + field.removesuffix("_s").replace("_", "-")
        own = "(to the end)" if field == "duration_s" else "(the model's own)"
        shown = own if value is None else str(value)
        assert re.search(rf"{flag} [^[]*\[default: {re.escape(shown)}\]", text), (flag, text)


def test_generate_writes_the_sound_of_the_video(run, tiny_bundle, videos, tmp_path):
    out = tmp_path / "out.wav"
    result = run("generate", videos(47), out, "--model", tiny_bundle, "--device", "cpu")
    assert (result.code, result.err) == (0, "")
    line = rf"{re.escape(str(out))}: 1\.88 s of sound in [\d.]+ s on cpu, seed 0\n"
    assert re.fullmatch(line, result.out), result.out
    samples, rate, _ = samples_of(out)
    assert (len(samples), rate) == (round(47 / 25 * 16_000), 16_000)
    assert {p.name for p in tmp_path.iterdir()} == {"out.wav", "out.wav.vab.json"}


@pytest.mark.parametrize("suffix", ["wav", "flac", "mp3", "m4a", "ogg", "mp4", "mov", "mkv"])
def test_every_output_format(run, tiny_bundle, videos, tmp_path, suffix):
    out = tmp_path / f"out.{suffix}"
    assert run("generate", videos(60), out, "--model", tiny_bundle).code == 0
    samples, rate, _ = samples_of(out)
    assert len(samples) / rate == pytest.approx(2.4, abs=0.07)
    if suffix in ("mp4", "mov", "mkv"):
        assert packets_of(out) == packets_of(videos(60))


@pytest.mark.parametrize(
    ("name", "selection", "most"),
    [
        ("out.wav", (), 1),
        ("out.wav", ("--start", 0.7), 1),
        ("out.mp4", (), 2),
        ("out.mp4", ("--start", 0.7, "--duration", 1), 2),
        ("out.mkv", ("--start", 0.48), 2),
    ],
)
def test_the_input_is_opened_at_most_twice(
    run, tiny_bundle, videos, tmp_path, monkeypatch, name, selection, most
):
    opened = count_opens(monkeypatch)
    arguments = (videos(60), tmp_path / name, "--model", tiny_bundle, *selection)
    assert run("generate", *arguments).code == 0
    assert opened.count(f"file:{videos(60)}") == most


def test_json_is_the_last_line(run, tiny_bundle, videos, tmp_path):
    out = tmp_path / "out.wav"
    wishes = ("--model", tiny_bundle, "--json", "--seed", 7, "--device", "cpu")
    result = run("generate", videos(47), out, *wishes)
    assert (result.code, result.err) == (0, "")
    report = json.loads(result.out.splitlines()[-1])
    assert set(report) == JSON_KEYS
    assert set(report["timings_s"]) == TIMINGS
    timings = report.pop("timings_s")
    assert report == {
        "output": str(out),
        "duration_s": 1.88,
        "sample_rate_hz": 16_000,
        "gain_db": 0.0,
        "model": "tiny",
        "device": "cpu",
        "precision": "fp32",
        "seed": 7,
        "library": [],
        "kinds": {},
    }
    assert all(seconds >= 0 for seconds in timings.values())
    load_s, total_s = timings.pop("load"), timings.pop("total")
    assert 0 < load_s < total_s  # beside the first of the others
    assert sum(timings.values()) <= total_s * 1.01


def test_a_name_that_is_no_text_is_reported_as_far_as_it_is(tiny_bundle, videos, tmp_path):
    out = os.fsencode(tmp_path) + b"/\xff.wav"
    arguments = ("generate", videos(10), os.fsdecode(out), "--model", tiny_bundle, "--force")
    for more, encoding in ((["--json"], "utf-8"), ([], "utf-8"), ([], "ascii")):
        result = subprocess.run(
            command(*arguments, *more),
            capture_output=True,
            env=os.environ | {"PYTHONIOENCODING": encoding},
            check=False,
        )
        assert (result.returncode, result.stderr) == (0, b"")
        text = result.stdout.decode(encoding)
        if more:
            assert json.loads(text)["output"] == f"{tmp_path}/\ufffd.wav"
    assert os.path.exists(out)


def test_quiet_says_nothing(run, tiny_bundle, videos, tmp_path):
    out = tmp_path / "out.wav"
    assert run("generate", videos(10), out, "--model", tiny_bundle, "--quiet") == (0, "", "")
    assert out.exists()


@pytest.mark.parametrize(
    "flags",
    [
        ("--steps", "3"),
        ("--guidance", "1"),
        ("--mask-temperature", "0"),
        ("--temperature", "0.1"),
        ("--top-k", "2"),
        ("--seed", str(2**64 - 1)),
        ("--start", "0.4"),
        ("--duration", "1"),
    ],
)
def test_every_option_changes_the_sound(run, tiny_bundle, videos, tmp_path, flags):
    usual, changed = tmp_path / "usual.wav", tmp_path / "changed.wav"
    run("generate", videos(50), usual, "--model", tiny_bundle)
    assert run("generate", videos(50), changed, "--model", tiny_bundle, *flags).code == 0
    assert usual.read_bytes() != changed.read_bytes()


def test_force_replaces(run, tiny_bundle, videos, tmp_path):
    out = tmp_path / "out.wav"
    out.write_bytes(b"before")
    assert run("generate", videos(10), out, "--model", tiny_bundle).code == 1
    assert out.read_bytes() == b"before"
    assert run("generate", videos(10), out, "--model", tiny_bundle, "--force").code == 0
    assert out.read_bytes()[:4] == b"RIFF"


@pytest.mark.parametrize("device", ["cuda", "tensorrt", "tensorrt-rtx", "toaster"])
def test_a_device_never_falls_back(run, tiny_bundle, videos, tmp_path, device, without_gpus):
    out = tmp_path / "out.wav"
    result = run("generate", videos(10), out, "--model", tiny_bundle, "--device", device)
    assert (result.code, result.out) == (1, "")
    assert device in result.err and result.err.count("\n") == 1
    remedy = "choose one" if device == "toaster" else "pip install"
    assert remedy in result.err
    assert not out.exists()


@pytest.mark.parametrize(
    "arguments",
    [
        ("generate",),
        ("generate", "in.mp4"),
        ("generate", "in.mp4", "out.wav", "more"),
        ("generate", "in.mp4", "out.wav", "--seed", "many"),
        ("generate", "in.mp4", "out.wav", "--start", "now"),
        ("generate", "in.mp4", "out.wav", "--volume", "11"),
        ("info", "a", "b"),
        ("doctor", "who"),
        ("sing",),
    ],
)
def test_wrong_usage_exits_with_2(run, arguments):
    result = run(*arguments)
    assert result.code == 2
    assert "Usage" in result.err
    assert result.out == ""
    result = run(*arguments, "--json")
    told = json.loads(result.out)
    assert (result.code, told.pop("kind"), [*told]) == (2, "UsageError", ["error"])
    assert told["error"] in " ".join(re.sub(r"[│\n]", " ", result.err).split())


def test_a_bar_on_a_terminal_and_none_in_a_pipe(tiny_bundle, videos, tmp_path):
    arguments = ("generate", videos(100), tmp_path / "out.wav", "--model", tiny_bundle, "--force")
    leader, follower = pty.openpty()
    environment = os.environ | {"TERM": "xterm", "COLUMNS": "80"}
    with subprocess.Popen(
        command(*arguments), stdout=subprocess.PIPE, stderr=follower, env=environment
    ) as process:
        os.close(follower)
        terminal = b""
        while chunk := _read(leader):
            terminal += chunk
        out = process.stdout.read()
    assert process.returncode == 0
    assert "━" in terminal.decode()
    assert b"\x1b" not in out and len(out.splitlines()) == 1
    piped = subprocess.run(command(*arguments), capture_output=True, check=True)
    assert piped.stderr == b""


def _read(terminal: int) -> bytes:
    try:
        return os.read(terminal, 4096)
    except OSError:  # Linux's way to say that the other side has closed
        return b""


def test_a_warning_is_one_line_and_no_failure(run, tiny_bundle, tmp_path):
    video = damage(make_video(tmp_path / "in.mp4"), [10, 11])
    result = run("generate", video, tmp_path / "out.wav", "--model", tiny_bundle)
    assert result.code == 0
    assert result.err.startswith("warning: ") and result.err.count("\n") == 1
    assert "is damaged: 2 of its packets" in result.err
    assert len(samples_of(tmp_path / "out.wav")[0]) == 32_000


def test_info_tells_what_a_model_is(run, tiny_bundle):
    result = run("info", tiny_bundle)
    assert (result.code, result.err) == (0, "")
    for fact in ("tiny (fp32", "files verified", "16000 Hz", "2 x 100 of 16", "hop 320"):
        assert fact in result.out
    assert re.search(r"backbone +tokens int32 \[B, 2, 100\], features float32", result.out)
    assert re.search(r"license +Apache-2.0", result.out)
    assert re.search(r"made_by +tests/tiny_bundle.py", result.out)


def test_info_as_json_is_the_manifest(run, tiny_bundle):
    result = run("info", tiny_bundle, "--json")
    content = json.loads(result.out)
    assert content.pop("folder") == str(tiny_bundle)
    assert content.pop("card") is None
    assert content == json.loads((tiny_bundle / "vab.json").read_text())


def test_info_finds_damage(run, bundle_copy):
    graph = bundle_copy / "codec_decoder.onnx"
    content = bytearray(graph.read_bytes())
    content[-1] ^= 1
    graph.write_bytes(bytes(content))
    result = run("info", bundle_copy)
    assert (result.code, result.out) == (1, "")
    assert re.fullmatch(r"error: .*has the sha256 .*, expected .*\n", result.err)


@pytest.mark.everywhere
def test_doctor_fits_one_screen(run):
    result = run("doctor")
    lines = result.out.splitlines()
    assert len(lines) <= 24
    subjects = ["vab-rt", "python", "onnxruntime", "sampling", "ffmpeg", "GPU driver"]
    subjects += ["device cuda", "device tensorrt", "device tensorrt-rtx", "engine cache"]
    subjects += [f"device {name}" for name in ("openvino", "coreml", "directml", "migraphx")]
    for subject in subjects:
        assert any(re.match(rf"(ok|note|MISSING) +{subject} ", line) for line in lines), subject
    assert "providers" in result.out and "CPU" in result.out
    assert re.search(r"sampling +(native|numpy)", result.out)
    assert result.err == ""


def test_doctor_fails_when_nothing_can_be_generated(run, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    result = run("doctor")
    assert result.code == 1
    assert re.search(r"MISSING +onnxruntime +cannot be imported", result.out)
    assert "-> pip install onnxruntime" in result.out


@pytest.mark.parametrize("error", [OptionError("a wrong rate"), PermissionError(13, "denied")])
def test_doctor_reports_whatever_is_wrong_with_the_model(run, monkeypatch, error):
    def broken() -> None:
        raise error

    monkeypatch.setattr("vab_rt.bundle.open_bundle", broken)
    result = run("doctor")
    assert (result.code, result.err) == (1, "")
    assert re.search(r"MISSING +default model +.*(a wrong rate|denied)", result.out)


def test_doctor_says_why_sampling_is_slow(run, monkeypatch):
    monkeypatch.delattr("vab_rt._sampling", raising=False)  # an earlier import leaves it there
    monkeypatch.setitem(sys.modules, "vab_rt._sampling", None)
    result = run("doctor")
    assert re.search(r"note +sampling +numpy", result.out)
    assert "install a C++ compiler" in result.out


def test_bugs_keep_their_traceback(run, monkeypatch, tiny_bundle, videos, tmp_path):
    def broken(*args: object, **more: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr("vab_rt.engines.open_engines", broken)
    monkeypatch.setattr(
        sys, "argv", ["vab-rt", "generate", str(videos(10)), str(tmp_path / "out.wav")]
    )
    with warnings.catch_warnings(), pytest.raises(ZeroDivisionError):
        main()
