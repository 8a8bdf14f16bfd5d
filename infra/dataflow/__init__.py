"""Dataflow: the container that its workers run, and the flags that a job needs there."""
