"""The plan: units in columns, shards of near-equal cost, written and read back."""

import dataclasses
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines import plan
from pipelines.episode import Unit
from pipelines.plan import Plan
from pipelines.units import Units
from schemas import Tier, UsageError
from tests.command import unisim

COSTS = st.lists(st.integers(0, 10_000), min_size=1, max_size=200)


def unit(number: int, cost: int, **changes) -> Unit:
    params = {"span": [number, number + 1], "text": "a“b”\nc"}
    made = Unit(
        id=f"clip/{number}",
        uri=f"/raw/{number}.mp4",
        split=None,
        cost=cost,
        episodes=1,
        frames=cost // 10,
        version="1.0.0",
        params=params,
    )
    return dataclasses.replace(made, **changes)


def units_of(units: Units) -> list[Unit]:
    return [each for shard in range(units.num_shards) for each in units.shard(shard)]


@given(COSTS, st.integers(1, 20_000))
def test_shards_hold_all_units_in_order_and_cost_nearly_the_same(costs, target):
    given_units = [unit(i, cost) for i, cost in enumerate(costs)]
    units = Units.packed(given_units, target)
    assert units_of(units) == given_units
    shards = [units.shard(i) for i in range(units.num_shards)]
    assert all(shards) and len(shards) <= max(1, -(-sum(costs) // target))
    found = [sum(each.cost for each in shard) for shard in shards]
    assert units.costs().tolist() == found
    share = sum(costs) / max(1, -(-sum(costs) // target))
    assert max(found) <= share + max(costs)


def test_small_units_make_even_shards():
    """An eighth of a shard each, as the plan asks sources to cut."""
    units = Units.packed((unit(i, 700 + 600 * (i % 2)) for i in range(4_000)), 8_000)
    assert plan.unevenness(units) <= 1.3 and units.num_shards == 500


def test_units_come_back_from_their_file(tmp_path):
    made = {
        "b": Units.packed((unit(i, 9, split="train", stamp=str(i)) for i in range(40_000)), 100),
        "a": Units.packed([unit(1, 0)], 100),
    }
    path = str(tmp_path / "units.parquet")
    Units.save(made, path)
    found = Units.load(path)
    assert list(found) == ["b", "a"]
    for name, units in made.items():
        assert units_of(found[name]) == units_of(units)
        assert found[name].digest() == units.digest()
        assert found[name].costs().tolist() == units.costs().tolist()


def test_the_digest_is_of_everything_but_stamps():
    def digest(**changes) -> str:
        return Units.packed([unit(0, 50), unit(1, 60, **changes)], 1_000).digest()

    assert digest(stamp="12 bytes") == digest()
    assert digest(options={"x": 1.0}) == digest(), "they are the dataset's"
    for changes in ({"id": "x"}, {"uri": "x"}, {"split": "val"}, {"params": {}}, {"frames": 1}):
        assert digest(**changes) != digest()
    packed_otherwise = Units.packed([unit(0, 50), unit(1, 60)], 60).digest()
    assert packed_otherwise != digest()


def test_an_id_that_two_units_have_is_found():
    units = [unit(i, 1) for i in range(100)]
    assert Units.packed(units, 10).repeated() is None
    assert Units.packed([*units, unit(200, 1, id="clip/7")], 10).repeated() == "clip/7"


@pytest.fixture
def planned(tmp_path, fakes):
    out = tmp_path / "table"
    unisim("plan", "--source", f"bridge={fakes['bridge']}", "--out", out, "--shard-mb", "0.01")
    return out


def test_a_plan_comes_back_as_it_was_made(planned, fakes):
    made = plan.make(
        [("bridge", str(fakes["bridge"]))], tiers=[Tier.parse("24x40:raw")], fps={}, shard_mb=0.01
    )
    saved = Plan.load(str(planned))
    assert saved.digest() == made.digest() and saved.to_json() == made.to_json()
    assert saved == made and saved.costs() == made.costs() and len(made.costs()) > 1
    (dataset,) = saved.datasets
    for shard in range(dataset.planned.num_shards):
        assert dataset.shard(shard) == made.datasets[0].shard(shard)


@pytest.mark.parametrize(
    ("name", "damage", "says"),
    [
        ("plan.json", lambda data: data[:-9], "not a plan"),
        ("plan.json", lambda data: data.replace(b"tiers", b"tears"), "not a plan"),
        ("plan.json", lambda data: data.replace(b'"bridge"', b'"ridges"'), "not a plan"),
        ("plan.json", lambda data: b'{"schema_version": 1}', "schema version 1"),
        ("plan.units.parquet", lambda data: data[:-9], "not a plan"),
        ("plan.units.parquet", lambda data: None, "no whole plan"),
    ],
)
def test_a_damaged_plan_is_refused_in_one_line(name, damage, says, planned):
    path = planned / name
    damaged = damage(path.read_bytes())
    path.unlink() if damaged is None else path.write_bytes(damaged)
    with pytest.raises(UsageError, match=says) as e:
        Plan.load(str(planned))
    assert "\n" not in str(e.value) and str(planned) in str(e.value)


def test_a_plan_that_was_killed_before_its_end_is_made_again(planned, fakes):
    whole = (planned / "plan.json").read_bytes()
    (planned / "plan.json").unlink()
    (planned / ".tmp-1-plan.json").write_bytes(whole[:9])
    flags = ["--source", f"bridge={fakes['bridge']}", "--out", planned, "--shard-mb", "0.01"]
    assert "plan.json written" in unisim("plan", *flags).stdout
    assert (planned / "plan.json").read_bytes() == whole


def test_the_estimate_is_the_sum_over_all_units(planned):
    price = json.loads((planned / "plan.json").read_text())["estimate"]
    (dataset,) = Plan.load(str(planned)).datasets
    units = units_of(dataset.planned)
    for name in ("episodes", "frames"):
        assert price[name] == sum(getattr(each, name) for each in units)
    assert price["raw_bytes"] == sum(each.cost for each in units)
    assert price["units"] == len(units) and price["largest_shard"] >= 1
