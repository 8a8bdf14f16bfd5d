#!/bin/sh
# Flink starts this with no arguments but Beam's; UNISIM_PYTHON is in Beam's environment_config.
exec "$UNISIM_PYTHON" -m infra.flink.worker "$@"
