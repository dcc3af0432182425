"""The command line: thin over the API; only this package prints or exits."""

import json
import os
import sys
import warnings
from collections.abc import Callable
from importlib import import_module
from typing import Annotated

import typer

from vab_rt.cli.console import print_error, print_line, print_warning
from vab_rt.errors import MediaWarning, VabError, is_out_of_memory
from vab_rt.signals import unwound_by_signals
from vab_rt.streams import tolerant_streams

_HOMES = {
    "generate": "generate",
    "generate-all": "generate_all",
    "regenerate": "regenerate",
    "search": "search",
    "timeline": "timeline",
    "kdenlive": "kdenlive",
    "serve": "serve",
    "kinds": "models",
    "info": "models",
    "doctor": "models",
}


def app_of(command: str = "") -> typer.Typer:
    """One command, or all where there is none of that name: each takes time to import."""
    app = typer.Typer(
        add_completion=False,
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    app.callback()(vab_rt_command)
    for name in [command] if command in _HOMES else _HOMES:
        home = import_module(f"{__name__}.{_HOMES[name]}")
        app.command()(getattr(home, name.replace("-", "_")))
    return app


def _asked() -> None:
    app_of("".join(sys.argv[1:2]))()


def main(app: Callable[[], object] = _asked) -> None:
    """The entry point: exit codes 0, 1 (an error, one line), 2 (usage), 130 (interrupted), 129 and
    143 (hung up, terminated)."""
    # NumPy's own threads would spin for 0.05 s once it is imported, and hardly work here.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    warnings.showwarning = print_warning
    warnings.simplefilter("always", MediaWarning)
    with tolerant_streams() as stdout, unwound_by_signals():
        status = _run(app)
        stdout.flush()
        # A reader that has left, as `| head` does, wants no more; what it was told is no failure.
        if stdout.error is not None and not isinstance(stdout.error, BrokenPipeError):
            print_error(
                f"error: standard output cannot be written ({stdout.error.strerror}), expected "
                "room for it; the command is finished, but for what it prints: send that elsewhere"
            )
            status = status or 1
    sys.exit(status)


def _run(app: Callable[[], object]) -> int | str | None:
    """The exit status of the command, whose errors are printed."""
    try:
        app()
    except SystemExit as stop:
        # By name: the class is of click, which newer typers have inside themselves.
        message = getattr(stop.__context__, "format_message", None)
        if message is not None:  # typer has printed it
            _tell_programs("UsageError", message())
            for word in sys.argv[1:]:
                if word.startswith("-") and os.path.exists(word):
                    print_error(f"{word} is a file here, and reads as an option: say ./{word}")
        return stop.code
    except KeyboardInterrupt:
        return 130
    except VabError as error:
        told = type(error).__name__, str(error)
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        lacking = (
            "memory ran out, expected about 400 MB for the default model; close other programs, or "
            "raise the limit that ulimit -v shows"
        )
        told = "MemoryError", lacking
    else:
        return None
    _tell(*told)  # once what the error held is free: telling takes memory, too
    return 1


def _tell(kind: str, error: str) -> None:
    """One line; and one JSON object for programs that asked for that."""
    print_error(f"error: {error}")
    _tell_programs(kind, error)


def _tell_programs(kind: str, error: str) -> None:
    if "--json" in sys.argv:
        print_line(json.dumps({"error": error, "kind": kind}))


def _tell_version(is_asked: bool) -> None:
    if is_asked:
        import vab_rt

        print_line(f"vab-rt {vab_rt.__version__}")
        raise typer.Exit


def vab_rt_command(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_tell_version, is_eager=True, help="Show the version."),
    ] = False,
) -> None:
    """Sound for silent video, on your own machine."""
