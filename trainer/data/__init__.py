"""The table as a random-access source, its examples, their mixture and order."""

from trainer.data.embeddings import EMPTY, Embeddings
from trainer.data.example import Example, ExampleMaker, ExampleSpec, history_offsets
from trainer.data.loader import batches
from trainer.data.order import Order, OrderSpec, mixture, rows_at
from trainer.data.table import Table
from trainer.data.why import Consumed, consumed

__all__ = [
    "EMPTY",
    "Consumed",
    "Embeddings",
    "Example",
    "ExampleMaker",
    "ExampleSpec",
    "Order",
    "OrderSpec",
    "Table",
    "batches",
    "consumed",
    "history_offsets",
    "mixture",
    "rows_at",
]
