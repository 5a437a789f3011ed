"""Why two pieces of work have different memo keys, component by component; it looks and changes nothing.

What is compared are the preimages of the keys, which every execution keeps (docs/reference/formats.md).
"""

from __future__ import annotations

import tempfile
from contextlib import ExitStack, suppress
from itertools import dropwhile
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, cast

from theory.entries.tree import files_of
from theory.errors import ArtifactNotFound, StoreFailed
from theory.formats.canon import canonical, escape_pointer, parse_json
from theory.formats.paths import quoted
from theory.ledger.execution import executions_of
from theory.record import Record
from theory.request import new_execution_id
from theory.rooms.admit import admit
from theory.rooms.artifacts import materialize
from theory.rooms.inputs import check_inputs
from theory.rooms.job import plan_job
from theory.rooms.resolve import resolve_ref
from theory.store import blobs
from theory.store.memo import recall, remembers
from theory.types import PASSING, Ref

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from theory import ledger
    from theory.home import Home
    from theory.request import Request
    from theory.types import Json, JsonObject, Staged, Store

_UNPINNED = "its image is of one run alone; name it, or the base of its Dockerfile, by digest (@sha256:…)"
NEAREST_OF = 50  # former executions, each with another key, that are compared to find the nearest


class _Absent:
    """What one side does not have, which is not null."""

    def __repr__(self) -> str:
        return "absent"


ABSENT: Final = _Absent()


class Difference(Record):
    """One place where two preimages differ."""

    component: str  # a member of the preimage: inputs, seed, tree …
    place: str  # JSON pointer in it, or the path of a file in the tree; empty: the whole of it
    a: Json | _Absent
    b: Json | _Absent

    def document(self) -> JsonObject:
        """As JSON; what one side does not have is left out."""
        sides = {"a": self.a, "b": self.b}
        there = {name: value for name, value in sides.items() if not isinstance(value, _Absent)}
        return {"component": self.component, "place": self.place, **there}


class Work(Record):
    """One side: an execution, or what a request would be."""

    execution_id: str | None  # None: it has not run
    ref: str
    adapter: str
    status: str  # success, failure, memo_hit; empty where it has not run
    memo: str  # miss, hit, off: what the run said, or what one would meet now
    memo_key: str
    preimage: JsonObject
    files: (
        Mapping[str, Json] | None
    )  # of the entry's folder, cid and whether executable by path; None: not kept

    def document(self) -> JsonObject:
        """As JSON, without what was compared."""
        return {
            "execution_id": self.execution_id,
            "ref": self.ref,
            "adapter": self.adapter,
            "status": self.status,
            "memo": self.memo,
            "memo_key": self.memo_key,
        }


class Explanation(Record):
    """Two sides and where they differ; without another execution of the ref there is only ``b``."""

    a: Work | None
    b: Work
    differences: tuple[Difference, ...]
    notes: tuple[str, ...]  # what else decides whether work is done again, a sentence each

    @property
    def components(self) -> tuple[str, ...]:
        """Those that differ, each once."""
        return tuple(dict.fromkeys(difference.component for difference in self.differences))

    def document(self) -> JsonObject:
        """As JSON."""
        return {
            "equal": None if self.a is None else self.a.memo_key == self.b.memo_key,
            "components": list(self.components),
            "a": None if self.a is None else self.a.document(),
            "b": self.b.document(),
            "differences": [difference.document() for difference in self.differences],
            "notes": list(self.notes),
        }


def explain_executions(home: Home, first: str, second: str | None = None) -> Explanation:
    """Why two executions have different keys; with one, against the nearest former execution of its ref.

    Raises:
        ArtifactNotFound: There is no such execution, or what it kept is gone.
        Damaged: What it kept is not what was written.
    """
    if second is None:
        record = _record(home, first)
        b = _done(home, record)
        return _explained(home, _nearest(home, b, before=record), b)
    return _explained(home, _done(home, _record(home, first)), _done(home, _record(home, second)))


