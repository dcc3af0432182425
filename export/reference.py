"""docs/API.md and docs/CLI.md, made from the code: `python -m export.reference`; `--check` says
whether they are up to date."""

import argparse
import ast
import inspect
import re
import sys
import types
import typing
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import typer
from typer.models import ArgumentInfo, CommandInfo, OptionInfo

import vab_rt
from vab_rt import cli, errors

DESCRIBED = (
    *("load", "Pipeline", "Video", "GenerateOptions", "Audio", "Delivery", "Step", "Found"),
    "save_picture",
)
"""In the order in which they are met."""
DOCS = Path(__file__).parents[1] / "docs"
EXAMPLES = """\
# Python API

    pip install .                  # in a checkout; needs no PyTorch

Everything here can be imported from `vab_rt`; other modules may change without notice.
`import vab_rt` is quick: what a name needs is imported when it is first used.

```python
import vab_rt

pipeline = vab_rt.load()  # the shipped model, on the best device
audio = pipeline.generate("in.mp4", seed=7, steps=8)  # options by name
audio.save("out.wav", force=True)
```

A part of a video, and its stream copied beside the sound:

```python
import vab_rt

part = vab_rt.Video("in.mp4", start_s=1.0, duration_s=2.5)
audio = vab_rt.load().generate(part, vab_rt.GenerateOptions(seed=7))
audio.save("part.mp4", video=part, force=True)
assert audio.duration_s == 2.5
```

A video that is in memory, or in a file that is open (`io.BytesIO`, an upload), as it is:

```python
import vab_rt

with open("in.mp4", "rb") as file:
    audio = vab_rt.load().generate(file)
    audio.save("copy.mp4", video=file, force=True)
```

A second of it made anew, and a sound that goes on ([EDITING.md](EDITING.md)):

```python
import vab_rt

pipeline = vab_rt.load()
audio = pipeline.regenerate("in.mp4", "out.wav", start_s=1, end_s=2, seed=8)
audio.save("again.wav", force=True)
part = vab_rt.Video("in.mp4", duration_s=1.5)
longer = pipeline.continue_sound("in.mp4", pipeline.generate(part))
assert longer.duration_s == audio.duration_s
```

Step by step, for a progress bar, a preview or an early stop; memory does not grow with the video:

```python
import vab_rt

for step in vab_rt.load().generate_steps("in.mp4", steps=4):
    print(f"window {step.window + 1} of {step.num_windows}, step {step.step + 1}")
    if step.audio is not None:  # with the last step of each window
        print(f"{len(step.audio)} samples more")
```

What a user can cause is a `VabError`: one line that says what was found, what was expected and
what to do next. Anything else is a bug. A `MediaWarning` says that not all of the input could be
read, or that a copy does not get all of it.

```python
import vab_rt

try:
    vab_rt.load().generate("missing.mp4", seed=7)
except vab_rt.VabError as error:
    print(f"error: {error}")
```
"""
COMMAND_LINE = """\
# Command line

Errors are one line on stderr. Exit status: 0 done, 1 an error, 2 a wrong call, 129 hung up, 130
interrupted, 143 terminated. `vab-rt --version` tells the version, `--help` goes with every command.
"""
MADE = "<!-- made by `python -m export.reference`; edit the docstrings instead -->\n"


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m export.reference", description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 if stale")
    parser.add_argument("--docs", type=Path, default=DOCS, help="the folder of both files")
    chosen = parser.parse_args(arguments)
    stale = [name for name, text in pages().items() if text != _read(chosen.docs / name)]
    if chosen.check and stale:
        sys.exit(f"{' and '.join(stale)} not as the code is; run python -m export.reference")
    for name in stale:
        (chosen.docs / name).write_text(pages()[name], encoding="utf-8")


def pages() -> dict[str, str]:
    """The text of each file, by name."""
    api = [part for name in DESCRIBED for part in _described(name)]
    commands = [part for command in cli.app_of().registered_commands for part in _command(command)]
    return {
        "API.md": "\n".join([MADE, EXAMPLES, *api, *_errors()]),
        "CLI.md": "\n".join([MADE, COMMAND_LINE, *commands]),
    }


def _read(path: Path) -> str | None:
    return path.read_text(encoding="utf-8") if path.exists() else None


def _described(name: str) -> Iterator[str]:
    thing = getattr(vab_rt, name)
    if inspect.isfunction(thing):
        yield _function(f"vab_rt.{name}", _tree(thing), thing.__doc__, level="##")
        return
    yield f"## vab_rt.{name}\n"
    yield f"{_text(thing.__doc__)}\n"
    rows = [row for each in reversed(thing.__mro__) for row in _fields(each, thing)]
    if rows:
        yield "\n".join(["| field | type | default | |", "|---|---|---|---|", *rows, ""])
    for node in _tree(thing).body:
        if isinstance(node, ast.FunctionDef) and not node.name.startswith("_"):
            doc = ast.get_docstring(node)
            if doc is None:
                continue
            if any(_words(d).endswith("property") for d in node.decorator_list):
                yield f"`.{node.name}: {_words(node.returns)}`: {_text(doc)}\n"
            else:
                yield _function(f".{node.name}", node, doc, level="###")


