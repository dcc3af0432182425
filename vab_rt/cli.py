"""The command line: thin over the API, and the only file that prints or exits."""

import json
import logging
import re
import sys
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import typer

from vab_rt.config import GenerateOptions
from vab_rt.errors import MediaWarning, VabError, is_out_of_memory
from vab_rt.signals import end_if_told, unwound_by_signals
from vab_rt.streams import harmless, tolerant_streams

if TYPE_CHECKING:  # imported where they are used, so that --help is quick
    from vab_rt.bundle import Bundle
    from vab_rt.pipeline import Pipeline, Step
    from vab_rt.video import Video

_DEFAULTS = GenerateOptions()
_MODEL_HELP = "Folder of a bundle, name of a shipped model, or hf:ORG/NAME@REVISION on a hub."
_OFFLINE_HELP = "Of a hub, only what was fetched before."
_SHIPPED = "the shipped one"
_OWN = "the model's own"

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def main() -> None:
    """The entry point: exit codes 0, 1 (an error, one line), 2 (usage), 130 (interrupted), 129 and
    143 (hung up, terminated)."""
    warnings.showwarning = _print_warning
    warnings.simplefilter("always", MediaWarning)
    with tolerant_streams() as stdout, unwound_by_signals():
        status = _run()
        stdout.flush()
        # A reader that has left, as `| head` does, wants no more; what it was told is no failure.
        if stdout.error is not None and not isinstance(stdout.error, BrokenPipeError):
            _print_error(
                f"error: standard output cannot be written ({stdout.error.strerror}), expected "
                "room for it; the command is finished, but for what it prints: send that elsewhere"
            )
            status = status or 1
    sys.exit(status)


def _run() -> int | str | None:
    """The exit status of the command, whose errors are printed."""
    try:
        app()
    except SystemExit as stop:
        return stop.code
    except KeyboardInterrupt:
        return 130
    except VabError as error:
        _print_error(f"error: {error}")
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        _print_error(
            "error: memory ran out, expected about 400 MB for the default model; close other "
            "programs, or raise the limit that ulimit -v shows"
        )
    return 1


def _tell_version(is_asked: bool) -> None:
    if is_asked:
        import vab_rt

        _print(f"vab-rt {vab_rt.__version__}")
        raise typer.Exit


@app.callback()
def vab_rt_command(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_tell_version, is_eager=True, help="Show the version."),
    ] = False,
) -> None:
    """Sound for silent video, on your own machine."""


