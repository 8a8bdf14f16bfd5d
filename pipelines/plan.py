"""Sources -> units -> shards, before anything runs. The plan fixes the output's layout.

A plan can be read, priced and reviewed before a job is launched: plan.json says how, and
plan.units.parquet lists the units of every shard. It depends on the raw data and on the options
alone, never on runner or workers, so equal input gives equal bytes.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from collections.abc import Sequence
from typing import Any

import numpy as np

from pipelines import files, sources
from pipelines.episode import Unit
from pipelines.units import Units
from schemas import BINS, MAX_FRAMES, SCHEMA_VERSION, Tier, UsageError, did_you_mean
from schemas.table import MANIFEST, PLAN, PLAN_UNITS, SPLITS, WORK, dump_json

SHARD_MB = 128
_UNITS_PER_SHARD = 8  # so that shards can be packed to near-equal cost
_JPEG_BYTES_PER_PIXEL = 0.25
# one core's, for the estimate alone
_FRAME_SECONDS, _BYTES_PER_SECOND = 0.004, 10e6


@dataclasses.dataclass(frozen=True, kw_only=True)
class Shard:
    """The units that one worker turns into one set of files, in order."""

    index: int
    units: tuple[Unit, ...]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Dataset:
    """What will be made of one source.

    Attributes:
        name: the source's, and the dataset's.
        version: of the release that was found.
        root: the folder that unit and record URIs are relative to.
        fps: the table's rate; None keeps every frame.
        shard_mb: raw megabytes per shard that were asked for.
        options: the source's own options, all of them.
        splits: the splits that it will have.
        recipe: the transforms, as written into every record.
        rejected: ids of episodes that auditors rejected, sorted: they are left out.
        units: packed into shards; None where the shards are of no concern, as in a worker.
    """

    name: str
    version: str
    root: str
    fps: float | None
    shard_mb: float
    options: dict[str, float]
    splits: tuple[str, ...]
    recipe: str
    rejected: tuple[str, ...] = ()
    units: Units | None = dataclasses.field(default=None, compare=False)

    @property
    def planned(self) -> Units:
        """`units`, which are there in a whole plan."""
        assert self.units is not None
        return self.units

    def shard(self, index: int) -> Shard:
        """One of its shards."""
        return Shard(index=index, units=self.planned.shard(index))

    def settings(self) -> dict[str, Any]:
        """All but the units, as JSON has it."""
        named = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        del named["units"]
        named |= {"splits": list(self.splits), "rejected": list(self.rejected)}
        return {name: value for name, value in named.items() if name != "rejected" or value}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Plan:
    """What `prepare` will do.

    Attributes:
        tiers: resolutions, each becoming one set of files.
        prefix_dataset: whether the dataset's name is put before every action text.
        datasets: in the order given.
    """

    tiers: tuple[Tier, ...]
    prefix_dataset: bool
    datasets: tuple[Dataset, ...]

    def to_json(self) -> str:
        """plan.json: all but the units."""
        datasets = [
            d.settings() | {"units": len(d.planned), "shards": d.planned.num_shards}
            for d in self.datasets
        ]
        price = dataclasses.asdict(estimate(self))
        return dump_json(self._settings() | {"datasets": datasets, "estimate": price})

    def _settings(self) -> dict[str, Any]:
        return {
            "schema_version": SCHEMA_VERSION,
            "tiers": [str(tier) for tier in self.tiers],
            "prefix_dataset": self.prefix_dataset,
            "datasets": [dataset.settings() for dataset in self.datasets],
        }

    @classmethod
    def load(cls, out: str) -> Plan:
        """The plan of a table. Raises UsageError if it has none of this version."""
        path = files.join(out, PLAN)
        try:
            value = json.loads(files.read(path))
            if value["schema_version"] != SCHEMA_VERSION:
                raise UsageError(f"{path}: a plan of schema version {value['schema_version']}")
            with files.local_copy(files.join(out, PLAN_UNITS)) as local:
                units = Units.load(local)
            datasets = []
            for settings in value["datasets"]:
                for name in ("units", "shards"):
                    del settings[name]
                settings |= {k: tuple(settings.get(k, ())) for k in ("splits", "rejected")}
                datasets.append(Dataset(**settings, units=units[settings["name"]]))
            return cls(
                tiers=tuple(Tier.parse(tier) for tier in value["tiers"]),
                prefix_dataset=value["prefix_dataset"],
                datasets=tuple(datasets),
            )
        except FileNotFoundError as e:
            raise UsageError(f"{out}: no whole plan ({e}); restore it, or plan again") from e
        except (OSError, ValueError, KeyError, TypeError) as e:
            raise UsageError(f"{path}: not a plan ({e}); remove it and plan again") from e

    def costs(self) -> dict[tuple[str, int], int]:
        """(dataset, shard) -> bytes to read, in order."""
        return {
            (dataset.name, shard): cost
            for dataset in self.datasets
            for shard, cost in enumerate(dataset.planned.costs().tolist())
        }

    def stamped_digest(self) -> str:
        """Hex digest of the plan, where the raw files lie and when they were written included."""
        state = hashlib.blake2b(dump_json(self._settings()).encode(), digest_size=16)
        for dataset in self.datasets:
            state.update(dataset.planned.digest(stamps=True).encode())
        return state.hexdigest()

    def digest(self) -> str:
        """Hex digest of what decides the output's bytes: not of where the raw files lie, nor of
        when they were written."""
        value = self._settings()
        for dataset, planned in zip(value["datasets"], self.datasets, strict=True):
            del dataset["root"]
            dataset["units"] = planned.planned.digest()
        return hashlib.blake2b(dump_json(value).encode(), digest_size=16).hexdigest()


@dataclasses.dataclass(frozen=True, kw_only=True)
class Estimate:
    """A plan's price: raw bytes to read, and what they will become."""

    units: int
    shards: int
    raw_bytes: int
    episodes: int
    frames: int
    chunks: int
    table_bytes: int
    core_hours: float
    largest_shard: float


