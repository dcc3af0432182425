"""`python -m vab_rt` and the vab-rt script: interruptible from the first import on."""

import sys


def main() -> None:
    """As `vab_rt.cli.main`; an interruption while it is imported is exit status 130 as well."""
    try:
        from vab_rt.cli import main as run

        run()
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
