"""Whether the ledger is what was written: its chains, accounts, reservations and names.

Each plan's chain proves itself but for its end: who cuts events off and puts the plan's row right, or writes
the whole chain anew, leaves nothing to see. A ``Checkpoint`` that is kept elsewhere shows that too.
See docs/how-to/keep-a-budget.md for what is found without one.
"""

from __future__ import annotations

import json
import threading
from itertools import pairwise
from typing import TYPE_CHECKING, Any, TypeAlias, cast

from theory.errors import ArtifactNotFound, LedgerFailed, TheoryError, Usage
from theory.formats.canon import CID, BadJson, Hasher, canonical, parse_json
from theory.formats.paths import quoted
from theory.ledger.chain import EVENT_COLUMNS, PlanState, Tally
from theory.ledger.database import LAYOUT, further
from theory.record import Record

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from theory.ledger.chain import EventRow
    from theory.types import JsonObject

    Read: TypeAlias = Callable[..., list[Any]]  # the rows of one query

MOST = 20  # faults that are told; who has so many puts back a copy
FORMAT = "theory checkpoint v1"

_PAGE = 1000  # rows read at a time, so that a long walk never holds the file
_BATCH = 500  # names in one question; any SQLite takes 999
_SNAPSHOT = """
SELECT 'plan', key, limit_micro_usd, reserved_micro_usd, spent_micro_usd, events, head,
    (SELECT max(seq) FROM events AS e WHERE e.plan = plans.key) FROM plans
UNION ALL SELECT 'hold', plan, execution_id, amount_micro_usd, NULL, NULL, NULL, NULL FROM reservations
UNION ALL SELECT 'rows', NULL, coalesce(max(id), 0), NULL, NULL, NULL, NULL, NULL FROM events"""
_ALL = f"SELECT {EVENT_COLUMNS}, id FROM events WHERE id > ? AND id <= ? ORDER BY id LIMIT {_PAGE}"  # noqa: S608 - constants, as below
_ONE = (
    f"SELECT {EVENT_COLUMNS}, id FROM events WHERE plan = ? AND seq > ? AND seq <= ?"  # noqa: S608
    f" ORDER BY seq LIMIT {_PAGE}"
)
# In the order of the values: a join from the left is a loop.
_NAMED = (
    "WITH given (path) AS (VALUES {})"
    " SELECT cid, size_bytes, mime, event FROM given LEFT JOIN names USING (path)"
)
_GIVERS = f"""SELECT n.path, n.cid, n.size_bytes, n.mime, n.event, e.kind, e.payload
    FROM names AS n LEFT JOIN events AS e ON e.id = n.event
    WHERE n.path > ? AND (typeof(n.event) <> 'integer' OR n.event <= ?) ORDER BY n.path LIMIT {_PAGE}"""  # noqa: S608
_DECODER = json.JSONDecoder()
_GUARDS = tuple(statement for statement in LAYOUT.schema if not statement.startswith("CREATE TABLE"))
_NAMING = frozenset({"execution.success", "execution.memo_hit"})
# How an artifact begins in a payload, which is canonical JSON: within a text its quotes are escaped.
_ARTIFACT = '{"cid":"'
_SIZE = len(',"size_bytes":')


class Mark(Record):
    """How far a plan's chain had come."""

    events: int
    head: str  # hash of the last event