def estimate(plan: Plan) -> Estimate:
    """The sums over all units; frames count every camera at the table's rate. `largest_shard` is
    its cost by the mean of its dataset's, the worst of all datasets."""
    units = [dataset.planned for dataset in plan.datasets]
    frames = sum(u.total("frames") for u in units)
    raw_bytes = sum(u.total("cost") for u in units)
    per_frame = sum(
        t.height * t.width * (3 if t.encoding == "raw" else _JPEG_BYTES_PER_PIXEL)
        for t in plan.tiers
    )
    seconds = frames * _FRAME_SECONDS + raw_bytes / _BYTES_PER_SECOND
    return Estimate(
        units=sum(map(len, units)),
        shards=sum(u.num_shards for u in units),
        raw_bytes=raw_bytes,
        episodes=sum(u.total("episodes") for u in units),
        frames=frames,
        chunks=sum(_chunks(u) for u in units),
        table_bytes=int(frames * per_frame),
        core_hours=round(seconds / 3600, 3),
        largest_shard=round(max(unevenness(u) for u in units), 3),
    )


def unevenness(units: Units) -> float:
    """The cost of the largest shard by the mean."""
    costs = units.costs()
    return float(costs.max() / max(costs.mean(), 1.0))


def _chunks(units: Units) -> int:
    episodes = units.column("episodes")
    of_each = units.column("frames") / np.maximum(episodes, 1) / MAX_FRAMES
    return int((np.ceil(of_each) * episodes).sum())


