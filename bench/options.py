"""The options that benches have in common."""

import argparse


def parser_of(bench: str, description: str | None) -> argparse.ArgumentParser:
    """A parser with what all of them take."""
    parser = argparse.ArgumentParser(prog=f"python -m bench {bench}", description=description)
    parser.add_argument("--json", action="store_true", help="the last line is one JSON object")
    return parser


def add_model(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", help="a bundle's folder (default: the shipped one)")


def at_least_one(text: str) -> int:
    """How often something is run, as argparse reads it: 1 or more."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r}, expected a whole number from 1 on")
    return int(text)
