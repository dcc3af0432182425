"""Files of a repository on a hub, through huggingface_hub: `hf:ORG/NAME[@REVISION]`.

A revision is pinned to the commit that it is, and all files come from that one. They lie in
huggingface_hub's own cache, where a commit is a folder of links.
"""

import errno
import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import NamedTuple, TypeGuard

from vab_rt.bundle import MANIFEST, Bundle, open_bundle, read_manifest
from vab_rt.errors import BundleError, OptionError, not_installed

PREFIX = "hf:"
_LOG = logging.getLogger(__name__)
_NAME = re.compile(r"hf:([\w.-]+/[\w.-]+)(?:@(\w[\w./-]*))?", re.ASCII)
_EXPECTED = "hf:ORG/NAME or hf:ORG/NAME@REVISION, where the revision is a branch, a tag or a commit"


class Repository(NamedTuple):
    """name: ORG/NAME. revision: a branch, a tag or a commit."""

    name: str
    revision: str = "main"

    def __str__(self) -> str:
        return f"{PREFIX}{self.name}@{self.revision}"


def is_on_hub(model: str | Path | None) -> TypeGuard[str]:
    """Whether a user names a repository on a hub."""
    return isinstance(model, str) and model.startswith(PREFIX)


def open_model(model: str | Path | None, *, offline: bool = False) -> Bundle:
    """The bundle that a user names: what `open_bundle` opens, or a repository on a hub.

    Of a repository only the manifest and the files that it lists are fetched, once. offline: what
    is in the cache and nothing else. Raises BundleError, and BackendError without huggingface_hub.
    """
    if not is_on_hub(model):
        return open_bundle(model)
    pinned, folder = needed(parse_repository(model), [MANIFEST], offline=offline)
    _LOG.info("model: %s", pinned)
    needed(pinned, list(read_manifest(folder / MANIFEST).files), offline=offline)
    return open_bundle(folder)


def parse_repository(text: str) -> Repository:
    """Raises OptionError for what is not hf:ORG/NAME[@REVISION]."""
    found = _NAME.fullmatch(text)
    if found is None or ".." in text:  # which git has in no name, and a path has
        raise OptionError(f"{text} is no name on a hub, expected {_EXPECTED}")
    return Repository(found[1], found[2] or Repository._field_defaults["revision"])


def needed(repository: Repository, files: list[str], *, offline: bool) -> tuple[Repository, Path]:
    """As `fetch`. Raises BundleError also for a file that cannot be had."""
    pinned, folder = fetch(repository, files, offline=offline)
    for file in files:
        if not (folder / file).is_file():
            raise _missing(pinned, file, offline=offline)
    return pinned, folder


def fetch(repository: Repository, files: list[str], *, offline: bool) -> tuple[Repository, Path]:
    """The repository at the commit that its revision is now, or was when it was last seen, and the
    folder of that commit, with those of the files that it has.

    Raises BundleError for a repository that cannot be had, BackendError without huggingface_hub.
    """
    hub = _library()
    name, revision = repository
    offline = offline or hub.constants.HF_HUB_OFFLINE
    with _told(repository, hub):
        try:
            folder = hub.snapshot_download(
                name,
                revision=revision,
                allow_patterns=files,
                local_files_only=offline,
                library_name="vab-rt",
            )
        except hub.errors.LocalEntryNotFoundError as error:
            if not offline:
                raise
            folder = getattr(error, "snapshot_path", None)  # of one that is there in part
            if folder is None:
                raise _missing(repository, files[0], offline=offline) from error
    return Repository(name, Path(folder).name), Path(folder)


def _missing(repository: Repository, file: str, *, offline: bool) -> BundleError:
    if offline or _library().constants.HF_HUB_OFFLINE:
        return BundleError(
            f"{file} of {repository} is not in the cache of huggingface_hub, expected it there "
            "with --offline or HF_HUB_OFFLINE; run the same command once without it"
        )
    return BundleError(
        f"{repository} has no file {file}, expected a repository that holds it; check the name"
    )


def _library() -> ModuleType:
    try:
        import huggingface_hub
        import huggingface_hub.constants
        import huggingface_hub.errors
        import huggingface_hub.utils
    except ImportError as error:
        needs = f"names that begin with {PREFIX} need huggingface_hub"
        raise not_installed(needs, "'vab-rt[hub]'", error) from error
    hub: ModuleType = huggingface_hub
    if not _LOG.isEnabledFor(logging.INFO):
        hub.utils.disable_progress_bars()
    return hub


@contextmanager
def _told(repository: Repository, hub: ModuleType) -> Iterator[None]:
    """What goes wrong in the block, as one line."""
    errors = hub.errors
    try:
        yield
    except errors.GatedRepoError as error:
        raise BundleError(
            f"{repository} is behind terms that its owner asks you to accept, expected your "
            "consent; give it on the hub's page, then run: hf auth login"
        ) from error
    except errors.RepositoryNotFoundError as error:
        raise BundleError(
            f"{repository} is not on the hub or is private, expected ORG/NAME of a model there; "
            "check the name, or run: hf auth login"
        ) from error
    except errors.RevisionNotFoundError as error:
        raise BundleError(
            f"{repository} is no revision of {repository.name}, expected a branch, a tag or a "
            "commit; check what follows the @"
        ) from error
    except errors.HFValidationError as error:
        raise OptionError(
            f"{repository} is no name on a hub ({_reason(error)}), expected {_EXPECTED}"
        ) from error
    except (*errors.HfHubHTTPError.__bases__, RuntimeError) as error:
        # Bases of the transport's errors, which changed with huggingface_hub 1; hf_xet's.
        if isinstance(error, OSError) and (error.filename or error.errno == errno.ENOSPC):
            raise BundleError(
                f"{repository} cannot be kept ({_reason(error)}), expected room for it in "
                f"{hub.constants.HF_HUB_CACHE}; free some, or set HF_HUB_CACHE to another folder"
            ) from error
        raise _unreachable(repository, error) from error


def _unreachable(repository: Repository, error: Exception) -> BundleError:
    return BundleError(
        f"{repository} cannot be fetched ({_reason(error)}), expected an answer from the hub; "
        "check the network, or use what was fetched before with --offline"
    )


def _reason(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
