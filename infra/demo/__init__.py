"""A tabletop world, written in the sources' native formats: the demo's corpus, and `obedience`."""

from infra.demo.corpus import write_corpus
from infra.demo.tabletop import COLOURS, DIRECTIONS, Tabletop, push_episode, render

__all__ = ["COLOURS", "DIRECTIONS", "Tabletop", "push_episode", "render", "write_corpus"]
