"""What libraries and our own warnings may print while a verb runs."""

from __future__ import annotations

import logging


def configure() -> None:
    """Our warnings as `unisim: …`; of the libraries only errors. Call before importing them."""
    errors = logging.StreamHandler()
    errors.setLevel(logging.ERROR)  # on the handler: Beam's workers lower the root logger's level
    errors.setFormatter(logging.Formatter("%(name)s: %(message)s"))
    logging.getLogger().handlers = [errors]
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("unisim: %(message)s"))
    ours = logging.getLogger("unisim")
    ours.setLevel(logging.WARNING)
    ours.propagate = False
    ours.handlers = [handler]
