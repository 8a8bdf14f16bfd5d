"""What auditors said of records: the file that `unisim audit --export` writes and `--exclude`
reads."""

from __future__ import annotations

from collections.abc import Callable

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from schemas.errors import UsageError

REJECT = "reject"
VERDICT_SCHEMA = pa.schema(
    [
        ("dataset", pa.string()),
        ("episode_id", pa.string()),
        ("step", pa.int64()),
        ("verdict", pa.string()),  # "accept", "reject" or "look again"
        ("reason", pa.string()),
    ]
)


def rejected(path: str, read: Callable[[str], bytes]) -> pa.Table:
    """The keys of the rejected records: dataset, episode_id, step.

    Args:
        path: a Parquet file of `VERDICT_SCHEMA`, as `--exclude` names it.
        read: gives its bytes.

    Raises:
        UsageError: if it is none.
    """
    try:
        verdicts = pq.read_table(pa.BufferReader(read(path)), schema=VERDICT_SCHEMA)
    except (OSError, pa.ArrowException) as e:
        raise UsageError(
            f"--exclude {path}: cannot be read ({str(e).splitlines()[0]}); wanted a Parquet file of"
            f" verdicts with the columns {', '.join(VERDICT_SCHEMA.names)}"
        ) from e
    found = verdicts.filter(pc.field("verdict") == REJECT)
    return found.select(["dataset", "episode_id", "step"])
