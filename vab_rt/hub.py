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
from typing import NamedTuple

from vab_rt.bundle import MANIFEST, Bundle, open_bundle, read_manifest
from vab_rt.errors import BackendError, BundleError, OptionError

PREFIX = "hf:"
_LOG = logging.getLogger(__name__)
_NAME = re.compile(r"hf:([\w.-]+/[\w.-]+)(?:@(\w[\w./-]*))?", re.ASCII)
_EXPECTED = "hf:ORG/NAME or hf:ORG/NAME@REVISION, where the revision is a branch, a tag or a commit"
_COMMIT = re.compile(r"[0-9a-f]{40}")


class Repository(NamedTuple):
    """name: ORG/NAME. revision: a branch, a tag or a commit."""

    name: str
    revision: str = "main"

    def __str__(self) -> str:
        return f"{PREFIX}{self.name}@{self.revision}"


def open_model(model: str | Path | None, *, offline: bool = False) -> Bundle:
    """The bundle that a user names: what `open_bundle` opens, or a repository on a hub.

    Of a repository only the manifest and the files that it lists are fetched, once. offline: what
    is in the cache and nothing else. Raises BundleError, and BackendError without huggingface_hub.
    """
    if not isinstance(model, str) or not model.startswith(PREFIX):
        return open_bundle(model)
    pinned = pin(parse_repository(model), MANIFEST, offline=offline)
    _LOG.info("model: %s", pinned)
    path = needed(pinned, MANIFEST, offline=offline)
    for file in read_manifest(path).files:
        needed(pinned, file, offline=offline)
    return open_bundle(path.parent)


def parse_repository(text: str) -> Repository:
    """Raises OptionError for what is not hf:ORG/NAME[@REVISION]."""
    found = _NAME.fullmatch(text)
    if found is None or ".." in text:  # which git has in no name, and a path has
        raise OptionError(f"{text} is no name on a hub, expected {_EXPECTED}")
    return Repository(found[1], found[2] or Repository._field_defaults["revision"])


def pin(repository: Repository, file: str, *, offline: bool) -> Repository:
    """The same repository at the commit that its revision is now, or was when it was last seen.

    file: one that it has. Raises as `needed` does.
    """
    if _COMMIT.fullmatch(repository.revision):
        return repository
    return repository._replace(revision=needed(repository, file, offline=offline).parent.name)


def needed(repository: Repository, file: str, *, offline: bool) -> Path:
    """Where a file lies. Raises BundleError when it cannot be had, BackendError as `fetch`."""
    path = fetch(repository, file, offline=offline)
    if path is not None:
        return path
    if offline or _library().constants.HF_HUB_OFFLINE:
        raise BundleError(
            f"{file} of {repository} is not in the cache of huggingface_hub, expected it there "
            "with --offline or HF_HUB_OFFLINE; run the same command once without it"
        )
    raise BundleError(
        f"{repository} has no file {file}, expected a repository that holds it; check the name"
    )


def fetch(repository: Repository, file: str, *, offline: bool) -> Path | None:
    """Where a file lies, fetched unless it is there; None where there is no such file.

    Raises BundleError for a repository that cannot be had, BackendError without huggingface_hub.
    """
    hub = _library()
    name, revision = repository
    try:
        with _told(repository, hub):
            kept = hub.try_to_load_from_cache(name, file, revision=revision)
            is_kept = isinstance(kept, str)
            if offline or hub.constants.HF_HUB_OFFLINE:
                return Path(kept) if is_kept else None
            if is_kept and _COMMIT.fullmatch(revision):
                return Path(kept)  # it cannot change
            # Fails at once without a network, where the download below tries again and again.
            hub.get_hf_file_metadata(hub.hf_hub_url(name, file, revision=revision))
            return Path(hub.hf_hub_download(name, file, revision=revision, library_name="vab-rt"))
    except hub.errors.EntryNotFoundError:
        return None


def _library() -> ModuleType:
    try:
        import huggingface_hub
        import huggingface_hub.constants
        import huggingface_hub.errors
        import huggingface_hub.utils
    except ImportError as error:
        raise BackendError(
            f"names that begin with {PREFIX} need huggingface_hub, expected it to be installed "
            f"({error}); install it with: pip install 'vab-rt[hub]'"
        ) from error
    hub: ModuleType = huggingface_hub
    if not _LOG.isEnabledFor(logging.INFO):
        hub.utils.disable_progress_bars()
    return hub


@contextmanager
def _told(repository: Repository, hub: ModuleType) -> Iterator[None]:
    """What goes wrong in the block, as one line; a missing file passes through."""
    errors = hub.errors
    try:
        yield
    except errors.EntryNotFoundError as error:
        if isinstance(error, errors.LocalEntryNotFoundError):  # of a network that broke down
            raise _unreachable(repository, error) from error
        raise
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
