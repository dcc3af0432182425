"""Every error a user can cause.

VabError                  show this to the user, one line, exit status 1
├── OptionError           an option or argument out of its range
├── MediaError            an input file that cannot be read as video
├── OutputError           an output that cannot be written
├── BundleError           a bundle that cannot be trusted or does not fit this version
├── DataError             training data that is damaged, missing, or of another model
├── ExportError           a checkpoint that cannot be exported, or a graph that differs from it
└── BackendError          a device, provider or library that is not there or failed

Anything else that escapes is a bug and keeps its traceback. MediaWarning is no error: the input was
read, but not all of it.
"""

import re


class VabError(Exception):
    """Base of everything the user should see. Messages say: found, expected, what to do."""


class OptionError(VabError):
    """An option or argument is out of its range."""


class MediaError(VabError):
    """The input cannot be read as video."""


class OutputError(VabError):
    """The output cannot be written."""


class BundleError(VabError):
    """The bundle is damaged, unknown, or made for another version."""


class DataError(VabError):
    """Training data is damaged, missing, or was made with another model."""


class ExportError(VabError):
    """A checkpoint cannot become a bundle."""


class BackendError(VabError):
    """The device, provider or library that was asked for is missing or failed."""


class MediaWarning(UserWarning):
    """Part of the input could not be read; the rest was used."""


# Words of the loader, onnxruntime and Python for it; each has errors of its own kind.
_OUT_OF_MEMORY = re.compile(
    "bad_alloc|(can|un|fail|could).{0,9}allocate|failed to map segment|pthread_create failed"
    "|can't start new thread|Resource temporarily unavailable",
    re.IGNORECASE,
)


def is_out_of_memory(error: BaseException | None) -> bool:
    """Whether an error, or one that it was raised from, says that memory or threads ran out."""
    if error is None:
        return False
    if isinstance(error, MemoryError) or _OUT_OF_MEMORY.search(str(error)):
        return True
    return is_out_of_memory(error.__cause__ or error.__context__)


def reason_of(error: Exception) -> str:
    """What the system says of it, without the name of the file."""
    return getattr(error, "strerror", None) or str(error) or type(error).__name__


def first_line(error: BaseException) -> str:
    """What a library says, without the page that follows."""
    return str(error).strip().partition("\n")[0] or type(error).__name__


def not_installed(needs: str, package: str, error: ImportError) -> BackendError:
    """needs: who needs which library; package: as pip takes it."""
    return BackendError(
        f"{needs}, which cannot be imported ({error}); install it with: pip install {package}"
    )