class Checkpoint(Record):
    """The ends of the chains at one moment, to be kept where who writes the ledger cannot write."""

    plans: Mapping[str, Mark]
    rows: int | None = None  # events of all plans; None: of some plans only
    order: str | None = None  # a cid over the hashes of all events, in the order of their writing

    def document(self) -> JsonObject:
        """As JSON."""
        return {
            "format": FORMAT,
            "plans": {key: {"events": mark.events, "head": mark.head} for key, mark in self.plans.items()},
            "rows": self.rows,
            "order": self.order,
        }

    @classmethod
    def parse(cls, text: str | bytes) -> Checkpoint:
        """The other direction of ``document``.

        Raises:
            Usage: This is no checkpoint.
        """
        try:
            document: Any = parse_json(text)
            plans = {key: Mark(mark["events"], mark["head"]) for key, mark in document["plans"].items()}
            found = cls(plans, document["rows"], document["order"])
            if document["format"] != FORMAT or not found.is_sound():
                raise ValueError  # noqa: TRY301 - as any other fault of it
        except (BadJson, ValueError, KeyError, TypeError, AttributeError):
            raise Usage(
                "what --against names is no checkpoint", hint="theory plan checkpoint > FILE makes one"
            ) from None
        return found

    def is_sound(self) -> bool:
        """Whether every value is of its type."""
        marks = [(mark.events, mark.head) for mark in self.plans.values()]
        if self.rows is not None and self.order is not None:
            marks.append((self.rows, self.order))
        return (self.rows is None) is (self.order is None) and all(
            type(number) is int and number >= 0 and type(digest) is str and CID.fullmatch(digest)
            for number, digest in marks
        )


class Audit(Record):
    """What was looked at, and what is wrong with it."""

    plans: tuple[PlanState, ...]
    events: int
    names: int  # world paths that were compared with the events that gave them
    faults: tuple[str, ...]  # the first ones, each with its plan and event; empty: all is whole


def audit(read: Read, key: str | None = None, against: Checkpoint | None = None) -> Audit:
    """Walk the chains of one plan or (None) of all, and compare whatever can be derived from them.

    Others may write meanwhile: it looks at what was there when it began.

    Raises:
        ArtifactNotFound: There is no such plan.
        Usage: The checkpoint does not know the plan.
        LedgerFailed: The file cannot be read at all.
    """
    look = _Look(read, key)
    if key is not None and key not in look.states:
        raise ArtifactNotFound(f"there is no plan {quoted(key)}", hint="see: theory plan ls")
    if key is not None and against is not None and key not in against.plans:
        raise Usage(
            f"the checkpoint does not know the plan {quoted(key)}", hint="make one: theory plan checkpoint"
        )
    faults = []
    try:
        for fault in look.faults(against):
            faults.append(fault)
            if len(faults) == MOST:
                break
    except LedgerFailed as error:  # it could be read a moment ago
        faults.append(error.message)
    states = tuple(sorted(look.states.values(), key=lambda state: str(state.key)))
    return Audit(states, sum(tally.seq for tally in look.tallies.values()), look.matched, tuple(faults))


def checkpoint(read: Read, key: str | None = None) -> Checkpoint:
    """Where the chains of one plan or of all end now.

    Raises:
        ArtifactNotFound: There is no such plan.
    """
    look = _Look(read, key)
    if key is not None and key not in look.states:
        raise ArtifactNotFound(f"there is no plan {quoted(key)}", hint="see: theory plan ls")
    marks = {state.key: Mark(state.events, state.head) for state in look.states.values()}
    if key is not None:
        return Checkpoint(marks)
    hasher = Hasher()
    for rows in look.pages():
        _add(hasher, rows)
    return Checkpoint(marks, look.rows, hasher.cid)


