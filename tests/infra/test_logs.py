"""A UsageError of a worker is one line; every other traceback is printed."""

import sys
import traceback

import pytest

from infra.beam_worker import _Stderr
from infra.logs import is_refusal
from schemas import DataError, UsageError


def told(*errors: Exception) -> str:
    """The traceback of errors, each raised while the one before was handled."""
    try:
        try:
            raise errors[0]
        except Exception as first:
            if len(errors) > 1:
                raise errors[1] from first
            raise
    except Exception:
        return traceback.format_exc()


REFUSALS = [
    told(UsageError("a: full")),
    told(OSError("full"), UsageError("a: full; make room there")),
    repr(told(OSError("full"), UsageError("a: full"))),  # as the runner quotes it
]
OTHERS = [
    told(ValueError("a bug")),
    told(UsageError("a: full"), ValueError("a bug")),
    repr(told(UsageError("a: full"), ValueError("a bug"))),
    told(DataError("damaged")),
    "schemas.errors.UsageError: without a traceback",
]


@pytest.mark.parametrize("text", REFUSALS)
def test_a_refusal_is_not_printed_by_the_worker(text, capsys):
    assert is_refusal(text)
    print("before", file=_stderr())
    stream = _stderr()
    print(text, file=stream)
    print("\nafter", file=stream)
    assert capsys.readouterr().err == "before\n\nafter\n"


@pytest.mark.parametrize("text", OTHERS)
def test_any_other_traceback_is(text, capsys):
    assert not is_refusal(text)
    print(text, file=_stderr())
    assert capsys.readouterr().err == text + "\n"


def _stderr():
    return _Stderr(sys.stderr)
