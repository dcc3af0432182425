"""A library of one's own: recordings that fit what is seen, played in time with it.

The model first makes a sound of its own. Its strokes say when, the names of files and folders (or,
where no name fits, the model's own likelihood) say which recordings. These are laid where the own
sound is, at its level, and encoded; some of their tokens are given to a second decoding, which
fills in the rest.
"""

import logging
import math
import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from vab_rt.engines import Engine
from vab_rt.errors import MediaError, OptionError
from vab_rt.options import GenerateOptions, TokenOptions
from vab_rt.sampling_arguments import Tokens
from vab_rt.sounds import SUFFIXES, decode_sound
from vab_rt.strokes import is_struck, levels_of, strokes_of
from vab_rt.systems import System
from vab_rt.systems.vab import Encode, Vab
from vab_rt.windows import Window

log = logging.getLogger(__name__)

Samples = npt.NDArray[np.float32]

LONGEST_S = 30.0
"""How much of a recording is used, from its beginning."""
MOST_USED = 4
"""Recordings that one window is made of."""
MOST_SCORED = 16
"""Recordings that the model scores where no name fits."""
MOST_TRIED = 64
"""Files that are opened in search of enough that can be read."""
_LICENSE = re.compile(r"(licen[cs]e|copying|attribution|credits|notice)", re.IGNORECASE)
_SOUNDING_DB = 30.0  # below the loudest: what is quieter is left to the model
_SHAPED_DB = 20.0  # how far a stretch follows the level of the own sound up and down
_FADE_S = 0.005
_WORD = re.compile(r"[a-z]+")


@dataclass(frozen=True)
class Recording:
    """A file of the library, without the silence around it."""

    path: Path
    samples: Samples


@dataclass
class Library:
    """A folder of recordings, for a model. files: those that there are, by their names alone."""

    folder: Path
    files: list[Path]
    system: Vab
    encode: Encode
    used: dict[Path, Path | None] = field(default_factory=dict)
    """what has been played, and the nearest license file above it"""
    _read: dict[Path, Recording | None] = field(default_factory=dict)

    def report(self) -> list[dict[str, str | None]]:
        """What has been played, for `--json`."""
        return [
            {"file": str(path), "license_file": None if license is None else str(license)}
            for path, license in sorted(self.used.items())
        ]

    def decode(
        self,
        window: Window,
        previous: Tokens | None,
        options: GenerateOptions,
        kinds: dict[str, float],
    ) -> Iterator[tuple[int, Tokens]]:
        """As `System.decode`, twice: the model's own sound, then that with recordings in its place.

        kinds: what the window shows. Raises OptionError where no recording can be used.
        """
        assert isinstance(options, TokenOptions), "the system's own, with nothing left open"
        own, step = previous, -1
        for step, own in self.system.decode(window, previous, options):
            yield step, own
        assert own is not None, "a decoding has at least one step"
        named = {kind: 1.0 for kind in options.kinds} or kinds
        given = self.given(window, own[0], named, options)
        for more, tokens in self.system.decode(window, previous, options, given):
            yield step + 1 + more, tokens

    def given(
        self, window: Window, own: Tokens, kinds: dict[str, float], options: TokenOptions
    ) -> Tokens:
        """Tokens [K, T] of recordings where a window's own sound, of tokens `own` [K, T], is: of
        the first codebooks as far as options.library_strength says, the others [MASK]. Between
        them the own stay, so that nothing else strikes there."""
        c, sound = self.system.codec_config, self.system.render(own[None])[0]
        random = np.random.default_rng(window.seed(options.seed))
        recordings = self._choose(window, kinds, random)
        track, plays, is_mute = lay(recordings, sound, c.sample_rate_hz, random)
        tokens = self.encode(track)
        played, muted = (
            where.reshape(c.num_token_steps, c.hop_samples).mean(1) > 0.5  # [T]
            for where in (plays, is_mute)
        )
        kept, given = math.ceil(options.library_strength * c.num_codebooks), own.copy()
        if kept:
            given[:kept, played], given[kept:, played] = tokens[:kept, played], c.mask_id
            given[:, muted] = tokens[:, muted]
        return given

    def _choose(
        self,
        window: Window,
        kinds: dict[str, float],
        random: np.random.Generator,
    ) -> list[Recording]:
        fits = np.array([fit(path.relative_to(self.folder), kinds) for path in self.files])
        named = fits >= max(0.05, fits.max() / 2)
        order = random.permutation(len(self.files))
        if named.any():
            chosen = list(self._readable((self.files[i] for i in order if named[i]), MOST_USED))
        else:
            some = list(self._readable((self.files[i] for i in order), MOST_SCORED))
            length = self.system.config.num_samples
            tokens = np.stack([self.encode(np.resize(one.samples, length)) for one in some])
            scores = self.system.likelihood(window.features, tokens)
            chosen = [some[i] for i in np.argsort(-scores, kind="stable")[:MOST_USED]]
        self.used |= {one.path: license_of(one.path, self.folder) for one in chosen}
        return chosen

    def _readable(self, paths: Iterator[Path], count: int) -> Iterator[Recording]:
        """The first `count` that can be used. Raises OptionError where none can."""
        found = 0
        for _, path in zip(range(MOST_TRIED), paths, strict=False):
            if path not in self._read:
                self._read[path] = self._open(path)
            recording = self._read[path]
            if recording is not None:
                found += 1
                yield recording
            if found == count:
                return
        if not found:
            raise OptionError(
                f"library {self.folder} has no file that can be used among those that fit, "
                "expected recordings; see the warnings before"
            )

    def _open(self, path: Path) -> Recording | None:
        rate_hz = self.system.config.sample_rate_hz
        try:
            samples = trimmed(decode_sound(path, rate_hz, LONGEST_S), rate_hz)
        except MediaError as error:
            log.warning("left out: %s", error)
            return None
        if not len(samples):
            log.warning("left out: %s is silent, expected some sound", path)
            return None
        return Recording(path, samples)


