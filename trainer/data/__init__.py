"""The table as a random-access source, its examples, their mixture and order."""

from trainer.data.embeddings import EMPTY, Embeddings
from trainer.data.example import Example, ExampleMaker, ExampleSpec, history_offsets
from trainer.data.loader import batches, threads_for
from trainer.data.order import Era, Order, OrderSpec, begin, go_on
from trainer.data.samples import Sample, Samples, select
from trainer.data.table import Table
from trainer.data.why import Consumed, consumed

__all__ = [
    "EMPTY",
    "Consumed",
    "Embeddings",
    "Era",
    "Example",
    "ExampleMaker",
    "ExampleSpec",
    "Order",
    "OrderSpec",
    "Sample",
    "Samples",
    "Table",
    "batches",
    "begin",
    "consumed",
    "go_on",
    "history_offsets",
    "select",
    "threads_for",
]
