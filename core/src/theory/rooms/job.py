"""Room 5: everything about the work is known, so it gets its address, the memo key."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING

from theory.formats import wire
from theory.formats.canon import canonical, canonical_object, memo_key
from theory.once import once
from theory.record import Record
from theory.types import Job

if TYPE_CHECKING:
    from collections.abc import Iterable

    from theory.plugins import Adapter
    from theory.request import Request
    from theory.rooms.admit import Admission
    from theory.rooms.keep import Records
    from theory.rooms.redact import Redactor
    from theory.types import Artifact, Image, JsonObject, Processor, Workspace

# 1980-01-01, the earliest moment that a zip archive can hold.
# Source: https://reproducible-builds.org/docs/source-date-epoch/
SOURCE_DATE_EPOCH = "315532800"
# The largest parts of a memo key's preimage, and the same in every execution of an entry.
_SCHEMAS = frozenset({"inputs_schema", "outputs_schema"})
_spelled = once(canonical)
_THREADS = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "NUMEXPR_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
    "RAYON_NUM_THREADS",
)


class Prepared(Record):
    """All that is known before anything is spent: what rooms 1 to 5 have made."""

    request: Request
    adapter: Adapter
    admission: Admission
    job: Job
    records: Records
    workspace: Workspace
    redactor: Redactor


def plan_job(
    execution_id: str,
    processor: Processor,
    image: Image,
    inputs: JsonObject,
    artifacts: tuple[Artifact, ...],
    *,
    request: Request,
    secrets: Iterable[str],
    pretends: bool,
) -> tuple[Job, bytes]:
    """The job, and the canonical preimage of its memo key for those who ask later why it differs."""
    seed = request.seed
    document = wire.preimage_document(processor, image, inputs, seed, secrets, pretends=pretends)
    spelled = {key: (_spelled if key in _SCHEMAS else canonical)(value) for key, value in document.items()}
    preimage = canonical_object(spelled)
    job = Job(
        execution_id=execution_id,
        processor=processor,
        image=image,
        inputs=inputs,
        artifacts=artifacts,
        seed=seed,
        memo_key=memo_key(preimage),
        environment=_environment(execution_id, processor, seed),
        plan=request.plan,
    )
    return job, preimage


def ran_as(prepared: Prepared, image: Image | None) -> Prepared:
    """The same work with the address that it has under the image that really ran."""
    job = prepared.job
    if image is None or image == job.image:
        return prepared
    job, preimage = plan_job(
        job.execution_id,
        job.processor,
        image,
        job.inputs,
        job.artifacts,
        request=prepared.request,
        secrets=prepared.admission.secrets,
        pretends=prepared.adapter.info.pretends,
    )
    records = replace(prepared.records, new={**prepared.records.new, "preimage": preimage})
    return replace(prepared, job=job, records=records)


def _environment(execution_id: str, processor: Processor, seed: int) -> dict[str, str]:
    threads = str(math.ceil(processor.runtime.cpu))
    return {
        "THEORY_EXECUTION_ID": execution_id,
        "THEORY_REF": str(processor.ref),
        "THEORY_SEED": str(seed),
        "THEORY_ROOT": "",
        "USER": "theory",
        "LOGNAME": "theory",
        "PYTHONUNBUFFERED": "1",
        "PYTHONHASHSEED": str(seed % 2**32),
        "SOURCE_DATE_EPOCH": SOURCE_DATE_EPOCH,
        "TZ": "UTC",
        "LC_ALL": "C.UTF-8",
        **dict.fromkeys(_THREADS, threads),
    }