def _fields(owner: type, described: type) -> Iterator[str]:
    """Rows of what a class of ours declares itself: `name: type = default`, and the text below."""
    if not owner.__module__.startswith("vab_rt"):
        return
    body = _tree(owner).body
    for node, following in zip(body, [*body[1:], None], strict=True):
        if not isinstance(node, ast.AnnAssign) or not isinstance(node.target, ast.Name):
            continue
        is_text = isinstance(following, ast.Expr) and isinstance(following.value, ast.Constant)
        text = _text(str(following.value.value)) if is_text else ""
        name, kind = node.target.id, _words(node.annotation).replace("|", "\\|")
        yield f"| `{name}` | `{kind}` | {_default(described, name)} | {text} |"


def _default(described: type, name: str) -> str:
    found = inspect.signature(described).parameters[name].default
    return "" if found is inspect.Parameter.empty else f"`{found}`"


def _function(name: str, node: Any, doc: str | None, level: str) -> str:
    for argument in (*node.args.args, *node.args.kwonlyargs):
        argument.annotation = _unquoted(argument.annotation)
    node.returns = _unquoted(node.returns)
    arguments = [a.replace("=", " = ") for a in ast.unparse(node.args).split(", ") if a != "self"]
    line = f"{name}({', '.join(arguments)}) -> {_words(node.returns)}"
    if len(line) > 99:
        line = (
            f"{name}(\n    {(',' + chr(10) + '    ').join(arguments)},\n) -> {_words(node.returns)}"
        )
    return f"{level} {name.removeprefix('.')}\n\n```\n{line}\n```\n\n{_text(doc)}\n"


def _unquoted(annotation: ast.expr | None) -> ast.expr | None:
    """The annotation of a type that its module imports for type checkers alone."""
    if isinstance(annotation, ast.Constant) and isinstance(annotation.value, str):
        return ast.parse(annotation.value, mode="eval").body
    return annotation


def _tree(thing: Callable[..., Any] | type) -> Any:
    (node,) = ast.parse(inspect.getsource(thing)).body
    return node


def _words(node: ast.expr | None) -> str:
    return "" if node is None else ast.unparse(node)


def _text(doc: str | None) -> str:
    """A docstring with each paragraph and each point of a list on one line."""
    return re.sub(r"(?<!\n)\n(?!\n|- ) *", " ", inspect.cleandoc(doc or ""))


def _errors() -> Iterator[str]:
    yield "## Errors\n"
    yield f"`VabError`: {_text(errors.VabError.__doc__)} Its kinds, in `vab_rt.errors`:\n"
    for kind in errors.VabError.__subclasses__():
        if kind.__module__ == errors.__name__:  # others may derive kinds of their own
            yield f"- `{kind.__name__}`: {_text(kind.__doc__)}"
    yield f"\n`MediaWarning`: {_text(errors.MediaWarning.__doc__)}\n"


def _command(command: CommandInfo) -> Iterator[str]:
    function = command.callback
    hints = typing.get_type_hints(function, include_extras=True)
    given = inspect.signature(function).parameters
    asked = [name for name in given if hints[name] is not typer.Context]
    found = {name: (hints[name], given[name].default) for name in asked}
    arguments = [
        (hint.__metadata__[0].metavar or name.upper(), hint, default)
        for name, (hint, default) in found.items()
        if isinstance(hint.__metadata__[0], ArgumentInfo)
    ]
    command_name = function.__name__.replace("_", "-")
    words = [n if d is inspect.Parameter.empty else f"[{n}]" for n, _, d in arguments]
    options = [
        (_flags(name, hint.__metadata__[0]), hint, default)
        for name, (hint, default) in found.items()
        if isinstance(hint.__metadata__[0], OptionInfo)
    ]
    line = " ".join(["vab-rt", command_name, *words, *(["[OPTIONS]"] if options else [])])
    yield f"## vab-rt {command_name}\n\n    {line}\n\n{_text(function.__doc__)}\n"
    if arguments or options:
        rows = [_row(*each) for each in (*arguments, *options)]
        yield "\n".join(["| | | default |", "|---|---|---|", *rows, ""])


def _flags(name: str, info: OptionInfo) -> str:
    """Typer keeps the first of the flags that are given as a default."""
    first = [info.default] if isinstance(info.default, str) else []
    return ", ".join([*first, *(info.param_decls or ())] or [f"--{name.replace('_', '-')}"])


def _row(name: str, hint: Any, default: Any) -> str:
    info, kind = hint.__metadata__[0], hint.__origin__
    kinds = [k for k in typing.get_args(kind) or (kind,) if k is not types.NoneType]
    is_choice = typing.get_origin(kind) is typing.Literal
    words = "|".join(kinds) if is_choice else kinds[0].__name__.upper()
    value = "" if kind is bool or isinstance(info, ArgumentInfo) else words
    shown = (info.metavar or value) if isinstance(info, OptionInfo) else ""
    told = info.show_default if isinstance(info.show_default, str) else default
    is_empty = told is inspect.Parameter.empty or told is False
    text = (info.help or "").replace("|", "\\|")
    both = f"{name} {shown}".strip().replace("|", "\\|")
    return f"| `{both}` | {text} | {'' if is_empty else told} |"


if __name__ == "__main__":
    main()
