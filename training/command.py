"""What the commands of training have in common: how they run, report, and read their settings."""

import argparse
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from training.file_names import print_any_name
from vab_rt.errors import OptionError, VabError

Settings = TypeVar("Settings", bound=msgspec.Struct)
Item = TypeVar("Item")


def add_finetuning(parser: argparse.ArgumentParser, defaults: msgspec.Struct) -> None:
    """CHECKPOINT, --out and --minutes, and an option for each of the settings."""
    parser.formatter_class = argparse.ArgumentDefaultsHelpFormatter
    parser.add_argument("checkpoint", type=Path, help="a pre-trained model, .pt or .safetensors")
    parser.add_argument("--out", type=Path, required=True, help="the folder of the run")
    parser.add_argument("--minutes", type=float, help="all runs together, instead of epochs")
    for name, value in msgspec.structs.asdict(defaults).items():
        option = f"--{name.replace('_', '-')}"
        if isinstance(value, bool):
            action = argparse.BooleanOptionalAction
            parser.add_argument(option, action=action, default=value, help=" ")
        else:
            kind = float if value is None else type(value)  # None: not cropped
            parser.add_argument(option, type=kind, default=value, help=" ")


def settings_of(arguments: argparse.Namespace, settings: type[Settings]) -> Settings:
    """The settings that a command line names. Raises OptionError."""
    values = {name: getattr(arguments, name) for name in settings.__struct_fields__}
    try:
        return msgspec.convert(values, settings)
    except msgspec.ValidationError as error:  # msgspec names the key and what it expected
        raise OptionError(str(error)) from error


def report(stage: str, losses: Iterable[tuple[int, float, dict[str, float]]]) -> None:
    """Run a stage and show on stderr how far it is."""
    for step, progress, means in losses:
        figures = "  ".join(f"{name} {value:.4f}" for name, value in means.items())
        print(f"{stage} {progress:6.1%}  step {step}  {figures}", file=sys.stderr, flush=True)


def shown(what: str, items: Iterable[Item], count: int) -> Iterator[Item]:
    """The items, with how many of `count` there were on stderr, now and then."""
    for done, item in enumerate(items, start=1):
        if done % max(1, count // 20) == 0 or done == count:
            print(f"{what}: {done} of {count}", file=sys.stderr, flush=True)
        yield item


def run_command(
    command: Callable[[argparse.Namespace], Any],
    parser: argparse.ArgumentParser,
    words: list[str] | None,
) -> None:
    """Parse and run, see `mistakes_in_one_line`."""
    arguments = parser.parse_args(words)
    with mistakes_in_one_line():
        command(arguments)


@contextmanager
def mistakes_in_one_line() -> Iterator[None]:
    """What a user can cause ends in one line and status 1, Ctrl-C in status 130."""
    print_any_name()
    try:
        yield
    except VabError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)
