"""Sources -> units -> shards, before anything runs. The plan fixes the output's layout.

A plan can be read, priced and reviewed before a job is launched. It depends on the raw data and on
the options alone, never on runner or workers, so equal input gives equal bytes.
"""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import json
import math
import os
from collections.abc import Iterator, Sequence
from typing import Any

from pipelines import files, sources
from pipelines.episode import Unit
from schemas import BINS, MAX_FRAMES, SCHEMA_VERSION, Tier, UsageError, did_you_mean
from schemas.table import MANIFEST, PLAN, SPLITS, WORK, dump_json

SHARD_MB = 128
_UNITS_PER_SHARD = 8  # so that shards can be packed to near-equal cost
_JPEG_BYTES_PER_PIXEL = 0.25


@dataclasses.dataclass(frozen=True, kw_only=True)
class Shard:
    """The units that one worker turns into one set of files, in order."""

    index: int
    units: tuple[Unit, ...]

    @property
    def cost(self) -> int:
        return sum(unit.cost for unit in self.units)

    @property
    def frames(self) -> int:
        return sum(unit.frames for unit in self.units)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Dataset:
    """What will be made of one source.

    Attributes:
        name: the source's, and the dataset's.
        version: of the release that was found.
        root: the folder that unit and record URIs are relative to.
        fps: the table's rate; None keeps every frame.
        options: the source's own options, all of them.
        splits: the splits that it will have.
        recipe: the transforms, as written into every record.
        shards: in order.
    """

    name: str
    version: str
    root: str
    fps: float | None
    options: dict[str, float]
    splits: tuple[str, ...]
    recipe: str
    shards: tuple[Shard, ...]


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
        value = dataclasses.asdict(self)
        value["tiers"] = [str(tier) for tier in self.tiers]
        for dataset in value["datasets"]:
            for shard in dataset["shards"]:
                for unit in shard["units"]:
                    del unit["options"]  # they are the dataset's
        value["schema_version"] = SCHEMA_VERSION
        value["estimate"] = dataclasses.asdict(estimate(self))
        return dump_json(value)

    @classmethod
    def from_json(cls, text: str, path: str) -> Plan:
        """Raises UsageError if the text is not a plan of this version."""
        try:
            value = json.loads(text)
            if value["schema_version"] != SCHEMA_VERSION:
                raise UsageError(f"{path}: a plan of schema version {value['schema_version']}")
            return cls(
                tiers=tuple(Tier.parse(tier) for tier in value["tiers"]),
                prefix_dataset=value["prefix_dataset"],
                datasets=tuple(_dataset_of(d) for d in value["datasets"]),
            )
        except (ValueError, KeyError, TypeError) as e:
            raise UsageError(f"{path}: not a plan ({e}); remove it and plan again") from e

    def digest(self) -> str:
        """Hex digest of what decides the output's bytes: not of where the raw files lie, nor of
        when they were written."""
        value = dataclasses.asdict(self)
        for dataset in value["datasets"]:
            del dataset["root"]
            for shard in dataset["shards"]:
                for unit in shard["units"]:
                    del unit["stamp"]
        return hashlib.blake2b(dump_json(value).encode(), digest_size=16).hexdigest()


def _dataset_of(value: dict[str, Any]) -> Dataset:
    shards = [
        Shard(index=s["index"], units=tuple(Unit(**u) for u in s["units"]))
        for s in value.pop("shards")
    ]
    return Dataset(**value | {"shards": tuple(shards), "splits": tuple(value["splits"])})


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


def estimate(plan: Plan) -> Estimate:
    """The sums over all units; frames count every camera at the table's rate."""
    shards = [shard for dataset in plan.datasets for shard in dataset.shards]
    units = [unit for shard in shards for unit in shard.units]
    frames = sum(unit.frames for unit in units)
    per_frame = sum(
        t.height * t.width * (3 if t.encoding == "raw" else _JPEG_BYTES_PER_PIXEL)
        for t in plan.tiers
    )
    return Estimate(
        units=len(units),
        shards=len(shards),
        raw_bytes=sum(unit.cost for unit in units),
        episodes=sum(unit.episodes for unit in units),
        frames=frames,
        chunks=sum(_chunks(unit) for unit in units),
        table_bytes=int(frames * per_frame),
    )


