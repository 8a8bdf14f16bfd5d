"""A Flink cluster on this machine, its jars, and the Python workers that its TaskManagers start."""