def make(
    given: Sequence[tuple[str, str]],
    *,
    tiers: Sequence[Tier],
    fps: dict[str, float],
    options: dict[str, float] | None = None,
    prefix_dataset: bool = False,
    shard_mb: float = SHARD_MB,
) -> Plan:
    """The plan for `given` sources.

    Args:
        given: (source name, path) in the order of `--source`; a name may come twice.
        tiers: at least one.
        fps: target rate by source name; "" is the default for all.
        options: by "source.option".
        prefix_dataset: whether the dataset's name goes before every action text.
        shard_mb: raw megabytes per shard.

    Raises:
        UsageError: for an unknown source, a missing path, a path that holds something else.
    """
    if not given:
        raise UsageError("no --source NAME=PATH; `unisim sources` lists the names")
    if len({tier.name for tier in tiers}) != len(tiers) or not tiers:
        raise UsageError("every --tier needs a resolution of its own")
    if shard_mb <= 0:
        raise UsageError(f"--shard-mb {shard_mb}: wanted more than 0")
    unknown = set(fps) - {name for name, _ in given} - {""}
    if unknown:
        raise UsageError(f"--fps names {sorted(unknown)}, which no --source has")
    order = list(dict.fromkeys(name for name, _ in given))
    paths = {name: [path for n, path in given if n == name] for name in order}
    if any(len(p) > 1 for p in paths.values()):
        name = next(n for n, p in paths.items() if len(p) > 1)
        raise UsageError(f"--source {name} is given twice; give the folder that holds both")
    settings = {name: _options(name, options or {}) for name in order}
    stray = sorted(set(options or {}) - {f"{n}.{o}" for n in order for o in settings[n]})
    if stray:
        known = [f"{n}.{o}" for n in order for o in settings[n]]
        raise UsageError(f"--option {stray[0]}: no such option; {did_you_mean(stray[0], known)}")
    datasets = tuple(
        _dataset(name, paths[name][0], fps, settings[name], shard_mb) for name in order
    )
    return Plan(tiers=tuple(tiers), prefix_dataset=prefix_dataset, datasets=datasets)


def _options(name: str, given: dict[str, float]) -> dict[str, float]:
    """The source's options, set or by default. Raises UsageError for one out of its bounds."""
    result = {}
    for option in sources.get(name).INFO.options:
        value = given.get(f"{name}.{option.name}", option.default)
        if not option.low <= value <= option.high:
            wanted = f"{option.low:g} to {option.high:g}"
            raise UsageError(f"--option {name}.{option.name}={value:g}: wanted {wanted}")
        result[option.name] = value
    return result


def _dataset(
    name: str, path: str, fps: dict[str, float], options: dict[str, float], shard_mb: float
) -> Dataset:
    source = sources.get(name)
    if not files.exists(path):
        raise UsageError(
            f"--source {name}={path}: no such path; `unisim sources {name}` shows what is expected"
        )
    root = os.path.abspath(path) if files.is_local(path) else path.rstrip("/")
    units = listed(name, root, shard_mb)
    if not len(units):
        raise UsageError(f"--source {name}={path}: holds nothing to read")
    repeated = units.repeated()
    if repeated is not None:
        raise UsageError(f"--source {name}={path}: unit {repeated!r} is there twice")
    versions = sorted(str(version) for version in units.distinct("version"))
    if len(versions) > 1:
        raise UsageError(f"--source {name}={path}: releases {versions} in one folder; give one")
    rate = fps.get(name, fps.get("", source.INFO.target_fps))
    if rate is not None and not 0 < rate <= 1000:
        raise UsageError(f"--fps {rate} for {name}: wanted a rate above 0, at most 1000")
    native = source.INFO.native_fps
    if source.INFO.every_frame and rate is not None and native and rate < native:
        raise UsageError(
            f"--fps {rate:g} for {name}: its text is the action of one frame, so none may be"
            f" dropped; give --fps {name}={native:g}"
        )
    present = set(units.distinct("split"))
    present |= {"train", "val"} if None in present else set()
    return Dataset(
        name=name,
        version=versions[0],
        root=root,
        fps=rate,
        shard_mb=shard_mb,
        options=options,
        splits=tuple(split for split in SPLITS if split in present),
        recipe=_recipe(rate, source.INFO.fit, options),
        units=units,
    )


def listed(name: str, root: str, shard_mb: float) -> Units:
    """A source's units as they are now, packed, with their files' stamps."""
    found = sources.get(name).units(root, int(shard_mb * 1e6 / _UNITS_PER_SHARD))
    return _placed(Units.packed(found, shard_mb * 1e6), root)