def _chunks(unit: Unit) -> int:
    return math.ceil(unit.frames / max(unit.episodes, 1) / MAX_FRAMES) * unit.episodes


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
    listed = list(source.units(root, int(shard_mb * 1e6 / _UNITS_PER_SHARD)))
    stamps = files.stamps(root, (unit.uri for unit in listed))
    units = [_planned(unit, root, stamps.get(unit.uri, "")) for unit in listed]
    if not units:
        raise UsageError(f"--source {name}={path}: holds nothing to read")
    repeated = [u.id for u, n in _counted(units) if n > 1]
    if repeated:
        raise UsageError(f"--source {name}={path}: unit {repeated[0]!r} is there twice")
    versions = sorted({unit.version for unit in units})
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
    drawn = any(unit.split is None for unit in units)
    present = {unit.split for unit in units} | ({"train", "val"} if drawn else set())
    return Dataset(
        name=name,
        version=versions[0],
        root=root,
        fps=rate,
        options=options,
        splits=tuple(split for split in SPLITS if split in present),
        recipe=_recipe(rate, source.INFO.fit, options),
        shards=tuple(_pack(units, shard_mb * 1e6)),
    )


def _counted(units: list[Unit]) -> Iterator[tuple[Unit, int]]:
    key = lambda unit: unit.id  # noqa: E731
    for _, group in itertools.groupby(sorted(units, key=key), key=key):
        same = list(group)
        yield same[0], len(same)


def _recipe(fps: float | None, fit: str, options: dict[str, float]) -> str:
    rate = "every frame" if fps is None else f"{fps:g} fps"
    own = "".join(f"{name}: {value:g}; " for name, value in options.items())
    return f"{own}resample: {rate}; resize: {fit}, area; chunk: {MAX_FRAMES}; bins: {BINS}"


def _planned(unit: Unit, root: str, stamp: str) -> Unit:
    return dataclasses.replace(unit, uri=relative_uri(unit.uri, root), stamp=stamp)


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


def _pack(units: list[Unit], target: float) -> Iterator[Shard]:
    """Units in order, packed into shards of near-equal cost, about `target` bytes each."""
    total = sum(unit.cost for unit in units)
    share = total / max(1, math.ceil(total / target)) or 1.0
    done = 0
    groups: dict[int, list[Unit]] = {}
    for unit in units:
        # a unit belongs where its middle falls, which keeps shards within one unit of their share
        groups.setdefault(int((done + unit.cost / 2) / share), []).append(unit)
        done += unit.cost
    for index, group in enumerate(groups.values()):
        yield Shard(index=index, units=tuple(group))


def save(plan: Plan, out: str) -> bool:
    """Writes OUT/plan.json; False if the same plan is there already.

    The plan that is there keeps its stamps, so that a raw file that has changed since is noticed;
    but where the corpus has moved, and nothing is finished yet, the new one takes its place.

    Raises:
        UsageError: if OUT holds another plan, or is not empty and holds none.
    """
    path = files.join(out, PLAN)
    if files.exists(path):
        saved = Plan.from_json(files.read(path).decode(), path)
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
        files.write(path, plan.to_json().encode())
        return True
    there = files.glob(out, "*") if files.exists(out) else []
    if not all(files.is_temporary(path) for path, _ in there):
        raise UsageError(f"{out}: not empty and not a table; give an --out that does not exist yet")
    files.write(path, plan.to_json().encode())
    return True


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
        if x.version != y.version:
            return f"{x.name} {x.version} there, {y.version} now"
        if dataclasses.replace(x, root="") != dataclasses.replace(y, root=""):
            return f"the files of {x.name}, or their packing into shards, have changed"
    return "the same in every field"