def explain_request(home: Home, request: Request, other: str | None = None) -> Explanation:
    """What a request's key would be, and why an execution, the nearest former one unless told, had another.

    Raises:
        TheoryError: The request would be refused; as a run would raise it.
        ArtifactNotFound, Damaged: As for ``explain_executions``.
    """
    b = _planned(home, request)
    return _explained(home, _nearest(home, b) if other is None else _done(home, _record(home, other)), b)


def _explained(home: Home, a: Work | None, b: Work) -> Explanation:
    return Explanation(a, b, () if a is None else tuple(_differences(a, b)), tuple(_notes(home, a, b)))


# ---------------------------------------------------------------- the two sides


def _record(home: Home, execution_id: str) -> ledger.Record:
    record = home.ledger.execution(execution_id)
    if record is None:
        raise ArtifactNotFound(
            f"no execution is called {quoted(execution_id)}", hint="theory ls shows those that there are"
        )
    return record


def _done(home: Home, record: ledger.Record) -> Work:
    if "preimage" not in record.blobs:
        raise ArtifactNotFound(
            f"execution {record.execution_id} kept no preimage of its memo key",
            hint="its store refused as it failed; theory show ID prints what there is",
        )
    listed = record.blobs.get("tree")
    files = None
    if listed is not None and home.store.has([listed]):
        files = _files(cast("Any", _json(home.store, listed)))
    envelope = record.envelope or {}
    meta = cast("JsonObject", envelope.get("meta", {}))
    return Work(
        execution_id=record.execution_id,
        ref=record.ref,
        adapter=record.adapter,
        status=record.kind.removeprefix("execution."),
        memo=str(meta.get("memo", "hit" if record.source_execution_id else "miss")),
        memo_key=record.memo_key,
        preimage=cast("JsonObject", _json(home.store, record.blobs["preimage"])),
        files=files,
    )


def _planned(home: Home, request: Request) -> Work:
    """Rooms 1 to 5 for a request that is not run: nothing is put, held or locked."""
    adapter = home.plugins.adapter(request.adapter)
    resolved = resolve_ref(Ref.parse(request.ref), home.sources)
    processor, id_ = resolved.processor, new_execution_id()
    inputs = check_inputs(processor, request.inputs, request.attachments)
    admission = admit(
        processor,
        adapter.name,
        adapter.info,
        adapter.identify,
        options=request.options,
        prefix=request.prefix,
        execution_id=id_,
        found=resolved.origin == "found",
        environ=home.secrets(),
    )
    with ExitStack() as leaving, tempfile.TemporaryDirectory(prefix="theory-") as folder:
        with suppress(StoreFailed):  # who may only read looks all the same
            leaving.enter_context(home.in_use())
        document, artifacts = materialize(
            inputs,
            cast("Store", _Scratch(home.store, Path(folder))),
            fetch=home.plugins.materialize,
            lookup=home.ledger.name,
            cancelled=lambda: False,
        )
    job, preimage = plan_job(
        id_,
        processor,
        admission.image,
        document,
        artifacts,
        request=request,
        secrets=admission.secrets,
        pretends=adapter.info.pretends,
    )
    if not remembers(processor, request.memo):
        memo = "off"
    else:
        memo = "hit" if recall(home.store, job.memo_key, admission.prefix) is not None else "miss"
    return Work(
        execution_id=None,
        ref=str(processor.ref),
        adapter=adapter.name,
        status="",
        memo=memo,
        memo_key=job.memo_key,
        preimage=cast("JsonObject", parse_json(preimage)),
        files=_files(files_of(processor.folder, processor.image.dockerfile)),
    )


class _Scratch:
    """A store for who only looks: what would be put is named and dropped."""

    def __init__(self, store: Store, staging: Path) -> None:
        self.staging = staging
        self.url = store.url
        self.has = store.has

    def put(self, blobs: Sequence[Staged]) -> None:
        """Take nothing."""