def _recipe(fps: float | None, fit: str, options: dict[str, float]) -> str:
    rate = "every frame" if fps is None else f"{fps:g} fps"
    own = "".join(f"{name}: {value:g}; " for name, value in options.items())
    return f"{own}resample: {rate}; resize: {fit}, area; chunk: {MAX_FRAMES}; bins: {BINS}"


def _placed(units: Units, root: str) -> Units:
    """The units with their files' stamps, and their URIs below the source's path."""
    uris = [str(uri) for uri in units.table.column("uri").to_pylist()]
    stamps = files.stamps(root, uris)
    return units.with_texts(
        uri=[relative_uri(uri, root) for uri in uris], stamp=[stamps.get(uri, "") for uri in uris]
    )


def relative_uri(uri: str, root: str) -> str:
    """The uri below the source's path: a table does not depend on where its raw files lie."""
    if uri == root:
        return "."
    return uri.removeprefix(root.rstrip("/") + "/")


def absolute_uri(uri: str, root: str) -> str:
    """The inverse of `relative_uri`."""
    if uri == ".":
        return root
    if "://" in uri or os.path.isabs(uri):
        return uri
    return files.join(root, uri)


def save(plan: Plan, out: str) -> bool:
    """Writes OUT/plan.json; False if the same plan is there already.

    The plan that is there keeps its stamps, so that a raw file that has changed since is noticed;
    but where the corpus has moved, and nothing is finished yet, the new one takes its place.

    Raises:
        UsageError: if OUT holds another plan, or is not empty and holds none.
    """
    path = files.join(out, PLAN)
    if files.exists(path):
        saved = Plan.load(out)
        if saved.digest() != plan.digest():
            raise UsageError(
                f"{path}: {out} holds another plan ({difference(saved, plan)}); give another --out,"
                " or remove it to begin anew"
            )
        moved = [d.root for d in saved.datasets] != [d.root for d in plan.datasets]
        if (
            not moved
            or files.exists(files.join(out, WORK))
            or files.exists(files.join(out, MANIFEST))
        ):
            return False
        write(plan, out)
        return True
    there = files.glob(out, "*") if files.exists(out) else []
    # what a run that was killed just here has left
    if not all(files.is_temporary(p) or files.name_of(p) == PLAN_UNITS for p, _ in there):
        raise UsageError(f"{out}: not empty and not a table; give an --out that does not exist yet")
    write(plan, out)
    return True


def write(plan: Plan, out: str) -> None:
    """Writes a plan's two files. The units first: where plan.json is, they are too."""
    with files.local_write(files.join(out, PLAN_UNITS)) as local:
        Units.save({dataset.name: dataset.planned for dataset in plan.datasets}, local)
    files.write(files.join(out, PLAN), plan.to_json().encode())


def difference(a: Plan, b: Plan) -> str:
    """The first thing in which two plans differ, for an error line."""
    if a.tiers != b.tiers:
        return f"tiers {' '.join(map(str, a.tiers))} there, {' '.join(map(str, b.tiers))} now"
    if a.prefix_dataset != b.prefix_dataset:
        return f"--prefix-dataset {a.prefix_dataset} there, {b.prefix_dataset} now"
    names = [[d.name for d in plan.datasets] for plan in (a, b)]
    if names[0] != names[1]:
        return f"sources {', '.join(names[0])} there, {', '.join(names[1])} now"
    for x, y in zip(a.datasets, b.datasets, strict=True):
        if x.fps != y.fps:
            return f"{x.name} at {x.fps} fps there, {y.fps} now"
        if x.options != y.options:
            return f"options of {x.name} {x.options} there, {y.options} now"
        if x.shard_mb != y.shard_mb:
            return f"--shard-mb {x.shard_mb:g} for {x.name} there, {y.shard_mb:g} now"
        if x.rejected != y.rejected:
            return f"{len(x.rejected)} episodes of {x.name} rejected there, {len(y.rejected)} now"
        if x.version != y.version:
            return f"{x.name} {x.version} there, {y.version} now"
        if x.planned.digest() != y.planned.digest():
            return f"the files of {x.name}, or their packing into shards, have changed"
    return "the same in every field"
