"""The viewer's pages: search on the left, a record on the right, a verdict on top of it.

Dash, as Open3D brings it along: its elements are React's, so a text can not become markup, and its
figures are Plotly's. The page talks to this process alone; the table is only read.
"""

from __future__ import annotations

from pathlib import Path
from urllib.parse import parse_qs

import dash
from dash import Input, Output, State, dcc, html
from flask import Response, abort

from pipelines.audit.lookup import Lookup
from pipelines.audit.opened import Opened
from pipelines.audit.viewer import guard, media
from pipelines.audit.viewer.catalog import Catalog, Query
from pipelines.audit.viewer.detail import Detail, verdict_form
from pipelines.audit.viewer.pieces import Pieces
from pipelines.audit.viewer.verdicts import VERDICTS, Verdicts
from schemas import MAX_FRAMES, DataError

_PAGE = 25
_STYLE = Path(__file__).with_name("style.css")
_INDEX = """<!DOCTYPE html>
<html lang="en"><head>{%metas%}<title>{%title%}</title><style>STYLE</style>{%css%}</head>
<body>{%app_entry%}<footer>{%config%}{%scripts%}{%renderer%}</footer></body></html>"""


def make(
    table: Opened, catalog: Catalog, verdicts: Verdicts, pieces: Pieces, token: str | None
) -> dash.Dash:
    """The application; `token` as of `guard.protect`."""
    app = dash.Dash(
        "unisim-audit",
        title="unisim audit",
        update_title="",
        assets_folder="nowhere",
        serve_locally=True,
        add_log_handler=False,
        meta_tags=[{"name": "viewport", "content": "width=device-width, initial-scale=1"}],
    )
    app.index_string = _INDEX.replace("STYLE", _STYLE.read_text())
    app.layout = _layout(table, catalog)
    guard.protect(app.server, token)
    lookup = Lookup(table)
    _media(app, lookup, catalog)
    _search(app, catalog, verdicts)
    _record(app, catalog, Detail(lookup, catalog, verdicts, pieces))
    _judge(app, catalog, verdicts)
    return app


def _layout(table: Opened, catalog: Catalog) -> html.Div:
    def choice(name: str, column: str, words: str) -> dcc.Dropdown:
        return dcc.Dropdown(catalog.choices(column), id=name, placeholder=words)

    filters = [
        dcc.Input(id="text", type="text", placeholder="words of the action, or an episode"),
        choice("source", "dataset", "any source"),
        choice("split", "split", "any split"),
        html.Div(choice("licence", "license", "any licence"), className="all"),
        choice("flag", "check", "any flag"),
        dcc.Dropdown([*VERDICTS, "none"], id="judged", placeholder="any verdict"),
        html.Div(
            dcc.RangeSlider(1, MAX_FRAMES, 1, value=[1, MAX_FRAMES], id="frames", marks=None),
            className="all",
        ),
    ]
    pages = html.Div(
        [
            html.Button("←", id="back", title="the page before"),
            html.Button("→", id="on", title="the next page"),
            html.Span(id="count", className="soft"),
        ],
        className="pages",
    )
    records = sum(d.chunks for d in table.manifest.datasets)
    return html.Div(
        [
            dcc.Location(id="url", refresh=False),
            dcc.Store(id="page", data=0),
            html.Header(
                [
                    html.H1("unisim audit"),
                    html.Span(f"{table.out} · {records:,} records", className="soft"),
                    html.A("export verdicts", href="/verdicts.parquet", id="export"),
                ]
            ),
            html.Main(
                [
                    html.Div(
                        [html.Div(filters, className="filters"), pages, html.Div(id="results")],
                        id="left",
                    ),
                    html.Div([verdict_form(), html.Div(_HELP, id="record")], id="right"),
                ]
            ),
        ]
    )


_HELP = [html.P("Choose a record on the left.", className="soft")]