def open_library(
    folder: Path, system: System[Any], open_encoder: Callable[[], Engine] | None
) -> Library:
    """Raises OptionError for a folder without sound, and for a model that has no tokens for it."""
    if not isinstance(system, Vab) or open_encoder is None:
        raise OptionError(
            f"library is {folder}, which {system.config.name} has no use for, expected none: it "
            "takes a model that decodes tokens; leave it out"
        )
    files, encoder = find_sounds(folder), open_encoder()
    return Library(folder, files, system, encode=lambda sound: encoder(audio=sound[None])[0])


def find_sounds(folder: Path) -> list[Path]:
    """The sound files below a folder, sorted. Raises OptionError for none."""
    if not folder.is_dir():
        found = "not a folder" if folder.exists() else "not there"
        raise OptionError(
            f"library {folder} is {found}, expected a folder of recordings; check the path"
        )
    paths = sorted(
        Path(root, name)
        for root, _, names in os.walk(folder)
        for name in names
        if name.lower().endswith(SUFFIXES) and not name.startswith(".")
    )
    if not paths:
        known = ", ".join(suffix[1:] for suffix in SUFFIXES)
        raise OptionError(
            f"library {folder} holds no sound, expected files that end in one of: {known}"
        )
    return paths


def fit(name: Path, kinds: dict[str, float]) -> float:
    """How well a file's name, and its folders', fit what is seen: the probability of the kinds
    whose words are in it."""
    words = _WORD.findall(str(name).lower())

    def is_named(word: str) -> bool:
        return any(w == word or w.startswith(word) and len(w) <= len(word) + 3 for w in words)

    return sum(
        p * sum(map(is_named, parts)) / len(parts)
        for kind, p in kinds.items()
        if (parts := _WORD.findall(kind.lower()))
    )


def license_of(path: Path, folder: Path) -> Path | None:
    """The nearest file above a recording that says whose it is."""
    for above in path.parents:
        try:
            found = sorted(p for p in above.iterdir() if _LICENSE.match(p.stem) and p.is_file())
        except OSError:
            found = []
        if found:
            return found[0]
        if above == folder:
            return None
    return None


