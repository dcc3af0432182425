"""`python -m vab_rt` and the vab-rt script: interruptible from the first import on."""

import atexit
import os
import sys
import threading
from contextlib import suppress


def main() -> None:
    """As `vab_rt.cli.main`; an interruption while it is imported is exit status 130 as well."""
    try:
        from vab_rt.cli import main as run

        run()
    except KeyboardInterrupt:
        _exit(130)
    except SystemExit as stop:
        _exit(stop.code)


def _exit(status: str | int | None) -> None:
    """At once, but for what is registered for the end: taking every module and graph apart takes
    Python a tenth of what a short clip's sound takes."""
    is_alone = all(each.daemon or each is threading.main_thread() for each in threading.enumerate())
    if not isinstance(status, int) or not is_alone or sys.getprofile() is not None:
        sys.exit(status)
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with suppress(AttributeError, OSError, ValueError):  # closed before we came, or full
            stream.flush()
    os._exit(status)


if __name__ == "__main__":
    main()
