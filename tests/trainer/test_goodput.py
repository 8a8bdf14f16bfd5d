"""The ledger's lines add up to the wall time, whatever ended the processes that wrote them."""

import json
import types

import jax
import jax.numpy as jnp
import pytest

from infra.verbs import goodput as verb
from schemas import UsageError
from trainer.train.chips import utilisation
from trainer.train.goodput import GOODPUT, KINDS, Ledger, read_goodput
from trainer.train.metrics import Progress


def _line(begin, now, first, step, **spent):
    known = {"begin": begin, "now": now, "first": first, "step": step}
    return json.dumps(known | {"spent": spent}) + "\n"


def test_a_killed_run_is_added_up(tmp_path):
    """Step 40 was saved, the process died at 50 or later, and another came 30 s later."""
    lines = [
        _line(1000.0, 1050.0, 0, 20, start=10.0, compile=20.0, data=0.0),
        _line(1000.0, 1085.0, 0, 50, start=10.0, compile=20.0, data=5.0),
        _line(1115.0, 1155.0, 40, 60, start=5.0, compile=5.0, data=0.0, checkpoint=10.0),
        '{"begin": 1115.0, "now": 12',
    ]
    (tmp_path / GOODPUT).write_text("".join(lines))
    found = read_goodput(tmp_path)
    assert found is not None and (found.steps, found.processes) == (60, 2)
    assert found.seconds == {
        "step": 40.0 + 20.0,  # 50 s of 50 steps, of which 10 were lost
        "start": 15.0,
        "compile": 25.0,
        "data": 5.0,
        "checkpoint": 10.0,
        "validation": 0.0,
        "redone": 10.0,
        "down": 30.0,
    }
    assert sum(found.seconds.values()) == 155.0 and found.share == 60 / 155
    said = str(found)
    assert "goodput 38.7%: 60 steps in 155 s" in said and all(kind in said for kind in KINDS)


def test_what_a_process_books_is_its_time(tmp_path):
    ledger = Ledger(tmp_path, 3)
    with ledger.spending("data"):
        sum(range(200_000))
    ledger.write(5)
    silent = Ledger(tmp_path, 3, write=False)
    silent.write(9)
    [line] = (tmp_path / GOODPUT).read_text().splitlines()
    values = json.loads(line)
    assert (values["first"], values["step"]) == (3, 5) and values["begin"] <= values["now"]
    assert 0 < values["spent"]["data"] == ledger.waited
    assert values["spent"]["start"] > 0.1  # this process has imported JAX before


def test_the_verb_prints_both_ways_and_names_what_is_missing(tmp_path, capsys):
    with pytest.raises(UsageError, match=r"goodput.jsonl: tells of no step; wanted the --out"):
        verb.main(["--run", str(tmp_path)])
    (tmp_path / GOODPUT).write_text(_line(10.0, 30.0, 0, 10, compile=5.0))
    assert verb.main(["--run", str(tmp_path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["share"] == 0.75
    assert verb.main(["--run", str(tmp_path)]) == 0
    assert "step" in capsys.readouterr().out


def test_a_line_tells_of_what_went_on_since_the_one_before(monkeypatch):
    clock = types.SimpleNamespace(now=100.0)
    monkeypatch.setattr("trainer.train.metrics.time.perf_counter", lambda: clock.now)
    progress = Progress(first=10, steps=110, batch_size=8)
    clock.now = 130.0
    assert progress.line(11, 0.5) == "step 11/110  loss 0.5000  (compiled in 30 s)"
    clock.now = 140.0
    assert progress.line(31, 0.4, waited=1.0) == (
        "step 31/110  loss 0.4000  2 steps/s  16 samples/s  10% data wait  40 s left"
    )
    clock.now = 160.0  # it has become slower
    assert progress.line(41, 0.3, waited=11.0, utilisation=0.8) == (
        "step 41/110  loss 0.3000  0.5 steps/s  4 samples/s  50% data wait  40% MFU  2 min left"
    )
    assert progress.rate(41) == 1.0


def test_utilisation_is_flops_over_the_peak_of_the_chip():
    compiled = jax.jit(lambda a, b: a @ b).lower(jnp.ones((64, 32)), jnp.ones((32, 16))).compile()
    flops = 2 * 64 * 32 * 16
    assert utilisation(compiled, "TPU v5p") == pytest.approx(flops / 459e12)
    assert utilisation(compiled, "TPU v3") == pytest.approx(flops / (123e12 / 2))
    assert utilisation(compiled, "cpu") == utilisation(compiled) == 0
