"""vab-rt kinds, info and doctor: what a model is, and what works here."""

import json
from collections.abc import Iterator
from typing import TYPE_CHECKING

import msgspec
import typer

from vab_rt.cli.console import print_error, print_line, readable, tell_progress
from vab_rt.cli.options import Json, ModelArgument, Offline

if TYPE_CHECKING:  # imported where they are used, so that --help is quick
    from vab_rt.bundle import Bundle


def kinds(
    model: ModelArgument = None,
    offline: Offline = False,
    as_json: Json = False,
) -> None:
    """List what a model has names for: those that --kind takes, one a line."""
    from vab_rt.hub import open_model

    config = open_model(model, offline=offline).config
    names = config.kind_names
    if not names:
        print_error(f"{config.name} has no names for what it sees; vab-rt kinds real lists some")
    if as_json:
        print_line(json.dumps({"kinds": names}))
    for name in () if as_json else names:
        print_line(name)


def info(
    model: ModelArgument = None,
    offline: Offline = False,
    as_json: Json = False,
) -> None:
    """Show what a model is: rates, graphs, sizes, license, provenance, card; check its files."""
    from vab_rt.card import read_card
    from vab_rt.hub import open_model

    tell_progress(quiet=as_json)
    bundle = open_model(model, offline=offline)
    bundle.verify()
    card = read_card(bundle)
    if as_json:
        content = {"folder": readable(bundle.folder), **msgspec.to_builtins(bundle.manifest)}
        print_line(json.dumps(content | {"card": card}))
        return
    for name, value in _facts(bundle):
        print_line(f"{name:<14}  {value}")
    if card is not None:
        print_line(f"\n{card}")


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


def doctor() -> None:
    """Show what works on this machine, and what to install for more."""
    from vab_rt.doctor import examine

    findings = examine()
    for finding in findings:
        mark = "ok" if finding.is_good else "MISSING" if finding.is_needed else "note"
        print_line(f"{mark:<8} {finding.subject:<19} {finding.found}")
        if finding.advice:
            print_line(f"{'':<8} {'':<19} -> {finding.advice}")
    if any(finding.is_needed and not finding.is_good for finding in findings):
        raise typer.Exit(1)