@app.command()
def generate(
    video: Annotated[Path, typer.Argument(metavar="IN", help="The silent video.", readable=False)],
    out: Annotated[
        Path,
        typer.Argument(
            metavar="OUT",
            help="wav, flac, mp3, m4a or ogg; or mp4, mov, mkv or webm, which get a copy of the "
            "video stream beside the sound.",
            readable=False,  # ours to check, with an error that says more
        ),
    ],
    model: Annotated[
        str | None,
        typer.Option(metavar="NAME|DIR|hf:NAME", help=_MODEL_HELP, show_default=_SHIPPED),
    ] = None,
    offline: Annotated[bool, typer.Option("--offline", help=_OFFLINE_HELP)] = False,
    seed: Annotated[
        int, typer.Option(help="The same seed and video give the same sound.")
    ] = _DEFAULTS.seed,
    steps: Annotated[
        int | None, typer.Option(help="Decoding steps: more is slower.", show_default=_OWN)
    ] = _DEFAULTS.steps,
    fine_steps: Annotated[
        int | None,
        typer.Option(help="Steps of a coarse-to-fine system's second stage.", show_default=_OWN),
    ] = _DEFAULTS.fine_steps,
    guidance: Annotated[
        float | None,
        typer.Option(help="How closely to follow what is seen; 1 is off.", show_default=_OWN),
    ] = _DEFAULTS.guidance,
    mask_temperature: Annotated[
        float | None,
        typer.Option(help="Variety in the order of decoding.", show_default=_OWN),
    ] = _DEFAULTS.mask_temperature,
    temperature: Annotated[
        float | None, typer.Option(help="Variety of the sound.", show_default=_OWN)
    ] = _DEFAULTS.temperature,
    top_k: Annotated[
        int | None,
        typer.Option(help="Candidates for each token; 0 keeps all.", show_default=_OWN),
    ] = _DEFAULTS.top_k,
    kind: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help="What makes the sound, whatever is seen; as often as wanted. vab-rt kinds lists "
            "them.",
            show_default="what is seen",
        ),
    ] = None,
    library: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER",
            help="Recordings of your own: those that fit are played, in time with what is seen.",
            show_default="none",
        ),
    ] = None,
    library_strength: Annotated[
        float, typer.Option(metavar="0..1", help="How much of them is kept.")
    ] = _DEFAULTS.library_strength,
    start: Annotated[
        float, typer.Option(metavar="S", help="Where to begin in the video, in seconds.")
    ] = 0.0,
    duration: Annotated[
        float | None,
        typer.Option(metavar="S", help="How many seconds.", show_default="to the end"),
    ] = None,
    device: Annotated[
        str,
        typer.Option(
            help="auto, cpu, cuda, tensorrt or tensorrt-rtx (cuda:1: the second GPU); "
            "never another than asked for."
        ),
    ] = "auto",
    as_json: Annotated[
        bool, typer.Option("--json", help="The last line of output is one JSON object.")
    ] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Errors and warnings only.")] = False,
    force: Annotated[bool, typer.Option("--force", "-f", help="Replace OUT if it exists.")] = False,
) -> None:
    """Put sound on a silent video."""
    begin = time.perf_counter()
    options = GenerateOptions(
        seed=seed,
        steps=steps,
        fine_steps=fine_steps,
        guidance=guidance,
        mask_temperature=mask_temperature,
        temperature=temperature,
        top_k=top_k,
        kinds=tuple(kind or ()),
        library=None if library is None else str(library),
        library_strength=library_strength,
    )
    _tell_progress(logging.WARNING if quiet or as_json else logging.INFO)
    from vab_rt.video import Video

    part = Video(video, start, duration)

    def load() -> "Pipeline":
        from vab_rt.pipeline import load

        return load(model, device, offline=offline)

    report = _generate(part, out, load, options, quiet=quiet or as_json, force=force)
    report["timings_s"]["total"] = time.perf_counter() - begin
    if as_json:
        _print(json.dumps(report))
    elif not quiet:
        total_s = report["timings_s"]["total"]
        device = report["device"]
        for recording in report["library"]:
            license = recording["license_file"]
            _print(f"played: {recording['file']}" + (f" (see {license})" if license else ""))
        if report["kinds"]:
            _print("seen: " + ", ".join(f"{kind} {p:.0%}" for kind, p in _likeliest(report)))
        _print(f"{out}: {report['duration_s']:.2f} s of sound in {total_s:.1f} s on {device}")


def _generate(
    video: "Video",
    out: Path,
    load: "Callable[[], Pipeline]",
    options: GenerateOptions,
    *,
    quiet: bool,
    force: bool,
) -> dict[str, Any]:
    """Streams from the video to the file; returns what `--json` tells, but for the total time."""
    from vab_rt.audio import AudioWriter, plan_output

    plan = plan_output(out, video=video, force=force)
    pipeline = load()
    write_s = 0.0
    timings_s: dict[str, float] = {}
    seen: Counter[str] = Counter()
    with AudioWriter(plan, pipeline.config.sample_rate_hz) as writer:
        for step in _with_progress(pipeline.generate_steps(video, options), quiet=quiet):
            end_if_told()
            timings_s = step.timings_s
            if step.audio is not None:
                seen.update({kind: p * len(step.audio) for kind, p in step.kinds.items()})
                before = time.perf_counter()
                writer.write(step.audio)
                write_s += time.perf_counter() - before
        before = time.perf_counter()
    write_s += time.perf_counter() - before
    return {
        "output": _readable(out),
        "duration_s": writer.num_samples / writer.sample_rate_hz,
        "sample_rate_hz": writer.sample_rate_hz,
        "model": pipeline.config.name,
        "device": pipeline.device,
        "seed": options.seed,
        "library": [] if options.library is None else pipeline.library(options.library).report(),
        "kinds": {kind: p / seen.total() for kind, p in seen.most_common()},
        "timings_s": {"load": pipeline.load_s, **timings_s, "write": write_s},
    }


def _likeliest(report: dict[str, Any]) -> list[tuple[str, float]]:
    """The kinds that a line has room for: three, without those that are hardly there."""
    return [(kind, p) for kind, p in list(report["kinds"].items())[:3] if p >= 0.05]


