"""However finely a source is cut, its episodes are the same; and however badly a corpus is
distributed, the largest shard costs at most 1.3 times the mean."""

import dataclasses
import hashlib
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from pipelines import plan, sources
from pipelines.episode import Episode, Unit
from pipelines.sources import laion
from pipelines.units import Units
from schemas import DataError, Tier
from tests.fuzz.harness import corpora
from tests.pipelines import uneven

FORMS = {form.partition("/")[0] for form in uneven.CORPORA}
TIERS = [Tier(24, 40, "raw")]
# fewer views of the same panoramas, to be quick
OPTIONS = {"looks": 1.0, "height": 24.0, "width": 40.0}


@pytest.fixture(scope="module")
def paths(tmp_path_factory, fakes) -> dict[str, Path]:
    """Every native form of every source with its traps."""
    root, found = tmp_path_factory.mktemp("forms"), dict(fakes)
    for form in set(corpora()) - set(fakes):
        name, _, fake = form.partition(".")
        (root / form).mkdir()
        found[form] = getattr(sources.get(name), fake)(root / form, 0)
    return found


def units(form: str, path: Path, target: int) -> list[Unit]:
    """As they come back from a plan."""
    source = sources.get(form.partition(".")[0])
    given = {o.name for o in source.INFO.options} & OPTIONS.keys()
    found = [dataclasses.asdict(unit) for unit in source.units(str(path), target)]
    options = {"options": {name: OPTIONS[name] for name in given}}
    return [Unit(**unit | options) for unit in json.loads(json.dumps(found))]


def told(form: str, found: list[Unit]) -> list[tuple]:
    """All that is said of every item, in order; where a file is lost, what its units say is one."""
    source = sources.get(form.partition(".")[0])
    items: list[tuple] = []
    for unit in found:
        try:
            items += [told_of(item) for item in source.episodes(unit)]
        except DataError as e:
            if not items or items[-1] != ("unit", *lost(e)):
                items.append(("unit", *lost(e)))
    return items


def lost(e: DataError) -> tuple:
    return e.key, e.reason, e.stage, e.uri, e.where, e.counts


def told_of(item: Episode | DataError) -> tuple:
    if isinstance(item, DataError):
        return lost(item)
    state, end = hashlib.blake2b(), ()
    try:
        for i, frame in enumerate(item.frames):
            control = b"" if frame.control is None else np.asarray(frame.control).tobytes()
            pixels = frame.image().tobytes() if i == 0 else b""
            text = frame.text.encode()
            for part in (np.float64(frame.time).tobytes(), control, text, pixels):
                state.update(len(part).to_bytes(8) + part)
    except DataError as e:
        end = lost(e)
    place = item.source_uri, item.source_range, item.license, item.fps, item.controls
    return item.id, item.view, *place, state.hexdigest(), end


