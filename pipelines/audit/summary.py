"""`Summary`: the findings of an audit, counted, with some of each kind kept to be shown."""

from __future__ import annotations

import dataclasses
from collections import Counter

from pipelines.audit.check import Finding

_KEPT = 8  # of a check
_MOST_RECORDS = 1_000_000


@dataclasses.dataclass
class Summary:
    """What was found.

    Attributes:
        severities: severity -> findings.
        checks: check -> findings.
        examples: check -> the first of them.
        offenders: (dataset, episode, step) -> findings about that record.
    """

    severities: Counter[str] = dataclasses.field(default_factory=Counter)
    checks: Counter[str] = dataclasses.field(default_factory=Counter)
    examples: dict[str, list[Finding]] = dataclasses.field(default_factory=dict)
    offenders: Counter[tuple[str, str, int]] = dataclasses.field(default_factory=Counter)

    def add(self, finding: Finding) -> None:
        """One more."""
        self.severities[finding.severity] += 1
        self.checks[finding.check] += 1
        kept = self.examples.setdefault(finding.check, [])
        if len(kept) < _KEPT:
            kept.append(finding)
        if finding.step is not None:
            key = (finding.dataset, finding.episode_id, finding.step)
            if key in self.offenders or len(self.offenders) < _MOST_RECORDS:
                self.offenders[key] += 1

    @property
    def total(self) -> int:
        return self.severities.total()
