"""The process that a local Beam worker is: Beam's own, without a page of start-up messages, and
without a page of where a UsageError was found."""

from __future__ import annotations

import sys
from typing import Any, TextIO, cast

from infra import logs


class _Stderr:
    """Drops what `print` is given if it is a refusal, with the end of its line."""

    def __init__(self, stream: TextIO):
        self._stream = stream
        self._dropped = False

    def write(self, text: str) -> int:
        ends, self._dropped = self._dropped and text == "\n", logs.is_refusal(text)
        return len(text) if ends or self._dropped else self._stream.write(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


if __name__ == "__main__":
    sys.stderr = cast(TextIO, _Stderr(sys.stderr))
    logs.configure()
    from apache_beam.runners.worker import sdk_worker_main

    sdk_worker_main.main(sys.argv)