@pytest.mark.parametrize("form", corpora())
def test_episodes_are_the_same_however_finely_they_are_cut(form, paths):
    whole = units(form, paths[form], 1 << 50)
    total = sum(unit.cost for unit in whole)
    medium, single = (units(form, paths[form], target) for target in (total // 8, 1))
    assert len(whole) <= len(medium) <= len(single)
    assert len(whole) < len(single) or form not in FORMS
    wanted = told(form, whole)
    assert told(form, medium) == wanted
    assert told(form, single) == wanted
    assert any(len(item) > 6 for item in wanted) and len(set(wanted)) == len(wanted)
    largest = max(unit.cost for unit in single)
    for cut, target in ((medium, total // 8), (single, 1)):
        assert len({unit.id for unit in cut}) == len(cut)
        assert max(unit.cost for unit in cut) <= target + largest
        assert 0.8 * total <= sum(unit.cost for unit in cut) <= total + len(cut)


def made(form: str, path: Path, shard_mb: float) -> plan.Plan:
    name = form.partition("/")[0].partition(".")[0]
    return plan.make([(name, str(path))], tiers=TIERS, fps={}, shard_mb=shard_mb)


def test_uneven_corpora_are_of_sources_that_there_are():
    assert set(corpora()) >= FORMS


@pytest.mark.parametrize("form", sorted(uneven.CORPORA))
def test_no_shard_costs_much_more_than_the_mean(form, tmp_path):
    path = uneven.CORPORA[form](tmp_path)
    source = sources.get(form.partition("/")[0].partition(".")[0])
    costs = [unit.cost for unit in source.units(str(path), 1)]
    size = uneven.shard_bytes(max(costs), sum(costs))
    (dataset,) = made(form, path, size / 1e6).datasets
    assert dataset.planned.num_shards >= 10
    assert plan.unevenness(dataset.planned) <= 1.3
    whole = Units.packed(source.units(str(path), 1 << 50), size)
    assert whole.num_shards < 10 or plan.unevenness(whole) > 1.3, "the corpus is badly distributed"


@pytest.mark.parametrize("form", ["laion", "laion/rising"])
def test_parts_of_a_tar_read_what_they_are_said_to_cost(form, tmp_path):
    """By the bytes of the images themselves, which no plan has seen."""
    (dataset,) = made(form, uneven.CORPORA[form](tmp_path), 0.12).datasets
    read = []
    for shard in range(dataset.planned.num_shards):
        found = [
            dataclasses.replace(unit, uri=plan.absolute_uri(unit.uri, dataset.root))
            for unit in dataset.shard(shard).units
        ]
        items = [item for unit in found for item in laion.episodes(unit)]
        images = [next(iter(item.frames)).image for item in items if isinstance(item, Episode)]
        assert len(images) == len(items)
        read.append(sum(len(image.data) + 512 for image in images))  # type: ignore[attr-defined]
    assert len(read) >= 10 and max(read) <= 1.3 * sum(read) / len(read)


@pytest.mark.parametrize("form", ["habitat", "matterport3d", "panorama"])
def test_parts_of_a_scene_cost_what_is_in_them(form, tmp_path):
    """The files of their items, and no mean; an image's depth is with the image."""
    path = uneven.CORPORA[form](tmp_path)
    shares = {"habitat": "*.json.gz", "matterport3d": "none", "panorama": "none"}[form]
    shared = sum(file.stat().st_size for file in path.rglob(shares))
    left = {file: file.stat().st_size for file in path.rglob("*") if file.is_file()}
    extra = 0
    for unit in sources.get(form).units(str(path), 300_000):
        first, until = unit.params["names"]
        scene = Path(unit.uri).name.removesuffix(".json.gz")
        mine = [
            file
            for file in left
            if scene in file.parts
            and file.suffix in (".jpg", ".png", ".mp4")
            and first <= name_of(form, file, scene) < (until or "~")
        ]
        size = sum(left.pop(file) for file in mine)
        assert size <= unit.cost <= size + shared
        extra += unit.cost - size
    assert extra == shared and not [file for file in left if file.suffix in (".jpg", ".mp4")]


def name_of(form: str, file: Path, scene: str) -> str:
    """Of the item that a file belongs to."""
    if form == "habitat":
        return file.parts[file.parts.index(scene) + 1].removesuffix(".mp4")
    if form == "matterport3d":
        return file.name.split("_")[0]
    return file.name.replace("depth", "pano").replace("png", "jpg")


@pytest.mark.parametrize(
    ("name", "folder", "pattern"),
    [
        ("matterport3d", "aB3dE5fG7hJ", "matterport_skybox_images/*_skybox2_sami.jpg"),
        ("panorama", "house", "?.jpg"),
    ],
)
def test_what_begins_at_a_panorama_that_comes_back_is_of_the_part_that_lost_it(
    name, folder, pattern, tmp_path, fakes
):
    """So that it is enough to read again what lost something."""
    path = shutil.copytree(fakes[name], tmp_path / name)
    file = sorted((path / folder).glob(pattern))[1]
    whole = file.read_bytes()
    file.unlink()
    for routes in path.glob("R2R_*.json"):  # one that passes there begins elsewhere
        routes.unlink()
    options = {"looks": 1.0, "steps": 0.0, "goes": 0.0, "walks": 0.0}
    parts = [
        dataclasses.replace(unit, options=options)
        for unit in units(name, path, 1)
        if Path(unit.uri).name == folder
    ]

    def read() -> list[list[str]]:
        """Of each unit: its episodes' names, and "" for what counts as lost."""
        found = [list(sources.get(name).episodes(unit)) for unit in parts]
        return [
            [x.id if isinstance(x, Episode) else "" for x in items if not lost_freely(x)]
            for items in found
        ]

    spoilt = read()
    file.write_bytes(whole)
    mended = read()
    (at,) = [i for i, (a, b) in enumerate(zip(spoilt, mended, strict=True)) if a != b]
    assert "" in spoilt[at] and "" not in mended[at]


def lost_freely(item: Episode | DataError) -> bool:
    return isinstance(item, DataError) and not item.counts
