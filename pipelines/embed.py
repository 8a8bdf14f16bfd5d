"""The Beam graph of `unisim embed`: texts that have no embedding yet get one, frames stay as they
are, the manifest is written last.

Everything that is new has a name that the old manifest does not know (`schemas.table`), so until
the new manifest is in its place, which is one rename, the old one describes a whole table.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import apache_beam as beam
import pyarrow.parquet as pq
from apache_beam.pvalue import AsList

from pipelines import files
from pipelines.job import EmbedJob, load_manifest, new_target, target_beside
from pipelines.ops.labels import clean_text
from pipelines.text import ShardResult, Target, finish
from pipelines.text.handler import EmbedTexts
from schemas import EncoderInfo, Manifest, UsageError
from schemas.table import INDEX, MANIFEST


def make_job(out: str, t5: str | None, encoder: EncoderInfo, texts: str | None = None) -> EmbedJob:
    """What there is to do, with all checked that can be before the work.

    Raises:
        UsageError: if there is no whole table at `out`, it has embeddings of another encoder under
            this one's name, or `texts` is no file of UTF-8 lines.
    """
    manifest = load_manifest(out)
    index = tuple(name for name in manifest.files if name.startswith(f"{INDEX}/"))
    for name in index:
        path, size = files.join(out, name), manifest.files[name][0]
        if not files.exists(path) or files.size(path) != size:
            raise UsageError(f"{path}: not there as the manifest says; see `unisim audit {out}`")
    if texts is not None:
        for _ in read_lines(texts):
            pass
    return EmbedJob(t5=t5, texts=texts, index=index, target=_target(out, encoder, manifest))


def _target(out: str, encoder: EncoderInfo, manifest: Manifest) -> Target:
    found = target_beside(out, encoder, manifest)
    for before in manifest.encoders if found is None else ():
        if before.name == encoder.name:
            raise UsageError(
                f"{out}: has embeddings of another encoder that is called {before.name!r} too"
                f" (digest {before.digest[:12]}, this one's is {encoder.digest[:12]}); rename the"
                " --t5 directory, and its embeddings go beside them"
            )
    return found or new_target(out, encoder)


def build(root: beam.Pipeline, job: EmbedJob) -> None:
    """Adds the whole of `embed` to a pipeline."""
    of_table = (
        root
        | "Index" >> beam.Create(job.index)
        | "Spread" >> beam.Reshuffle()
        | "Read" >> beam.FlatMap(_texts_of, job.target.out).with_output_types(str)
    )
    others = (
        root
        | "Other" >> beam.Create([job.texts] if job.texts else [])
        | "Lines" >> beam.FlatMap(read_lines).with_output_types(str)
    )
    empty = root | "Empty" >> beam.Create([""])  # guidance's unconditional branch
    embedded = (
        (of_table, others, empty)
        | "All" >> beam.Flatten()
        | "Embed" >> EmbedTexts(job.target, job.t5)
    )
    _ = root | "Once" >> beam.Create([job]) | "Commit" >> beam.Map(commit, AsList(embedded))


def _texts_of(part: str, out: str) -> Iterator[str]:
    """The distinct texts of one part of the index."""
    with files.local_copy(files.join(out, part)) as path:
        column = pq.read_table(path, columns=["text"]).column("text")
    yield from column.unique().to_pylist()


def read_lines(path: str) -> Iterator[str]:
    """The texts of a file, one per line, put right as the texts of records are; empty ones left
    out.

    Raises:
        UsageError: if the file is not there, or a line is not UTF-8.
    """
    if not files.exists(path):
        raise UsageError(f"--texts {path}: no such file")
    with files.open_read(path) as f:
        for number, line in enumerate(f, 1):
            try:
                text = clean_text(line.decode())
            except UnicodeDecodeError as e:
                raise UsageError(f"--texts {path}: line {number} is not UTF-8 ({e})") from e
            if text:
                yield text


def commit(job: EmbedJob, embedded: Iterable[ShardResult]) -> None:
    """Ends a job: the keys, then the manifest. May be run twice, as runners do.

    The manifest is read again here, so that all else in it is what it lists now.

    Raises:
        UsageError: if another job has added texts to this encoder's meanwhile.
    """
    target = job.target
    made = finish(target, embedded)
    if not made.files:
        return
    manifest = load_manifest(target.out)
    encoders = {encoder.name: encoder for encoder in manifest.encoders}
    if encoders.get(made.info.name) not in (target.before, made.info):
        raise UsageError(
            f"{target.out}: another `unisim embed` has added texts to {made.info.name} meanwhile;"
            " run this one again"
        )
    manifest = manifest.with_encoder(made.info, made.files, target.before)
    files.write(files.join(target.out, MANIFEST), manifest.to_json().encode())
