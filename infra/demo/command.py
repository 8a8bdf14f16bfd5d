"""Verbs run as a user would run them."""

from __future__ import annotations

import shlex
import subprocess
import sys
import time

from schemas import UsageError


def command(verb: str, *args: object) -> float:
    """Runs `unisim verb args` in a process of its own, shown as a user would type it.

    Returns:
        Its seconds.

    Raises:
        UsageError: if it fails.
    """
    texts = [verb, *map(str, args)]
    print(f"\n$ unisim {shlex.join(texts)}", flush=True)
    begin = time.monotonic()
    code = subprocess.run([sys.executable, "-m", "infra.cli", *texts]).returncode
    if code:
        raise UsageError(f"stopped: `unisim {verb}` ended with exit code {code}")
    return time.monotonic() - begin
