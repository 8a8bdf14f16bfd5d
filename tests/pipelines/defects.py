"""Defects to plant in a clean table (`tests.pipelines.planted`), a function each.

`DRAFT` ones change chunks before they are written, so that digests and index agree with them;
`DISK` ones change the files of a written table. Each tells which checks find it, all of them, and
what at least one finding names.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from schemas import NUM_SLOTS, decode, discretise, encode, mask_of, text_key
from schemas.columns import DEAD_LETTER_SCHEMA
from tests.pipelines.planted import (
    LARGE,
    PHOTOS,
    SMALL,
    Draft,
    change_index,
    change_manifest,
    frames_of,
    resign,
    rewrite,
    texture,
)


class Defect(NamedTuple):
    """One defect.

    Attributes:
        checks: those that find it, and no others.
        where: that a finding of the first of them has as its place.
        plant: what is done.
    """

    checks: tuple[str, ...]
    where: str
    plant: Callable


DRAFT: dict[str, Defect] = {}
DISK: dict[str, Defect] = {}


def _register(into: dict[str, Defect], where: str, checks: tuple[str, ...]):
    def decorate(function):
        into[function.__name__] = Defect(checks, where, function)
        return function

    return decorate


def draft(where: str, *checks: str):
    return _register(DRAFT, where, checks)


def disk(where: str, *checks: str):
    return _register(DISK, where, checks)


# integrity: files


@disk("arm-train.array_record-00000", "file-readable", "file-digest")
def truncated_shard(table: Path):
    path = frames_of(table, "arm")
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


@disk("arm-train.array_record-00000", "file-readable")
def truncated_shard_that_is_signed(table: Path):
    truncated_shard(table)
    resign(table)


@disk("arm/arm-00/1", "file-readable", "file-digest")
def flipped_bit(table: Path):
    path = frames_of(table, "arm")
    data = bytearray(path.read_bytes())
    data[70_000] ^= 1
    path.write_bytes(bytes(data))


@disk("drone-train.array_record-00000", "file-digest", "file-readable")
def missing_shard(table: Path):
    frames_of(table, "drone", LARGE).unlink()


@disk("frames-24x40/extra.array_record", "file-orphan")
def orphan(table: Path):
    (table / "frames-24x40/extra.array_record").write_bytes(b"")


@disk("features.json", "file-digest")
def other_features(table: Path):
    min(table.rglob("features.json")).write_text("{}")


@disk("arm-train.array_record-00000", "file-digest")
def manifest_lies_about_a_size(table: Path):
    name = frames_of(table, "arm").relative_to(table).as_posix()
    change_manifest(table, lambda m: m["files"][name].__setitem__(0, 5))


@disk("arm", "manifest-totals")
def manifest_lies_about_frames(table: Path):
    change_manifest(table, lambda m: m["datasets"][0].update(frames=1))


@disk("arm", "manifest-totals")
def manifest_lies_about_clipping(table: Path):
    change_manifest(table, lambda m: m["datasets"][0].update(clipped={"ee_dx": 3}))


@disk("photos", "manifest-losses")
def manifest_hides_losses(table: Path):
    letter = dict.fromkeys(DEAD_LETTER_SCHEMA.names, "x")
    letter |= {"dataset": "photos", "shard": 0, "episodes": 1, "stage": "decode"}
    letters = pa.Table.from_pylist([letter], DEAD_LETTER_SCHEMA)
    pq.write_table(letters, table / "dead_letters.parquet")
    resign(table)


@disk("dead_letters.parquet", "manifest-losses")
def dead_letters_that_are_none(table: Path):
    (table / "dead_letters.parquet").write_bytes(b"PAR1 but no more")
    resign(table)


# integrity: the index


@disk("index.parquet/arm-00000", "file-readable", "file-digest")
def missing_index(table: Path):
    min((table / "index.parquet").glob("arm-00000-*")).unlink()


@disk("index.parquet/arm-00000", "file-readable")
def index_that_is_none(table: Path):
    min((table / "index.parquet").glob("arm-00000-*")).write_bytes(b"PAR1 but no more")
    resign(table)


@disk("arm shard 0", "index-rows", "manifest-totals")
def unreachable_record(table: Path):
    change_index(table, "arm", lambda rows: rows[:-3])


@disk("arm shard 0", "index-rows", "episode-steps")
def position_beyond_the_file(table: Path):
    change_index(table, "arm", lambda rows: [rows[0] | {"position": 99}, *rows[1:]])


@disk("arm/arm-00/0", "index-agrees", "embedding-missing")
def another_text_in_the_index(table: Path):
    other = {"text": "another", "text_key": text_key("another")}
    change_index(table, "arm", lambda rows: [rows[0] | other, *rows[1:]])


@disk("arm/arm-00/0", "index-agrees", "licence-unlisted")
def another_licence_in_the_index(table: Path):
    change_index(table, "arm", lambda rows: [rows[0] | {"license": "CC0-1.0 "}, *rows[1:]])


@disk("arm/arm-00/0", "record-digest")
def another_digest_in_the_index(table: Path):
    digests = [("24x40", b"0" * 16)]
    change_index(
        table,
        "arm",
        lambda rows: [rows[0] | {"digests": digests + list(rows[0]["digests"])[1:]}, *rows[1:]],
    )


# integrity: records


@disk("arm/arm-00/0", "record-digest", "index-agrees", "tiers-agree", "times-gap")
def swapped_records(table: Path):
    rewrite(table, frames_of(table, "arm"), lambda r: [r[1], r[0], *r[2:]])


@disk("arm-train.array_record-00000", "record-count")
def dropped_record(table: Path):
    rewrite(table, frames_of(table, "arm"), lambda r: r[:-1])


@disk("arm-train.array_record-00000", "record-count")
def record_too_many(table: Path):
    rewrite(table, frames_of(table, "arm"), lambda r: [*r, r[-1]])


@disk("arm/arm-00/0", "record", "record-digest")
def foreign_record(table: Path):
    rewrite(table, frames_of(table, "arm"), lambda r: [b"not ours", *r[1:]])


@draft("arm/arm-01/1", "tiers-agree")
def tiers_with_other_controls(table: Draft):
    def change(chunk, tier):
        controls = chunk.controls + mask_of(["ee_dx"]) * np.float32(0.01)
        return {"controls": controls, "control_bins": discretise(controls, chunk.control_mask)}

    table.edit("arm", 1, 1, change, tiers=(LARGE,))


# integrity: embeddings


def _keys(table: Path, change: Callable[[np.ndarray], np.ndarray]):
    path = next(table.glob("text/fake/keys-*"))
    np.save(path, change(np.load(path)))
    resign(table)


def _embedding(table: Path, change: Callable[[list[bytes]], list[bytes]]):
    rewrite(table, min(table.glob("text/fake/embeddings*")), change)


@disk("photos/photo-", "embedding-missing", "embedding-keys")
def text_without_embedding(table: Path):
    wanted = np.frombuffer(text_key("a picture of the number 3"), np.uint8)
    _keys(table, lambda keys: np.where((keys == wanted).all(1)[:, None], keys[0], keys))


@disk("text/fake/keys", "embedding-empty", "embedding-keys")
def no_empty_text(table: Path):
    empty = np.frombuffer(text_key(""), np.uint8)
    _keys(table, lambda keys: np.where((keys == empty).all(1)[:, None], keys[0], keys))


@disk("text/fake/keys", "embedding-keys")
def unsorted_keys(table: Path):
    _keys(table, lambda keys: keys[[1, 0, *range(2, len(keys))]])


@disk("text/fake/keys", "file-readable")
def keys_too_few(table: Path):
    _keys(table, lambda keys: keys[1:])


@disk("text/fake/embeddings", "embedding-rows")
def embedding_that_is_not_finite(table: Path):
    _embedding(table, lambda r: [b"\xff\xff" * (len(r[0]) // 2), *r[1:]])


@disk("text/fake/embeddings", "embedding-rows")
def embedding_of_half_a_token(table: Path):
    _embedding(table, lambda r: [r[0][:-2], *r[1:]])


@disk("text/fake/embeddings", "embedding-rows")
def embedding_of_too_many_tokens(table: Path):
    _embedding(table, lambda r: [r[0][:16] * 65, *r[1:]])


@disk("text/fake/embeddings", "embedding-rows")
def embedding_lost(table: Path):
    _embedding(table, lambda r: r[:-1])


# schema


def _controls(change: Callable[[np.ndarray], None]):
    def changed(chunk, tier):
        controls = chunk.controls.copy()
        change(controls)
        with np.errstate(all="ignore"):
            return {"controls": controls, "control_bins": discretise(controls, chunk.control_mask)}

    return changed


@draft("arm/arm-02/1", "times")
def times_that_repeat(table: Draft):
    table.edit("arm", 2, 1, lambda c, _: {"times": np.maximum(c.times, c.times[2])})


@draft("arm/arm-02/1", "times-agree")
def times_of_another_rate(table: Draft):
    table.edit("arm", 2, 1, fps=30.0)


@draft("arm/arm-02/1", "times-gap")
def frames_lost_in_the_middle(table: Draft):
    for step in (1, 2):  # from the middle of the one on
        late = np.arange(16) >= (8 if step == 1 else 0)
        table.edit(
            "arm",
            2,
            step,
            lambda c, _, late=late: {
                "times": c.times + np.float32(3) * late[: len(c.times)].astype(np.float32)
            },
        )


@draft("arm/arm-02/2", "times-gap")
def frames_lost_between_records(table: Draft):
    table.edit("arm", 2, 2, lambda c, _: {"times": c.times + np.float32(3)})


@draft("arm/arm-02/1", "fps")
def rate_of_a_still_image(table: Draft):
    table.edit("arm", 2, 1, fps=0.0)


@draft("arm/arm-02/1", "controls")
def control_that_is_no_number(table: Draft):
    table.edit("arm", 2, 1, _controls(lambda c: c.__setitem__((0, 0), np.nan)))


@draft("arm/arm-02/1", "controls")
def control_out_of_range(table: Draft):
    table.edit("arm", 2, 1, _controls(lambda c: c.__setitem__((0, 6), 3.0)))


@draft("arm/arm-02/1", "controls")
def control_outside_the_mask(table: Draft):
    table.edit("arm", 2, 1, _controls(lambda c: c.__setitem__((0, 8), 0.5)))


@draft("arm/arm-02/1", "control-bins")
def other_bins(table: Draft):
    table.edit("arm", 2, 1, lambda c, _: {"control_bins": c.control_bins + 1})


@draft("arm/arm-02/1", "declared-slots")
def slot_that_is_not_declared(table: Draft):
    def change(chunk, tier):
        mask = chunk.control_mask | mask_of(["base_dx"])
        return {"control_mask": mask, "control_bins": discretise(chunk.controls, mask)}

    table.edit("arm", 2, 1, change)


@draft("arm/arm-02/1", "frames")
def seventeen_frames(table: Draft):
    table.show("arm", 2, 1, table.pictures("arm", 2, 1)[[0, *range(16)]])
    table.edit(
        "arm",
        2,
        1,
        lambda c, _: {
            "times": (3.2 + np.arange(17) / 5).astype(np.float32),
            "controls": np.zeros((17, NUM_SLOTS), np.float32),
            "control_bins": discretise(np.zeros((17, NUM_SLOTS)), c.control_mask),
            "overlap": np.full(17, np.nan, np.float32),
        },
    )
    table.edit("arm", 2, 2, lambda c, _: {"times": c.times + np.float32(0.2)})


@draft("drone/flight-0/0", "frames", "frames-decode")
def frame_too_few(table: Draft):
    table.edit("drone", 0, 0, lambda c, _: {"frames": c.frames[1:]})


@draft("photos/photo-04/0", "frames-decode")
def frame_of_another_size(table: Draft):
    jpeg = cv2.imencode(".jpg", texture(9, 60, 84))[1].tobytes()
    table.edit("photos", 4, 0, frames=(jpeg,), tiers=(LARGE,))


@draft("photos/photo-04/0", "frames-decode")
def frame_that_does_not_decode(table: Draft):
    table.edit("photos", 4, 0, frames=(b"\xff\xd8 no picture \xff\xd9",), tiers=(LARGE,))


@draft("photos/photo-04/0", "frames", "frames-decode")
def frame_that_is_cut_short(table: Draft):
    table.edit("photos", 4, 0, lambda c, _: {"frames": (c.frames[0][:-40],)}, tiers=(LARGE,))


@draft("drone/flight-1/1", "overlap")
def overlap_of_two(table: Draft):
    table.edit("drone", 1, 1, lambda c, _: {"overlap": np.full_like(c.overlap, 2)})


@draft("arm/arm-03/5", "episode-steps")
def step_left_out(table: Draft):
    table.edit("arm", 3, 2, lambda c, _: {"step": 5})


@draft("arm/arm-03/2", "episode-steps")
def end_without_is_last(table: Draft):
    table.edit("arm", 3, 2, is_last=False)


@draft("arm/arm-03/0", "episode-steps")
def end_too_early(table: Draft):
    table.edit("arm", 3, 0, is_last=True)


@draft("arm/arm-03/1", "step")
def first_in_the_middle(table: Draft):
    table.edit("arm", 3, 1, is_first=True)


@draft("arm/arm-02/2", "episode-steps")
def episode_in_two_places(table: Draft):
    for episodes in table.datasets["arm"].values():
        episodes[4].append(episodes[2].pop())


@draft("arm/arm-03/2", "episode-times")
def time_that_turns_back(table: Draft):
    table.edit("arm", 3, 2, lambda c, _: {"times": c.times - np.float32(5)})


@draft("photos/photo-05/0", "text")
def empty_text(table: Draft):
    table.edit("photos", 5, 0, text=" ", text_key=text_key(" "))


@disk("photos/photo-00/0", "text", "record-digest", "index-agrees")
def key_of_another_text(table: Path):
    def change(records):
        chunk = dataclasses.replace(decode(records[0], SMALL), text_key=b"0" * 16)
        return [encode(chunk), *records[1:]]

    rewrite(table, frames_of(table, "photos"), change)


@disk("photos/photo-00/0", "split", "record-digest", "index-agrees")
def split_of_no_name(table: Path):
    def change(records):
        return [encode(dataclasses.replace(decode(records[0], SMALL), split="dev")), *records[1:]]

    rewrite(table, frames_of(table, "photos"), change)


@draft("photos/photo-05/0", "passport")
def no_recipe(table: Draft):
    table.edit("photos", 5, 0, recipe="")


@draft("photos/photo-05/0", "passport")
def no_raw_reference(table: Draft):
    table.edit("photos", 5, 0, source_uri="")


# content: frames


@draft("photos/photo-06/0", "frames-black")
def black_picture(table: Draft):
    table.show("photos", 6, 0, np.full((1, 48, 80, 3), 3, np.uint8))


@draft("drone/flight-2/1", "frames-black")
def black_frames_in_between(table: Draft):
    pictures = table.pictures("drone", 2, 1).copy()
    pictures[3:5] = 0
    table.show("drone", 2, 1, pictures)


@draft("photos/photo-06/0", "frames-one-colour")
def gray_picture(table: Draft):
    table.show("photos", 6, 0, np.full((1, 48, 80, 3), 128, np.uint8))


@draft("arm/arm-04/1", "frames-frozen", "motion-missing")
def frozen_frames(table: Draft):
    table.show("arm", 4, 1, np.repeat(table.pictures("arm", 4, 1)[:1], 16, 0))


@draft("arm/arm-04/1", "frames-repeated")
def frames_of_the_record_before(table: Draft):
    for episodes in table.datasets["arm"].values():
        episodes[4][1] = dataclasses.replace(episodes[4][1], frames=episodes[4][0].frames)


@draft("photos/photo-09/0", "tiers-look-alike")
def tier_of_another_picture(table: Draft):
    table.show("photos", 9, 0, texture(77)[None], tiers=(LARGE,))


@draft("drone/flight-3/0", "motion-missing")
def camera_turns_and_nothing_moves(table: Draft):
    still = np.repeat(table.pictures("drone", 3, 0)[:1], 8, 0)
    still[1::2, :2, :2] ^= 8  # not frozen to the bit
    table.show("drone", 3, 0, still)


@draft("arm/arm-05/1", "motion-missing")
def arm_moves_unseen(table: Draft):
    noise = np.random.default_rng(3).integers(-3, 4, (16, 48, 80, 3))
    still = np.clip(table.pictures("arm", 5, 1)[:1] + noise, 0, 255).astype(np.uint8)
    table.show("arm", 5, 1, still)
    table.edit("arm", 5, 1, _controls(lambda c: c.__setitem__((slice(1, None), 0), 0.02)))


@draft("drone/flight-4/1", "motion-unexplained")
def camera_rests_and_all_moves(table: Draft):
    table.edit("drone", 4, 1, _controls(lambda c: c.__setitem__(slice(None), 0.0)))


# content: splits


def _again(table: Draft, dataset: str, episode: int, split: str, change=lambda p: p, **fields):
    """One more episode: an old one, in another split, seen anew."""
    chunks = table.datasets[dataset][LARGE][episode]
    table.add(
        dataset,
        [dataclasses.replace(c, frames=change(c.pixels()), split=split, **fields) for c in chunks],
    )


@draft("arm/copy/0", "split-leak")
def episode_in_two_splits(table: Draft):
    _again(table, "arm", 1, "val", episode_id="copy")


@draft("drone/copy/0", "split-leak")
def episode_in_two_splits_seen_brighter(table: Draft):
    def brighter(pictures):
        return np.clip(pictures.astype(int) + 3, 0, 255).astype(np.uint8)

    _again(table, "drone", 1, "test", brighter, episode_id="copy")


@draft("photos/copy/0", "split-leak")
def picture_in_two_splits_compressed_again(table: Draft):
    def coarser(pictures):
        code = [cv2.IMWRITE_JPEG_QUALITY, 50]
        again = [cv2.imdecode(cv2.imencode(".jpg", p, code)[1], 1) for p in pictures]
        return np.array(again, np.uint8)

    _again(table, "photos", 0, "test", coarser, episode_id="copy")


# content: texts


def _text(table: Draft, text: str, photo: int = 10):
    table.edit("photos", photo, 0, text=text, text_key=text_key(text))


@draft("photos/photo-10/0", "text-long")
def text_of_an_essay(table: Draft):
    _text(table, "walkonandon" * 40)


@draft("photos/photo-10/0", "text-tagged")
def text_with_markup(table: Draft):
    _text(table, "a cat <script>alert(1)</script> on a mat")


@draft("photos/photo-10/0", "text-tagged")
def text_with_an_entity(table: Draft):
    _text(table, "salt &amp; pepper")


@draft("photos/photo-10/0", "text-tagged")
def text_with_the_tags_of_narrations(table: Draft):
    _text(table, "#C C picks up the cup")


@draft("photos/photo-10/0", "text-tagged")
def text_with_a_placeholder(table: Draft):
    _text(table, "pushing [something] so that it falls")


@draft("photos/photo-10/0", "text-control-characters")
def text_that_steers_a_terminal(table: Draft):
    _text(table, "a picture \x1b[31mof red")


@draft("photos/photo-10/0", "text-control-characters")
def text_that_runs_backwards(table: Draft):
    _text(table, "a picture \u202eof red")


@draft("photos/photo-10/0", "text-script")
def text_in_another_script(table: Draft):
    _text(table, "возьми чашку")


@draft("photos", "text-constant")
def text_that_never_varies(table: Draft):
    for i in range(PHOTOS):
        _text(table, "a photo", i)


# rights


@draft("photos/photo-11/0", "licence-missing", "passport")
def no_licence(table: Draft):
    table.edit("photos", 11, 0, license="")


@draft("photos/photo-11/0", "licence-denied", "licence-unlisted")
def licence_that_is_denied(table: Draft):
    table.edit("photos", 11, 0, license="CC-BY-NC-4.0")


@draft("photos/photo-11/0", "licence-unlisted")
def licence_that_the_manifest_does_not_tell(table: Draft):
    table.edit("photos", 11, 0, license="MIT")


# drift, against the clean table


@draft("photos", "drift-count")
def episodes_gone(table: Draft):
    for tier, episodes in table.datasets["photos"].items():
        table.datasets["photos"][tier] = episodes[:10]


@draft("drone", "drift-dataset")
def dataset_gone(table: Draft):
    del table.datasets["drone"]


def _all(table: Draft, dataset: str, change: Callable):
    for tier, episodes in table.datasets[dataset].items():
        for episode in episodes:
            episode[:] = [dataclasses.replace(c, **change(c, tier)) for c in episode]


@draft("photos", "drift-shape")
def longer_texts(table: Draft):
    for i in range(PHOTOS):
        _text(table, f"a picture of the number {i}, which somebody took on a long walk", i)


@draft("arm", "drift-shape")
def another_frame_rate(table: Draft):
    _all(table, "arm", lambda c, _: {"fps": 15.0, "times": c.times / np.float32(3)})


@draft("drone", "drift-shape")
def darker_pictures(table: Draft):
    for i in range(6):
        for step in range(2):
            table.show("drone", i, step, table.pictures("drone", i, step) // 3)


@draft("arm", "drift-controls")
def slower_controls(table: Draft):
    _all(table, "arm", _controls(lambda c: c.__setitem__((slice(None), 6), 1.0)))


@draft("arm", "drift-controls")
def slot_gone(table: Draft):
    mask = mask_of(["ee_dx", "ee_dy"])
    _all(
        table,
        "arm",
        lambda c, _: {"control_mask": mask, "control_bins": discretise(c.controls, mask)},
    )
