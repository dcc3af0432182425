"""A timeline of any editor's: what its clips are, and what it takes to get a track of sounds."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

from vab_rt.errors import OptionError
from vab_rt.timelines.clips import Clip, Sound

Track = TypeVar("Track")


class Timeline(ABC):
    """An opened one. All that is not ours stays as the editor wrote it."""

    path: Path
    holds_sounds = False
    """whether sounds lie in its own file, not beside it"""
    taken_names: frozenset[str] = frozenset()
    """of files that sounds must not have"""

    @abstractmethod
    def clips(self, video_track: int, name: str) -> list[Clip]:
        """Those of a video track, counted from 1, the lowest, in order. name: of the track that is
        to come. Raises OptionError for a track that there is not, and for a name that there is."""

    @abstractmethod
    def add(self, sounds: list[Sound], name: str) -> None:
        """A new last audio track with these sounds, which are in order."""

    @abstractmethod
    def write(self, part: Path, out: Path) -> None:
        """To the file `part`, which is going to be `out`."""

    def fetched(self, media: Path, scratch: Path) -> Path:
        """The file of a clip's media; what has to be unpacked goes into a folder."""
        return media

    def chosen(self, tracks: Sequence[Track], number: int) -> Track:
        """Raises OptionError."""
        if not 1 <= number <= len(tracks):
            raise OptionError(
                f"video track is {number}, but {self.path} has {len(tracks)}, expected 1 for the "
                "lowest and so on; choose one with --video-track"
            )
        return tracks[number - 1]

    def require_new_name(self, name: str, names: list[str]) -> None:
        """Raises OptionError for a track that there is."""
        if name in names:
            raise OptionError(
                f"{self.path} has a track {name} already, expected a new name; choose one with "
                "--track"
            )
