"""The audit beside lerobot-doctor and TensorFlow Data Validation, on the same episodes with the
same defects: seconds of the whole command, and which defects each finds, and names the episode of.

A defect is found by lerobot-doctor if what it says of the spoiled dataset and not of the clean one
names its episode, or is about such a defect by a word of it; by TFDV, whose statistics know no
record, if it reports an anomaly of the feature that the defect is in.
"""

from __future__ import annotations

import json
import re
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from tests.bench.takes import DEFECTS, takes, write_flat, write_lerobot, write_table
from tests.bench.timing import Row, in_turns, progress
from tests.command import ROOT

EPISODES, _ROUNDS = 130, 3
# words of lerobot-doctor's messages about each kind of defect
_WORDS = {
    "an action that is no number": r"nan",
    "an action of 50 m": r"outlier|range|extreme",
    "a gripper of 3": r"outlier|range|extreme",
    "a time that repeats": r"timestamp|monoton|duplicate",
    "a gap of 4 s": r"timestamp|gap|drop|jitter",
    "frozen frames": r"frozen|static|freeze",
    "black frames": r"black|blank|dark",
    "frames of one colour": r"uniform|blank|colou?r",
    "an episode in two splits": r"duplicate|split|leak",
    "an empty text": r"empty|task",
    "markup in a text": r"markup|html",
    "a text in another script": r"script|language",
    "a text that steers a terminal": r"control char|escape",
}


def rows(folder: Path, doctor: str, tfdv: str) -> Iterator[Row]:
    """A line per peer: seconds of both, and defects found (and named) of those planted."""
    shutil.rmtree(folder, ignore_errors=True)
    places: dict[str, int] = {}
    for kind in ("clean", "spoiled"):
        found, places = takes(EPISODES, defects=kind == "spoiled")
        write_table(folder / kind / "table", found)
        write_lerobot(folder / kind / "lerobot", found)
        write_flat(folder / kind / "flat/data.tfrecord", found)
    said: dict[str, tuple[set[str], set[str]]] = {}

    def timed(name: str, run) -> float:
        begin = time.perf_counter()
        said[name] = run()
        return time.perf_counter() - begin

    sides = {
        "ours": lambda: timed("ours", lambda: _ours(folder, places)),
        "lerobot-doctor": lambda: timed("lerobot-doctor", lambda: _doctor(doctor, folder, places)),
        "tfdv": lambda: timed("tfdv", lambda: _tfdv(tfdv, folder)),
    }
    taken = {name: statistics.median(each) for name, each in in_turns(_ROUNDS, sides).items()}
    for name, (found, named) in said.items():
        progress(f"{name}: found {sorted(found)}; named {sorted(named)}")
    total = len(DEFECTS)
    ours = f"{len(said['ours'][0])}/{total}, {len(said['ours'][1])} named"
    for name in ("lerobot-doctor", "tfdv"):
        theirs = f"{len(said[name][0])}/{total}, {len(said[name][1])} named"
        yield Row(
            f"{EPISODES} episodes, {total} defects: seconds",
            name,
            f"{taken['ours']:.1f}",
            f"{taken[name]:.1f}",
            f"{taken[name] / taken['ours']:.1f}x",
            ours,
            theirs,
        )


def _ours(folder: Path, places: dict[str, int]) -> tuple[set[str], set[str]]:
    """`unisim audit` as a command; it must be silent on the clean table."""
    kinds = {}
    for kind in ("clean", "spoiled"):
        out = folder / kind / "findings.jsonl"
        command = [sys.executable, "-m", "infra.cli", "audit", str(folder / kind / "table")]
        if kind == "spoiled" or not out.exists():
            subprocess.run([*command, "--jsonl", str(out)], cwd=ROOT, stdout=subprocess.DEVNULL)
        kinds[kind] = [json.loads(each) for each in out.read_text().splitlines()]
    assert kinds["clean"] == [], kinds["clean"]
    named = {each["episode_id"] for each in kinds["spoiled"]}
    found = {name for name, i in places.items() if f"{i:06d}" in named}
    return found, found


def _doctor(python: str, folder: Path, places: dict[str, int]) -> tuple[set[str], set[str]]:
    spoiled = _messages(python, folder / "spoiled/lerobot")
    saved = folder / "clean/doctor.json"
    if not saved.exists():
        saved.write_text(json.dumps(_messages(python, folder / "clean/lerobot")))
    new = [each for each in spoiled if each not in json.loads(saved.read_text())]
    text = "\n".join(new)
    named = {name for name, i in places.items() if re.search(rf"(?<!\d){i}(?!\d)", text)}
    found = {name for name, words in _WORDS.items() if re.search(words, text, re.IGNORECASE)}
    return found | named, named


def _messages(python: str, path: Path) -> list[str]:
    command = [str(Path(python).with_name("lerobot-doctor")), "check", str(path), "--json", "-v"]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    return [
        each["message"]
        for check in json.loads(done.stdout)["checks"]
        for each in check["messages"]
        if each["severity"] != "PASS"
    ]


def _tfdv(python: str, folder: Path) -> tuple[set[str], set[str]]:
    paths = [str(folder / kind / "flat/data.tfrecord") for kind in ("clean", "spoiled")]
    command = [python, str(ROOT / "tests/bench/peer_tfdv.py"), *paths]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    said = json.loads(done.stdout.splitlines()[-1])["anomalies"]
    return {name for name, (_, features) in DEFECTS.items() if set(features) & set(said)}, set()