def lay(
    recordings: list[Recording], sound: Samples, rate_hz: int, random: np.random.Generator
) -> tuple[Samples, npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
    """Recordings where a sound [S] is, at its level [S]; where they play [S]; and where it is
    quiet after them [S], as what still rings of the sound itself would be heard as a stroke.

    Struck ones at its strokes, one of their own each; others all along, louder and quieter as it
    is. What is silent stays so.
    """
    level = np.repeat(levels_of(sound, rate_hz), rate_hz // 100)[: len(sound)]
    is_loud = level > level.max() - _SOUNDING_DB
    struck = [one.samples for one in recordings if is_struck(one.samples, rate_hz)]
    strokes = strokes_of(sound, rate_hz)
    if not struck or not len(strokes):
        stretch = np.concatenate([_faded(one.samples, rate_hz) for one in recordings])
        track = _shaped_as(sound, np.resize(stretch, len(sound)), rate_hz)
        return track, is_loud, np.zeros_like(is_loud)
    track, plays = np.zeros_like(sound), np.zeros_like(is_loud)
    shots = [shot for samples in struck for shot in _shots(samples, rate_hz)]
    for begin, end in zip(strokes, [*strokes[1:], len(sound)], strict=True):
        shot = shots[int(random.integers(len(shots)))][: end - begin]
        part = slice(begin, begin + len(shot))
        track[part] = _at_level_of(sound[part], _faded(shot, rate_hz), rate_hz)
        plays[part] = True
    after = np.arange(len(sound)) >= strokes[0]
    return track, plays, after & ~plays


def _shots(samples: Samples, rate_hz: int) -> list[Samples]:
    begins = [int(begin) for begin in strokes_of(samples, rate_hz)] or [0]
    return [samples[a:b] for a, b in zip(begins, [*begins[1:], len(samples)], strict=True)]


def _at_level_of(sound: Samples, part: Samples, rate_hz: int) -> Samples:
    """With the same loudest 10 ms as a sound as long."""
    loudest = _peak(sound, rate_hz) / max(_peak(part, rate_hz), 1e-9)
    return part * np.float32(min(loudest, 1 / max(float(np.abs(part).max()), 1e-9)))


def _shaped_as(sound: Samples, part: Samples, rate_hz: int) -> Samples:
    """With the level of a sound as long, every 10 ms, as far as _SHAPED_DB below its loudest."""
    part = _at_level_of(sound, part, rate_hz)
    ours, theirs = levels_of(part, rate_hz), levels_of(sound, rate_hz)
    wanted = np.maximum(theirs, theirs.max() - _SHAPED_DB)
    gains = np.minimum(wanted - np.maximum(ours, ours.max() - 2 * _SHAPED_DB), _SHAPED_DB)
    middles = (np.arange(len(gains)) + 0.5) * (rate_hz // 100)
    shaped: Samples = part * 10 ** (np.interp(np.arange(len(part)), middles, gains) / 20)
    return (shaped / max(1.0, float(np.abs(shaped).max()))).astype(np.float32)


def _peak(samples: Samples, rate_hz: int) -> float:
    size = max(1, rate_hz // 100)
    padded = np.pad(samples, (0, -len(samples) % size))
    return float(np.sqrt((padded.reshape(-1, size) ** 2).mean(1).max())) if len(samples) else 0.0


def _faded(samples: Samples, rate_hz: int) -> Samples:
    count = min(len(samples) // 2, round(_FADE_S * rate_hz))
    out = samples.copy()
    if count:
        out[-count:] *= np.linspace(1, 0, count, dtype=np.float32)
    return out


def trimmed(samples: Samples, rate_hz: int) -> Samples:
    """Without what is 45 dB below the loudest at both ends; empty where all is silent."""
    if not len(samples) or not np.isfinite(samples).all() or np.abs(samples).max() < 1e-4:
        return samples[:0]
    levels = levels_of(samples, rate_hz)
    loud = np.flatnonzero(levels > levels.max() - 45)
    step = rate_hz // 100
    return samples[loud[0] * step : (loud[-1] + 1) * step]