def _search(app: dash.Dash, catalog: Catalog, verdicts: Verdicts) -> None:
    names = ("text", "source", "split", "licence", "flag", "judged", "frames")
    wanted = [Input(name, "value") for name in names]

    @app.callback(
        Output("page", "data"), Input("back", "n_clicks"), Input("on", "n_clicks"), *wanted,
        State("page", "data"), prevent_initial_call=True,
    )  # fmt: skip
    def turn(back, on, *rest):
        page = rest[-1]
        pressed = dash.ctx.triggered_id
        return (
            max(0, page + (pressed == "on") - (pressed == "back"))
            if pressed in ("back", "on")
            else 0
        )

    @app.callback(
        Output("results", "children"), Output("count", "children"),
        Input("page", "data"), Input("said", "children"), *wanted,
    )  # fmt: skip
    def search(page, _said, text, source, split, licence, flag, judged, frames):
        low, high = frames or (1, MAX_FRAMES)
        query = Query(
            text=str(text or ""),
            source=source or "",
            split=split or "",
            licence=licence or "",
            flag=flag or "",
            verdict=judged or "",
            frames=None if (low, high) == (1, MAX_FRAMES) else (int(low), int(high)),
        )
        first = _PAGE * max(0, int(page or 0))
        total, rows = catalog.search(query, verdicts.table(), first, _PAGE)
        shown = [_result(row) for row in rows]
        return shown, f"{first + 1 if rows else 0}–{first + len(rows)} of {total:,}"


def _result(row) -> dcc.Link:
    name = f"{row['dataset']}/{row['episode_id']}/{row['step']}"
    parts = [html.Span(row["text"]), html.Br(), html.Small(f"{name} · {row['split']}")]
    return dcc.Link(parts, href=f"/?record={row['id']}")


def _record(app: dash.Dash, catalog: Catalog, detail: Detail) -> None:
    @app.callback(
        Output("record", "children"), Output("judge", "hidden"), Output("verdict", "value"),
        Output("reason", "value"), Output("said", "children", allow_duplicate=True),
        Input("url", "search"), prevent_initial_call="initial_duplicate",
    )  # fmt: skip
    def show(search):
        row = _chosen(catalog, search)
        if row is None:
            known = [html.P("There is no such record.", className="error")]
            return (known if search else _HELP), True, None, "", ""
        return detail.show(row), False, *detail.verdict(row)


def _judge(app: dash.Dash, catalog: Catalog, verdicts: Verdicts) -> None:
    @app.callback(
        Output("said", "children"), Input("save", "n_clicks"), State("url", "search"),
        State("verdict", "value"), State("reason", "value"), prevent_initial_call=True,
    )  # fmt: skip
    def judge(_clicks, search, verdict, reason):
        row = _chosen(catalog, search)
        if row is None or verdict not in VERDICTS:
            return "choose accept, reject or look again"
        verdicts.say(row, verdict, str(reason or ""))
        return f"saved: {verdict}"

    @app.server.route("/verdicts.parquet")
    def export() -> Response:
        headers = {"Content-Disposition": "attachment; filename=verdicts.parquet"}
        return Response(verdicts.parquet(), mimetype="application/octet-stream", headers=headers)


def _chosen(catalog: Catalog, search: str | None):
    """The record that an address names; None if it names none."""
    number = parse_qs((search or "").lstrip("?")).get("record", [""])[0]
    return catalog.row(int(number)) if number.isdecimal() and len(number) < 16 else None


def _media(app: dash.Dash, lookup: Lookup, catalog: Catalog) -> None:
    tiers = {tier.name: tier for tier in lookup.table.tiers}

    def row_of(number: int):
        row = catalog.row(number) if number < 2**63 else None
        return row if row is not None else abort(404)

    @app.server.route("/media/<int:number>.webm")
    def film(number: int) -> Response:
        row = row_of(number)
        before = catalog.numbered(row["dataset"], row["episode_id"], row["step"] - 1)
        try:
            return Response(media.video(lookup, row, before), mimetype="video/webm")
        except DataError:
            abort(404)

    @app.server.route("/media/<int:number>/<tier>.png")
    def strip(number: int, tier: str) -> Response:
        row = row_of(number)
        if tier not in tiers:
            abort(404)
        try:
            return Response(media.strip(lookup, row, tiers[tier]), mimetype="image/png")
        except DataError:
            abort(404)
