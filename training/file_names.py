"""Names of files as text: on Linux a name is any bytes, and Python keeps those that are no UTF-8 as
surrogates, which neither JSON nor a terminal takes."""

import io
import sys


def readable(name: object) -> str:
    """The name with escapes in place of bytes that are no UTF-8."""
    return str(name).encode("utf-8", "backslashreplace").decode()


def print_any_name() -> None:
    """The same for what is printed, which would otherwise end a command when its work is done."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
