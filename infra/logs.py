"""What libraries and our own warnings may print while a verb runs."""

from __future__ import annotations

import logging


def configure() -> None:
    """Our warnings as `unisim: …`; of the libraries only errors. Call before importing them."""
    logging.basicConfig(level=logging.ERROR, format="%(name)s: %(message)s")
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("unisim: %(message)s"))
    ours = logging.getLogger("unisim")
    ours.setLevel(logging.WARNING)
    ours.propagate = False
    ours.handlers = [handler]
