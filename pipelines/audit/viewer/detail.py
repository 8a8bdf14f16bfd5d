"""One record as a page shows it. Texts are children of elements, so none of them is ever markup."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dash import dcc, html

from pipelines.audit.lookup import Lookup
from pipelines.audit.viewer import plots
from pipelines.audit.viewer.catalog import Catalog
from pipelines.audit.viewer.pieces import Pieces
from pipelines.audit.viewer.verdicts import VERDICTS, Verdicts
from schemas import Chunk, DataError
from schemas.embedding import token_bytes
from schemas.table import text_file

_PASSPORT = ("source_uri", "source_range", "source_version", "license", "recipe")


class Detail:
    """Shows records of a table."""

    def __init__(self, lookup: Lookup, catalog: Catalog, verdicts: Verdicts, pieces: Pieces):
        self._lookup, self._catalog, self._verdicts = lookup, catalog, verdicts
        self._pieces = pieces

    def show(self, row: dict[str, Any]) -> list:
        """Everything about a record, as Dash components."""
        tier = self._lookup.best_tier(48)
        try:
            chunk: Chunk | None = self._lookup.chunk(row, tier)
            problem = []
        except DataError as e:
            chunk, problem = None, [html.P(f"cannot be read: {e.reason}", className="error")]
        return [
            html.H2(f"{row['dataset']}/{row['episode_id']}/{row['step']}", id="key"),
            html.P(row["text"], id="action", className="action"),
            html.P(
                f"{row['split']} · {row['num_frames']} frames · {_rate(row)} · {row['license']}"
            ),
            *self._flags(row),
            *problem,
            *(self._frames(row) if chunk else []),
            *(_figures(chunk) if chunk else []),
            *self._text(row),
            *_passport(row, chunk),
            *self._neighbours(row),
        ]

    def verdict(self, row: Mapping[str, Any]) -> tuple[str | None, str, str]:
        """What was said last of a record, why, and all of it for people."""
        said = self._verdicts.of(row)
        history = "; ".join(f"{v}{f' ({r})' if r else ''}" for v, r in said)
        return (*said[0], f"so far: {history}") if said else (None, "", "no verdict yet")

    def _flags(self, row: dict[str, Any]) -> list:
        found = self._catalog.findings(row)
        if not found:
            return []
        items = [html.Li(f"{f['check']}: {f['message']}", className=f["severity"]) for f in found]
        return [html.Ul(items, id="flags")]

    def _frames(self, row: dict[str, Any]) -> list:
        number = row["id"]
        tiers = [tier.name for tier in self._lookup.table.tiers]
        film = html.Video(
            src=f"/media/{number}.webm",
            controls=True,
            autoPlay=True,
            loop=True,
            muted=True,
            id="film",
        )
        strips = [
            html.Details(
                [
                    html.Summary(f"all frames at {name}"),
                    html.Img(src=f"/media/{number}/{name}.png", className="strip"),
                ],
                open=i == 0,
            )
            for i, name in enumerate(tiers)
        ]
        note = "gray edge: the end of the record before it; orange edge: this record"
        return [film, html.P(note, className="soft"), *strips]

    def _text(self, row: dict[str, Any]) -> list:
        found = [html.H3("Text and tokens"), html.Code(repr(row["text"]))]
        for name, tokens, most in self._tokens(row["text_key"]):
            cut = ", cut there" if tokens == most else ""
            found.append(html.P(f"{tokens} tokens by {name}{cut}"))
        if self._pieces.loading:
            found.append(html.P("the vocabulary is loading", className="soft"))
        pieces = [html.Code(piece) for piece in self._pieces.of(row["text"])]
        return [*found, html.P(pieces, id="pieces", className="pieces")]

    def _tokens(self, key: bytes):
        """(encoder, how many tokens a text has, how many it may have)."""
        table = self._lookup.table
        for encoder in table.manifest.encoders:
            try:
                at = int(table.keys(encoder).searchsorted(key))
                shard = 0
                while at >= encoder.shard_rows[shard]:
                    at -= encoder.shard_rows[shard]
                    shard += 1
                rows = encoder.shard_rows[shard]
                name = text_file(encoder.name, shard, len(encoder.shard_rows), rows)
                with table.file(name) as file:
                    size = len(file.read([at])[0])
            except (DataError, IndexError):
                continue
            width = token_bytes(encoder.width, encoder.dtype)
            yield encoder.name, size // width, encoder.max_tokens

    def _neighbours(self, row: dict[str, Any]) -> list:
        items = [
            html.Li(
                dcc.Link(f"step {each['step']}: {each['text']}", href=f"/?record={each['id']}"),
                className="here" if each["id"] == row["id"] else "",
            )
            for each in self._catalog.episode(row)
        ]
        return [html.H3("Its episode"), html.Ul(items, id="episode")]


def verdict_form() -> html.Div:
    """Where a verdict is given."""
    return html.Div(
        [
            dcc.RadioItems(list(VERDICTS), None, id="verdict", inline=True),
            dcc.Input(id="reason", placeholder="why", type="text", maxLength=1000),
            html.Button("save the verdict", id="save"),
            html.P(id="said", className="soft"),
        ],
        id="judge",
        hidden=True,
    )


def _rate(row: Mapping[str, Any]) -> str:
    return f"{row['fps']:g} frames/s" if row["fps"] else "a still image"


def _figures(chunk: Chunk) -> list:
    found = []
    for title, plot in (
        ("Controls", plots.curves(chunk)),
        ("The way it takes within this record", plots.ways(chunk)),
    ):
        if plot is not None:
            graph = dcc.Graph(
                figure=plot.figure,
                config={"displaylogo": False},
                responsive=True,
                style={"height": f"{plot.height}px"},
            )
            found += [html.H3(title), graph]
    return found


def _passport(row: Mapping[str, Any], chunk: Chunk | None) -> list:
    if chunk is not None:
        fields = {name: getattr(chunk, name) for name in _PASSPORT}
    else:
        fields = {name: row[name] for name in _PASSPORT if name in row}
    rows = [
        html.Tr([html.Th(name), html.Td(html.Code(str(value)))]) for name, value in fields.items()
    ]
    return [html.H3("Passport"), html.Table(html.Tbody(rows), id="passport")]
