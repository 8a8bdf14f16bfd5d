"""`Whole`: the checks that compare shards, datasets and the manifest, when all shards were read."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping

import cv2
import numpy as np

from pipelines.audit import drift, embeddings, integrity, leak, rights, texts
from pipelines.audit.check import Finding
from pipelines.audit.leak import Look
from pipelines.audit.opened import Opened
from pipelines.audit.rights import Licence
from pipelines.audit.shard import Scope, Shard
from pipelines.audit.statistics import Statistics
from pipelines.audit.texts import Scripts
from schemas import DataError, Manifest, decode
from schemas.table import INDEX, frames_file


class Whole:
    """Gathers what the shards told.

    Attributes:
        statistics: by dataset.
        licences: (dataset, licence) -> what there is of it.
        read: records of all tiers that were read.
    """

    def __init__(self, table: Opened, scope: Scope):
        self._table, self._scope = table, scope
        names = [d.name for d in table.manifest.datasets]
        self.statistics = {name: Statistics() for name in names}
        self.licences: dict[tuple[str, str], Licence] = {}
        self.read = 0
        self._scripts = {name: Scripts() for name in names}
        self._texts: dict[str, set[bytes]] = {name: set() for name in names}
        self._totals: dict[str, list[dict[str, int]]] = {name: [] for name in names}
        self._looks: list[Look] = []

    def add(self, told: Shard) -> None:
        """One shard; in the order of shards, so that the same record is always named first."""
        name = told.dataset
        self.statistics[name].merge(told.statistics)
        self._scripts[name].merge(told.scripts)
        self._texts[name] |= told.texts
        self._looks += told.looks
        self.read += told.read
        if told.totals:
            self._totals[name].append(told.totals)
        for licence, found in told.licences.items():
            before = self.licences.get((name, licence))
            first = before.first if before else found.first
            records = found.records + (before.records if before else 0)
            self.licences[name, licence] = Licence(records, first)

    def findings(
        self,
        denied: Collection[str] = (),
        before: Mapping[str, Statistics] | Manifest | None = None,
    ) -> Iterator[Finding]:
        """Everything that is wrong with the table as a whole.

        Args:
            denied: licences that no record may have.
            before: what the table is compared with: statistics, or a manifest, which tells
                less.
        """
        found = (*self._integrity(), *self._content(), *self._rights(denied))
        yield from (each for each in found if each.family in self._scope.families)
        if before is None or "drift" not in self._scope.families:
            return
        limits = self._scope.limits
        if isinstance(before, Manifest):
            yield from drift.manifests(self._table.manifest, before, limits)
        else:
            yield from drift.drift(self.statistics, before, limits)

    def _integrity(self) -> Iterator[Finding]:
        table = self._table
        if "integrity" not in self._scope.families:
            return
        rest = [name for name in table.manifest.files if not _of_a_shard(name)]
        yield from integrity.file_digests(table, rest, whole=self._scope.sample >= 1)
        yield from integrity.orphan_files(table)
        for dataset in table.manifest.datasets:
            totals = self._totals[dataset.name]
            if len(totals) == dataset.num_shards:  # else a part of the index could not be read
                yield from integrity.manifest_totals(dataset, _sum(totals))
        yield from integrity.manifest_losses(table)
        for info in table.manifest.encoders:
            yield from embeddings.encoder(table, info)

    def _content(self) -> Iterator[Finding]:
        if "content" not in self._scope.families:
            return
        limits = self._scope.limits
        for name, scripts in self._scripts.items():
            yield from texts.odd_scripts(scripts, limits)
            episodes = self.statistics[name].episodes
            yield from texts.constant(name, self._texts[name], episodes, limits)
        yield from leak.leaks(self._looks, self._pictures, limits)

    def _rights(self, denied: Collection[str]) -> Iterator[Finding]:
        declared = {d.name: d.license for d in self._table.manifest.datasets}
        yield from rights.missing(self.licences)
        yield from rights.denied(self.licences, denied)
        yield from rights.unlisted(self.licences, declared)

    def _pictures(self, look: Look) -> list[np.ndarray] | None:
        """The frames that an episode's hashes are of."""
        dataset = self._table.dataset(look.dataset)
        tier = min(self._table.tiers, key=lambda tier: (tier.height * tier.width, tier.encoding))
        name = frames_file(
            tier, dataset.name, dataset.version, look.split, look.shard, dataset.num_shards
        )
        steps = (0, look.records // 2, look.records - 1)
        try:
            with self._table.file(name) as file:
                data = file.read([look.begin + step for step in steps])
            frames = [
                decode(each, tier).pixels()[at] for each, at in zip(data, (0, 0, -1), strict=True)
            ]
        except DataError:
            return None
        return [cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in frames]


def _of_a_shard(name: str) -> bool:
    """Whether a worker looks at the file, with its shard."""
    return ".array_record" in name or name.startswith(f"{INDEX}/")


def _sum(totals: list[dict[str, int]]) -> dict[str, int]:
    return {name: sum(each[name] for each in totals) for name in totals[0]}
