"""vab-rt serve: sounds over HTTP."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vab_rt.cli.console import print_line, tell_progress
from vab_rt.cli.groups import Load, with_groups
from vab_rt.errors import not_installed
from vab_rt.options import number

if TYPE_CHECKING:
    from vab_rt.serve.talk import Model


@with_groups
def serve(
    host: Annotated[
        str, typer.Option(help="The address to listen on; other than this machine's wants a token.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes any that is free.")] = 8000,
    token: Annotated[
        str | None,
        typer.Option(
            envvar="VAB_RT_TOKEN",
            show_envvar=False,
            help="What requests must bring as Authorization: Bearer TOKEN; better in VAB_RT_TOKEN, "
            "which other users do not see.",
            show_default="none",
        ),
    ] = None,
    name: Annotated[
        list[str] | None,
        typer.Option(
            metavar="HOST",
            help="Another name that the server is reached by; as often as wanted.",
            show_default="none",
        ),
    ] = None,
    root: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            exists=True,
            file_okay=False,
            help="A folder whose videos may be asked for by path.",
            show_default="none",
        ),
    ] = None,
    queue: Annotated[int, typer.Option(min=1, help="Sounds that may wait; more are refused.")] = 32,
    max_mb: Annotated[float, typer.Option(help="The largest video.")] = 2000.0,
    keep: Annotated[
        float,
        typer.Option(
            metavar="S",
            help="How long a finished sound is kept, after it was last asked for.",
        ),
    ] = 3600.0,
    drain: Annotated[
        float,
        typer.Option(
            metavar="S", help="Told to end, how long sounds that were asked for are made."
        ),
    ] = 10.0,
    job_timeout: Annotated[
        float,
        typer.Option(
            metavar="S",
            help="How long a sound may be at one step, as where a decoder hangs; then its worker "
            "is killed, it fails, and the next one begins.",
        ),
    ] = 600.0,
    *,
    load: Load,
) -> None:
    """Make sounds for other programs, over HTTP; docs/SERVER.md has the requests."""
    tell_progress()
    # By typer's own limits nan would pass.
    number("max-mb", max_mb, float, 0.001, 1e9, "0.001 to 1e9 MB")
    number("keep", keep, float, 0, 1e9, "0 to 1e9 s")
    number("drain", drain, float, 0, 1e9, "0 to 1e9 s")
    number("job-timeout", job_timeout, float, 1, 1e9, "1 to 1e9 s")
    try:
        from vab_rt.serve.app import Limits
        from vab_rt.serve.server import serve
    except ImportError as error:
        library = (error.name or "").partition(".")[0]
        if library not in ("starlette", "uvicorn"):
            raise
        needs = f"vab-rt serve needs {library}"
        raise not_installed(needs, "'vab-rt[serve]'", error) from error
    limits = Limits(
        host=host,
        names=tuple(name or ()),
        token=token or None,
        root=root,
        max_bytes=round(max_mb * 1e6),
    )
    serve(
        asdict(load),
        limits,
        port=port,
        max_waiting=queue,
        keep_s=keep,
        drain_s=drain,
        job_timeout_s=job_timeout,
        tell=_tell,
    )


def _tell(address: str, model: "Model") -> None:
    device = model.device if model.precision == "fp32" else f"{model.device} in {model.precision}"
    print_line(f"{address}: {model.config.name} on {device}; Ctrl-C ends it")
