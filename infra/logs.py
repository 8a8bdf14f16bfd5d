"""What libraries and our own warnings may print while a verb runs."""

from __future__ import annotations

import logging
import re

from schemas.errors import UsageError

# a traceback, plain or quoted, whose last exception is a UsageError
_REFUSED = re.compile(
    r"Traceback \(.*schemas\.errors\.UsageError: ((?!Traceback \().)*$", re.DOTALL
)


def is_refusal(text: str) -> bool:
    """Whether it is the traceback of a UsageError. The launcher says that in one line, and where
    in the code it was found helps nobody."""
    return bool(_REFUSED.search(text))


def _is_worth_saying(record: logging.LogRecord) -> bool:
    error = record.exc_info[1] if record.exc_info else None
    return not (isinstance(error, UsageError) or is_refusal(record.getMessage()))


def configure() -> None:
    """Our warnings as `unisim: …`; of the libraries only errors. Call before importing them."""
    errors = logging.StreamHandler()
    errors.setLevel(logging.ERROR)  # on the handler: Beam's workers lower the root logger's level
    errors.addFilter(_is_worth_saying)
    errors.setFormatter(logging.Formatter("%(name)s: %(message)s"))
    logging.getLogger().handlers = [errors]
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("unisim: %(message)s"))
    ours = logging.getLogger("unisim")
    ours.setLevel(logging.WARNING)
    ours.propagate = False
    ours.handlers = [handler]
