"""The process that a local Beam worker is: Beam's own, without a page of start-up messages."""

from __future__ import annotations

import sys

from infra import logs

if __name__ == "__main__":
    logs.configure()
    from apache_beam.runners.worker import sdk_worker_main

    sdk_worker_main.main(sys.argv)
