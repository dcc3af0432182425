"""Timelines of video editors: which clips they have, and a new track of sounds."""

from pathlib import Path

from vab_rt.errors import MediaError, OptionError, not_installed
from vab_rt.timelines.documents import read_document
from vab_rt.timelines.timeline import Timeline

SUFFIXES = (".otio", ".otioz", ".xml", ".fcpxml", ".mlt")
_KNOWN = ".otio, .otioz, .xml of Final Cut Pro 7, .fcpxml or .mlt"
# Formats in which a new track would be lost, or that nobody but their editor writes.
_INSTEAD = {
    ".edl": "an EDL has one track; export .otio, .xml or .fcpxml instead",
    ".aaf": "an AAF names media by ids that no file has; export .otio, .xml or .fcpxml instead",
    ".kdenlive": "export .otio in Kdenlive 25.04 or newer, which reads it back",
    ".prproj": "export Final Cut Pro XML in Premiere instead",
    ".drp": "export .fcpxml or .otio in Resolve instead",
    ".fcpxmld": "it is a folder; take the Info.fcpxml that is inside",
}


def open_timeline(path: Path) -> Timeline:
    """Raises MediaError for what cannot be read, OptionError for a format in which a track would be
    lost, BackendError where opentimelineio is needed and missing."""
    suffix = require_format(path)
    if suffix in (".otio", ".otioz"):
        try:
            from vab_rt.timelines.otio import OtioBundle, OtioTimeline
        except ImportError as error:
            needs = f"{suffix} needs opentimelineio"
            raise not_installed(needs, "'vab-rt[otio]'", error) from error
        return OtioBundle(path) if suffix == ".otioz" else OtioTimeline(path)
    document = read_document(path)
    kind = str(document.root.tag)
    if kind == "xmeml":
        from vab_rt.timelines.fcp7 import Fcp7Timeline

        return Fcp7Timeline(document)
    if kind == "fcpxml":
        from vab_rt.timelines.fcpxml import FcpXmlTimeline

        return FcpXmlTimeline(document)
    if kind == "mlt":
        from vab_rt.timelines.mlt import MltTimeline

        return MltTimeline(document)
    raise MediaError(f"{path} holds <{kind}>, expected {_KNOWN}; export it as one of these")


def require_format(path: Path) -> str:
    """The suffix of a timeline, in small letters. Raises OptionError."""
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        why = _INSTEAD.get(suffix, "export it as one of these")
        raise OptionError(f"{path} is no timeline that can get a track, expected {_KNOWN}; {why}")
    return suffix