class _Look:
    """The ledger as it is at one moment; what is written later is left out."""

    def __init__(self, read: Read, key: str | None) -> None:
        self._read = read
        self._key = key
        self.states: dict[str, PlanState] = {}
        self.tallies: dict[str, Tally] = {}
        self.rows = self.matched = 0
        self._last: dict[str, int] = {}
        self._held: dict[str, dict[str | None, int]] = {}
        for what, plan, *values in read(_SNAPSHOT):
            if what == "rows":
                self.rows = values[0]
            elif key is None or plan == key:
                if what == "plan":
                    self.states[plan] = PlanState(plan, *values[:5])
                    self._last[plan] = values[5]
                else:
                    self._held.setdefault(plan, {})[values[0]] = values[1]

    def pages(self) -> Iterator[list[tuple[Any, ...]]]:
        """The events, some at a time: by plan and ``seq``, or in the order of their writing."""
        last = 0
        if self._key is not None:
            state = self.states[self._key]
            while rows := self._read(_ONE, (self._key, last, state.events)):
                yield rows
                last = further(last, rows[-1][1])
        else:
            while rows := self._read(_ALL, (last, self.rows)):
                yield rows
                last = further(last, rows[-1][-1])

    def faults(self, against: Checkpoint | None) -> Iterator[str]:
        """All that is wrong, the events first."""
        whole = self._key is None
        file = _Aside(self._read, "PRAGMA integrity_check(1)") if whole else None
        hasher, rows = Hasher(), 0 if against is None or against.rows is None else against.rows
        late: list[str] = []  # what is told after the events
        previous = 0
        for page in self.pages():
            yield from self._broken(page)
            if whole:
                if (last := page[-1][-1]) != previous + len(page) and not late:
                    late.append(f"rows of the events are missing between {previous} and {last}")
                previous = last
                late += self._misnamed(page) if len(late) < MOST else ()
                _add(hasher, (row for row in page if row[-1] <= rows))
            elif any(row[-1] >= after[-1] for row, after in pairwise(page)):
                late.append(f"plan {quoted(str(self._key))}: its events are not in the order of their rows")
        yield from self._unequal()
        yield from self._beyond(against)
        if whole and against is not None and against.order not in {None, hasher.cid}:
            yield "the events are not those of the checkpoint in their order"
        yield from late
        if file is not None:
            yield from self._foreign_names()
            yield from self._guards()
            yield from (f"the file is damaged: {told}" for (told,) in file.rows() if told != "ok")

    def _broken(self, page: Iterable[tuple[Any, ...]]) -> Iterator[str]:
        """Events that are not what was written, or not where."""
        for row in page:
            key = row[0]
            tally = self.tallies.get(key)
            if tally is None:
                tally = self.tallies[key] = Tally(key)
            if found := tally.take(cast("EventRow", row[:-1])):
                yield from (f"plan {quoted(str(key))}: {fault}" for fault in found)

    def _unequal(self) -> Iterator[str]:
        """Where rows of plans and reservations are not what the events add up to."""
        for key in sorted({*self.states, *self.tallies, *self._held}, key=str):
            state, tally = self.states.get(key), self.tallies.get(key, Tally(key))
            held = self._held.get(key, {})
            plan = f"plan {quoted(str(key))}"
            if state is None:
                yield f"{plan} has {tally.seq} events and {len(held)} reservations, and no row"
                continue
            yield from (f"{plan}: {fault}" for fault in tally.differs(state))
            if self._key is not None and state.events != self._last[key]:
                yield (
                    f"{plan}: the plan's row has {state.events} events,"
                    f" and the last that is there is {self._last[key]}"
                )
            if (total := _sum(held)) != state.reserved_micro_usd:
                yield (
                    f"{plan}: the plan's row has reserved {state.reserved_micro_usd},"
                    f" and its open reservations add up to {total}"
                )
            elif held != tally.open:
                wrong, _ = min(set(held.items()) ^ set(tally.open.items()), key=str)
                yield f"{plan}: the reservation of {wrong} is not what its events say"

    def _beyond(self, against: Checkpoint | None) -> Iterator[str]:
        """Where a chain does not go through the checkpoint."""
        for key, mark in against.plans.items() if against is not None else ():
            if self._key not in {None, key}:
                continue
            there = self.tallies[key].seq if key in self.tallies else 0
            if there < mark.events:
                yield (
                    f"plan {quoted(key)}: it ends with event {there}, and the checkpoint has {mark.events}:"
                    " the end was cut off"
                )
                continue
            rows = self._read("SELECT hash FROM events WHERE plan = ? AND seq = ?", (key, mark.events))
            if mark.events and rows != [(mark.head,)]:
                yield f"plan {quoted(key)}: event {mark.events} is not the checkpoint's: it was written anew"

    # ------------------------------------------------------------ names

    def _misnamed(self, page: Iterable[tuple[Any, ...]]) -> Iterator[str]:
        """Names that are not what these events gave, unless a later one took them."""
        given: list[tuple[str, tuple[object, ...]]] = []
        for _, _, _, kind, _, payload, _, _, id_ in page:
            if kind in _NAMING and type(payload) is str:
                given += ((path, (cid, size, mime, id_)) for path, cid, size, mime in _artifacts(payload))
        for at in range(0, len(given), _BATCH):
            batch = given[at : at + _BATCH]
            query = _NAMED.format(",".join(["(?)"] * len(batch)))
            for (path, told), found in zip(
                batch, self._read(query, [path for path, _ in batch]), strict=True
            ):
                if found == told:
                    self.matched += 1
                elif found[3] is None:
                    yield f"the name {quoted(path)}, which row {told[3]} of the events gave, is gone"
                elif type(found[3]) is not int or found[3] <= cast("int", told[3]):
                    yield f"the name {quoted(path)} is not what row {told[3]} of the events gave"

    def _foreign_names(self) -> Iterator[str]:
        """Names that none of the events gave; those of events that do not list all of theirs are left out."""
        later = "typeof(event) <> 'integer' OR event <= ?"
        if self._read(f"SELECT count(*) FROM names WHERE {later}", (self.rows,))[0][0] <= self.matched:  # noqa: S608 - our own words
            return
        last = ""
        while rows := self._read(_GIVERS, (last, self.rows)):
            for path, cid, size_bytes, mime, event, kind, payload in rows:
                told = kind in _NAMING and type(payload) is str
                if told and (_spelled(path, cid, size_bytes, mime) in payload or not _lists_all(payload)):
                    continue
                yield f"the name {quoted(str(path))} is not one that row {event} of the events gave"
            last = further(last, rows[-1][0])

    # ------------------------------------------------------------ the file

    def _guards(self) -> Iterator[str]:
        """Whether the guards against accidents are there."""
        there = {sql for (sql,) in self._read("SELECT sql FROM sqlite_master")}
        for guard in _GUARDS:
            if guard not in there:
                yield f"a guard of the file was removed or changed: {guard.partition(' ON ')[0]}"


