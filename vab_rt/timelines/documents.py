"""XML files of editors: read without running what they declare, written as they were."""

import re
from fractions import Fraction
from pathlib import Path
from typing import NamedTuple
from xml.etree.ElementTree import Element, TreeBuilder, indent, tostring
from xml.parsers import expat

from vab_rt.errors import MediaError

MAX_BYTES = 500_000_000
_MAX_DEPTH = 200


class Document(NamedTuple):
    """root: names as they are written, prefixes too. doctype: the line as it stood, or nothing."""

    path: Path
    root: Element
    doctype: str

    def refuse(self, found: str, expected: str) -> MediaError:
        return MediaError(f"{self.path} {found}, expected {expected}")

    def free_prefix(self, name: str) -> str:
        """One that no id begins with: name-, or name-2- and so on."""
        ids = [element.get("id", "") for element in self.root.iter()]
        prefix, number = f"{name}-", 1
        while any(one.startswith(prefix) for one in ids):
            number += 1
            prefix = f"{name}-{number}-"
        return prefix

    def to_bytes(self) -> bytes:
        body = tostring(self.root, encoding="unicode")
        head = '<?xml version="1.0" encoding="UTF-8"?>\n'
        return (head + self.doctype + body + "\n").encode("utf-8", "replace")


def read_bytes(path: Path) -> bytes:
    """Raises MediaError for what is no file, or larger than any timeline."""
    try:
        if path.is_file() and path.stat().st_size > MAX_BYTES:
            raise MediaError(
                f"{path} has {path.stat().st_size / 1e6:.0f} MB, expected a timeline of at most "
                f"{MAX_BYTES / 1e6:.0f} MB; media belong beside it"
            )
        if not path.is_file():
            what = "is no file" if path.exists() else "does not exist"
            raise MediaError(f"{path} {what}, expected a timeline; check the name")
        return path.read_bytes()
    except OSError as error:
        raise MediaError(
            f"{path} cannot be read ({error.strerror}), expected a timeline; check its permissions"
        ) from error


def read_document(path: Path) -> Document:
    """Raises MediaError for what is no XML, and for XML that declares entities: nothing is expanded
    and nothing is fetched."""
    builder, doctype, depth = TreeBuilder(insert_comments=True, insert_pis=True), "", 0
    parser = expat.ParserCreate()

    def start(tag: str, attributes: dict[str, str]) -> None:
        nonlocal depth
        depth += 1
        if depth > _MAX_DEPTH:
            raise MediaError(f"{path} nests more than {_MAX_DEPTH} deep, expected a timeline")
        builder.start(tag, attributes)

    def end(tag: str) -> None:
        nonlocal depth
        depth -= 1
        builder.end(tag)

    def declare(name: str, system: str | None, public: str | None, has_more: int) -> None:
        nonlocal doctype
        if has_more:
            raise MediaError(
                f"{path} declares entities or elements of its own, expected none as editors write "
                "it; export it again"
            )
        which = f' PUBLIC "{public}"' if public else " SYSTEM" if system else ""
        doctype = f"<!DOCTYPE {name}{which}" + (f' "{system}"' if system else "") + ">\n"

    def skip(name: str, is_parameter: bool) -> None:
        raise MediaError(f"{path} uses the entity {name}, expected none; export it again")

    parser.StartElementHandler, parser.EndElementHandler = start, end
    parser.CharacterDataHandler = lambda text: builder.data(text) if depth else None
    parser.CommentHandler = lambda text: builder.comment(text) if depth else None
    parser.StartDoctypeDeclHandler, parser.SkippedEntityHandler = declare, skip
    parser.buffer_text = True
    try:
        parser.Parse(read_bytes(path), True)
    except (expat.ExpatError, ValueError, LookupError) as error:
        raise MediaError(
            f"{path} is no XML ({error}), expected a timeline of an editor; export it again"
        ) from error
    return Document(path, builder.close(), doctype)


def add(parent: Element, tag: str, text: str | None = None, **attributes: str) -> Element:
    element = Element(tag, attributes)
    element.text = text
    parent.append(element)
    return element


def laid_out(element: Element) -> Element:
    """On lines of its own, as people read it."""
    indent(element, "  ")
    element.tail = "\n"
    return element


def number_in(document: Document, element: Element, tag: str) -> Fraction:
    """The number that a child holds. Raises MediaError, where there is none too."""
    text = (element.findtext(tag) or "").strip()
    try:
        return Fraction(text)
    except (ValueError, ZeroDivisionError) as error:
        name = element.findtext("name") or element.get("id") or element.tag
        raise document.refuse(
            f"has {text!r} for the {tag} of {name}", "a number; export it again"
        ) from error


def as_text(text: str) -> str:
    """Without the characters that XML has no way to write."""
    return re.sub("[\x00-\x08\x0b\x0c\x0e-\x1f\ud800-\udfff\ufffe\uffff]", "\ufffd", text)
