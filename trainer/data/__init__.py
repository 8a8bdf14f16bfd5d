"""The table as a random-access source, its examples, their mixture and order."""

from trainer.data.embeddings import EMPTY, Embeddings
from trainer.data.example import Example, ExampleMaker, ExampleSpec, history_offsets
from trainer.data.loader import OrderSpec, batches, mixture, order, rows_at
from trainer.data.source import TableSource
from trainer.data.table import Table

__all__ = [
    "EMPTY",
    "Embeddings",
    "Example",
    "ExampleMaker",
    "ExampleSpec",
    "OrderSpec",
    "Table",
    "TableSource",
    "batches",
    "history_offsets",
    "mixture",
    "order",
    "rows_at",
]