def _with_progress(steps: "Iterator[Step]", *, quiet: bool) -> "Iterator[Step]":
    """The same steps; on a terminal a bar shows how far they are."""
    if quiet or not sys.stderr.isatty():
        yield from steps
        return
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("reading", total=None)
        for step in steps:
            num_windows = step.num_windows
            total = None if num_windows is None else num_windows * step.num_steps
            done = step.window * step.num_steps + step.step + 1
            progress.update(task, description="sound", completed=done, total=total)
            yield step


@app.command()
def kinds(
    model: Annotated[str | None, typer.Argument(help=_MODEL_HELP, show_default=_SHIPPED)] = None,
    offline: Annotated[bool, typer.Option("--offline", help=_OFFLINE_HELP)] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False,
) -> None:
    """List what a model has names for: those that --kind takes, one a line."""
    from vab_rt.hub import open_model

    names = open_model(model, offline=offline).config.kind_names
    if as_json:
        _print(json.dumps({"kinds": names}))
    for name in () if as_json else names:
        _print(name)


@app.command()
def info(
    model: Annotated[str | None, typer.Argument(help=_MODEL_HELP, show_default=_SHIPPED)] = None,
    offline: Annotated[bool, typer.Option("--offline", help=_OFFLINE_HELP)] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False,
) -> None:
    """Show what a model is: rates, graphs, sizes, license, provenance, card; check its files."""
    from vab_rt.card import read_card
    from vab_rt.hub import open_model

    _tell_progress(logging.WARNING if as_json else logging.INFO)
    bundle = open_model(model, offline=offline)
    bundle.verify()
    card = read_card(bundle)
    if as_json:
        content = {"folder": _readable(bundle.folder), **msgspec.to_builtins(bundle.manifest)}
        _print(json.dumps(content | {"card": card}))
        return
    for name, value in _facts(bundle):
        _print(harmless(f"{name:<14}  {value}"))
    if card is not None:
        _print(f"\n{card}")


def _facts(bundle: "Bundle") -> Iterator[tuple[str, str]]:
    from vab_rt.card import facts_of

    manifest, c = bundle.manifest, bundle.config
    size = sum(entry.size_bytes for entry in manifest.files.values())
    yield "model", f"{c.name} ({manifest.precision}, {size / 1e6:.1f} MB, files verified)"
    yield "folder", str(bundle.folder)
    yield from facts_of(manifest)
    for name, graph in manifest.graphs.items():
        size = manifest.files[graph.file].size_bytes
        inputs = ", ".join(f"{t.name} {t.dtype} {_shape(t.shape)}" for t in graph.contract.inputs)
        outputs = ", ".join(f"{t.name} {t.dtype} {_shape(t.shape)}" for t in graph.contract.outputs)
        yield name, f"{inputs} -> {outputs} ({graph.file}, {size / 1e6:.1f} MB)"
    yield "license", manifest.license
    for name, value in manifest.provenance.items():
        yield name, value


def _shape(shape: tuple[int | str, ...]) -> str:
    return f"[{', '.join(map(str, shape))}]"


@app.command()
def doctor() -> None:
    """Show what works on this machine, and what to install for more."""
    from vab_rt.doctor import examine

    findings = examine()
    for finding in findings:
        mark = "ok" if finding.is_good else "MISSING" if finding.is_needed else "note"
        _print(f"{mark:<8} {finding.subject:<19} {finding.found}")
        if finding.advice:
            _print(f"{'':<8} {'':<19} -> {finding.advice}")
    if any(finding.is_needed and not finding.is_good for finding in findings):
        raise typer.Exit(1)


def _print(line: str) -> None:
    """Shows a name that the terminal cannot show with replacement characters."""
    encoding = sys.stdout.encoding or "utf-8"
    print(_readable(line).encode(encoding, "replace").decode(encoding))


def _readable(name: str | Path) -> str:
    """A name as text: bytes in it that are no characters become U+FFFD."""
    return re.sub("[\ud800-\udfff]", "\ufffd", str(name))


class _ErrorLines(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        begin = "warning: " if record.levelno >= logging.WARNING else ""
        _print_error(begin + record.getMessage())


def _tell_progress(level: int) -> None:
    """What the library logs, such as that it builds an engine, goes to stderr."""
    log = logging.getLogger("vab_rt")
    log.setLevel(level)
    log.handlers = [_ErrorLines()]


def _print_error(line: str) -> None:
    print(harmless(" ".join(line.splitlines())), file=sys.stderr)


def _print_warning(message: Warning | str, *details: Any, **more: Any) -> None:
    _print_error(f"warning: {message}")


if __name__ == "__main__":
    main()