def _nearest(home: Home, work: Work, *, before: ledger.Record | None = None) -> Work | None:
    """Of the former executions of this ref the last one that differs in the fewest components."""
    best: tuple[int, Work] | None = None
    seen: set[str] = set()
    former: Iterator[ledger.Record] = executions_of(home.ledger.read, work.ref)
    if before is not None:
        former = dropwhile(lambda record: record.execution_id != before.execution_id, former)
        next(former, None)
    for record in former:
        if record.memo_key in seen or "preimage" not in record.blobs:
            continue
        try:
            other = _done(home, record)
        except ArtifactNotFound:  # gone from the store
            continue
        seen.add(record.memo_key)
        count = len({difference.component for difference in _differences(other, work)})
        if best is None or count < best[0]:
            best = count, other
        if not count or len(seen) == NEAREST_OF:
            break
    return None if best is None else best[1]


def _json(store: Store, cid: str) -> Json:
    with blobs.read_verified(store, cid) as stream:
        return parse_json(stream.read())


def _files(listing: Iterable[tuple[str, str, bool]]) -> dict[str, Json]:
    return {path: {"cid": cid, "executable": executable} for path, cid, executable in listing}


# ---------------------------------------------------------------- where they differ


def _differences(a: Work, b: Work) -> Iterator[Difference]:
    for component in dict.fromkeys((*a.preimage, *b.preimage)):
        one, other = a.preimage.get(component, ABSENT), b.preimage.get(component, ABSENT)
        if component == "tree" and one != other and a.files is not None and b.files is not None:
            for path in sorted({*a.files, *b.files}):
                here, there = a.files.get(path, ABSENT), b.files.get(path, ABSENT)
                if here != there:
                    yield Difference("tree", path, here, there)
        else:
            for place, here, there in _unequal(one, other, ""):
                yield Difference(component, place, here, there)


def _unequal(
    a: Json | _Absent, b: Json | _Absent, pointer: str
) -> Iterator[tuple[str, Json | _Absent, Json | _Absent]]:
    """Every place where two values differ, by JSON pointer."""
    if isinstance(a, dict) and isinstance(b, dict):
        for key in dict.fromkeys((*a, *b)):
            yield from _unequal(a.get(key, ABSENT), b.get(key, ABSENT), f"{pointer}/{escape_pointer(key)}")
    elif isinstance(a, list) and isinstance(b, list):
        for number in range(max(len(a), len(b))):
            one = a[number] if number < len(a) else ABSENT
            other = b[number] if number < len(b) else ABSENT
            yield from _unequal(one, other, f"{pointer}/{number}")
    elif isinstance(a, _Absent) or isinstance(b, _Absent):
        if a is not b:
            yield pointer, a, b
    elif canonical(a) != canonical(b):  # to Python True is 1
        yield pointer, a, b


def _notes(home: Home, a: Work | None, b: Work) -> Iterator[str]:
    if a is None:
        yield f"no former execution of {b.ref} is there to compare it with"
    for work in filter(None, (a, b)):
        yield from _use_of_memo(work, work.execution_id or "this request")
    if a is not None and a.memo_key != b.memo_key and b.execution_id:
        return
    if home.store.memo_get(b.memo_key) is None:
        yield "the memo has no record of this key"
    elif recall(home.store, b.memo_key, "/artifacts/outputs/") is None:
        yield "the memo has a record of this key that cannot be served: its outputs are gone or damaged"
    else:
        yield "the memo has a record of this key"


def _use_of_memo(work: Work, who: str) -> Iterator[str]:
    if work.status == "failure":
        yield f"{who} failed, and only successes are remembered"
    elif work.memo == "off" and work.preimage.get("determinism") == "nondeterministic":
        yield f"{who} does not use the memo: {work.ref} is nondeterministic, and --memo was not given"
    elif work.memo == "off":
        yield f"{who} does not use the memo: --no-memo"
    elif work.memo == "hit" and work.execution_id:
        yield f"{who} was served from the memo"
    elif str(work.preimage.get("image_id")).startswith(PASSING):
        yield f"no other run can be served what {who} made: {_UNPINNED}"