class _Aside:
    """A query in a thread of its own: SQLite works without the interpreter, so it costs no time beside it."""

    def __init__(self, read: Read, query: str) -> None:
        self._found: list[Any] = []
        self._error: TheoryError | None = None
        self._thread = threading.Thread(target=self._run, args=(read, query), daemon=True)
        self._thread.start()

    def rows(self) -> list[Any]:
        """Wait for them."""
        self._thread.join()
        if self._error is not None:
            raise self._error
        return self._found

    def _run(self, read: Read, query: str) -> None:
        try:
            self._found = read(query)
        except TheoryError as error:
            self._error = error


def _add(hasher: Hasher, rows: Iterable[tuple[Any, ...]]) -> None:
    hasher.update("".join(f"{row[7]}\n" for row in rows).encode())


def _sum(held: Mapping[str | None, int]) -> int:
    return sum(amount for amount in held.values() if type(amount) is int)


def _artifacts(payload: str) -> Iterator[tuple[str, str, int, str]]:
    """Path, cid, size in bytes and mime of each artifact in a canonical payload, which is not read whole."""
    for part in payload.split(_ARTIFACT)[1:]:
        try:
            # b3:…","mime":"text/plain","path":"/artifacts/…","size_bytes":26},…
            cid, _, _, _, mime, _, _, _, path, rest = part.split('"', 9)
            if path.endswith("\\"):  # a quote in the middle of it
                artifact, _ = _DECODER.raw_decode(_ARTIFACT + part)
                yield artifact["path"], artifact["cid"], artifact["size_bytes"], artifact["mime"]
            else:
                yield path, cid, int(rest[_SIZE : rest.index("}")]), mime
        except (ValueError, KeyError, TypeError):  # damaged, and told by its hash
            return


def _spelled(path: object, cid: object, size_bytes: object, mime: object) -> str:
    try:
        return canonical({"path": path, "cid": cid, "size_bytes": size_bytes, "mime": mime}).decode()
    except (TypeError, ValueError):  # damage may make other types of its columns
        return "\0"


def _lists_all(payload: str) -> bool:
    """Whether an event holds every name that it gave: not where they are too many, nor in old ledgers."""
    try:
        return bool({"names", "envelope"} <= json.loads(payload).keys())
    except (ValueError, AttributeError):  # damaged, and told by its hash
        return True
