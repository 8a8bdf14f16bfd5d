"""What goes wrong with a run's files, in one line: `Damaged`, a checkpoint that is not what was
saved, as against one that cannot be read now, or a folder that cannot be written."""

from __future__ import annotations

import contextlib
import logging
import re
import sys
from collections.abc import Iterator
from pathlib import Path

from schemas import UsageError

# an array library's errors have a status for a type: these tell of a file that is missing, short,
# or not what its own checksums say
_DAMAGE = ("NOT_FOUND", "DATA_LOSS", "OUT_OF_RANGE", "FAILED_PRECONDITION", "INVALID_ARGUMENT")
_SYSTEM = re.compile(r"([^:]+) \[os_error_code")
_STATUS = re.compile(r"([A-Z]+(?:_[A-Z]+)*): ")
_UNDER_WAY = (
    "async_deserialize",
    "async_serialize",
    "_read_array_index",
    "_SignalingThread.run() raised",
    "OCDBT database",
)
_MISSING = (FileNotFoundError, NotADirectoryError, IsADirectoryError)
_CONTENT = (*_MISSING, ValueError, LookupError, TypeError, AttributeError, EOFError)


class Damaged(UsageError):
    """A checkpoint is not what was saved: a file is missing, short or changed."""


@contextlib.contextmanager
def reading(checkpoint: Path) -> Iterator[None]:
    """Turns what goes wrong while a checkpoint is read into one line.

    Raises:
        Damaged: if reading it again would fail again: the checkpoint's folder is there, and what is
            in it is not what was saved.
        UsageError: if it may be whole, but the file system does not give it: no permission, an
            error of the disk or the network, a folder that is gone.
    """
    try:
        with _hushed():
            yield
    except UsageError:
        raise
    except Exception as e:
        found = _chain(e)
        if not any(isinstance(x, (OSError, *_CONTENT)) for x in found):
            raise  # it is nothing about files
        said = (str(found[-1]).strip().splitlines() or [""])[0][:160]
        what = f"{checkpoint}: %s ({type(found[-1]).__name__}: {said})"
        if is_damage(e) and checkpoint.is_dir():
            raise Damaged(what % "is damaged") from e
        raise UsageError(
            what % "cannot be read" + "; it may be whole, so it stays as it is: see that it can"
            " be read, then give the same command again"
        ) from e


@contextlib.contextmanager
def writing(run: Path) -> Iterator[None]:
    """Turns what goes wrong while a run's folder is written into one line.

    Raises:
        UsageError: if the disk is full or the file system refuses.
    """
    try:
        with _hushed():
            yield
    except UsageError:
        raise
    except Exception as e:
        said = next(filter(None, map(_refusal, _chain(e))), None)
        if said is None:
            raise
        raise UsageError(
            f"{run}: cannot be written ({said}); see that there is room and access, then give the"
            " same command again: it goes on from the last checkpoint"
        ) from e


def _refusal(error: BaseException) -> str | None:
    """What the file system said, if that is what the error is about."""
    if isinstance(error, OSError):
        return error.strerror or str(error)
    if isinstance(error, ValueError) and _STATUS.match(text := str(error).strip()):
        found = _SYSTEM.search(text)
        return found[1] if found else text.splitlines()[0][:160]
    return None


def is_damage(error: BaseException) -> bool:
    """Whether an error of reading tells of what is in the files, and not of getting at them."""
    for each in _chain(error):
        if type(each) is Exception:
            continue  # says where; its cause says what
        status = _STATUS.match(str(each))
        if not isinstance(each, _CONTENT) or (status and status[1] not in _DAMAGE):
            return False
    return True


def _chain(error: BaseException | None) -> list[BaseException]:
    found = []
    while error is not None:
        found.append(error)
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    return found


@contextlib.contextmanager
def _hushed() -> Iterator[None]:
    """Keeps reads and writes that are under way when one fails from printing, each, that nobody
    waits for them any more. They go on when we do not, so after an error this stays."""
    before = sys.unraisablehook

    def hook(args: sys.UnraisableHookArgs) -> None:
        late = str(args.exc_value) == "Event loop is closed"
        if not late and not any(name in repr(args.object) for name in _UNDER_WAY):
            before(args)

    sys.unraisablehook = hook
    for name in ("asyncio", "absl"):
        logging.getLogger(name).addFilter(_is_news)
    yield
    sys.unraisablehook = before


def _is_news(record: logging.LogRecord) -> bool:
    return not any(name in record.getMessage() for name in _UNDER_WAY)
