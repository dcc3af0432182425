"""What the commands of fine-tuning have in common: their options, their data, their report."""

import argparse
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from training.checkpoint import Checkpoint
from training.shard_format import encoders_sha256
from training.shards import ShardedClips
from vab_rt.errors import OptionError, VabError

Settings = TypeVar("Settings", bound=msgspec.Struct)


def finetuning_parser(
    module: str, text: str | None, settings: type[msgspec.Struct]
) -> argparse.ArgumentParser:
    """A parser with CHECKPOINT, --out and --minutes, and an option for each of the settings."""
    parser = argparse.ArgumentParser(
        prog=f"python -m {module}",
        description=text,
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("checkpoint", type=Path, help="a pre-trained model, .pt or .safetensors")
    parser.add_argument("--out", type=Path, required=True, help="the folder of the run")
    parser.add_argument("--minutes", type=float, help="all runs together, instead of epochs")
    for field in msgspec.structs.fields(settings):
        option = f"--{field.name.replace('_', '-')}"
        if field.type is bool:
            action = argparse.BooleanOptionalAction
            parser.add_argument(option, action=action, default=field.default, help=" ")
        else:
            kind = field.type if field.type in (int, float) else str
            parser.add_argument(option, type=kind, default=field.default, help=" ")
    return parser


def settings_of(arguments: argparse.Namespace, settings: type[Settings]) -> Settings:
    """The settings that a command line of `finetuning_parser` names. Raises OptionError."""
    values = {name: getattr(arguments, name) for name in settings.__struct_fields__}
    try:
        return msgspec.convert(values, settings)
    except msgspec.ValidationError as error:  # msgspec names the key and what it expected
        raise OptionError(str(error)) from error


def open_shards(location: str, checkpoint: Checkpoint) -> ShardedClips:
    """Clips that `training.extract` made with this checkpoint. Raises DataError."""
    digest = encoders_sha256(checkpoint.codec(), checkpoint.image_encoder())
    return ShardedClips(location, checkpoint.config, encoders_sha256=digest)


def report(stage: str, losses: Iterable[tuple[int, float, dict[str, float]]]) -> None:
    """Run a stage and show on stderr how far it is."""
    for step, progress, means in losses:
        figures = "  ".join(f"{name} {value:.4f}" for name, value in means.items())
        print(f"{stage} {progress:6.1%}  step {step}  {figures}", file=sys.stderr, flush=True)


def run_command(
    command: Callable[[argparse.Namespace], Any],
    parser: argparse.ArgumentParser,
    words: list[str] | None,
) -> None:
    """Parse and run; what a user can cause ends in one line and status 1."""
    arguments = parser.parse_args(words)
    try:
        command(arguments)
    except VabError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)
