"""What plans were spent on, by ref and by day; what the memo saved, and what went over its reservation."""

from __future__ import annotations

import json
from collections import defaultdict
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

from theory.errors import ArtifactNotFound, LedgerFailed
from theory.formats.paths import quoted
from theory.ledger.account import is_text
from theory.ledger.chain import charged
from theory.ledger.database import CHARGES, CLOSINGS, further
from theory.record import Record

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from theory.types import JsonObject

NOT_CLOSED = "(not closed)"  # in the place of a ref: its process died, and nobody has tried it again

_PAGE = 500  # rows read at a time, so that a long report never holds the file
_CLOSED = f"SELECT id, ts, kind, payload FROM events WHERE {CLOSINGS} AND id > ?1 AND ?2 IN (plan, '') ORDER BY id LIMIT {_PAGE}"  # noqa: E501, S608 - constants, as below
_CHARGED = f"SELECT id, ts, kind, execution_id, payload FROM events WHERE {CHARGES} AND id > ?1 AND ?2 IN (plan, '') ORDER BY id LIMIT {_PAGE}"  # noqa: E501, S608
_ENDS = f"SELECT execution_id, payload FROM events WHERE {CLOSINGS} AND execution_id IN ({{}})"  # noqa: S608


class Line(Record):
    """Sums; amounts in micro-USD."""

    executions: int = 0
    failures: int = 0
    hits: int = 0  # served from the memo
    spent: int = 0
    saved: int = 0  # what the executions had cost whose outputs the hits reused
    overruns: int = 0  # settlements above their reservation
    over: int = 0  # by how much, together

    def document(self) -> JsonObject:
        """As JSON."""
        return {
            "executions": self.executions,
            "failures": self.failures,
            "memo_hits": self.hits,
            "spent_micro_usd": self.spent,
            "saved_micro_usd": self.saved,
            "overruns": self.overruns,
            "overrun_micro_usd": self.over,
        }


class Report(Record):
    """One plan, or all."""

    total: Line
    by_ref: Mapping[str, Line]
    by_day: Mapping[str, Line]  # of the closing or the charge, in UTC

    def document(self) -> JsonObject:
        """As JSON."""
        return {
            "total": self.total.document(),
            "by_ref": [{"ref": ref, **line.document()} for ref, line in self.by_ref.items()],
            "by_day": [{"day": day, **line.document()} for day, line in self.by_day.items()],
        }


def report(read: Callable[..., list[Any]], key: str | None = None) -> Report:
    """Add up all events of one plan or (None) of all.

    A charge counts on the day when it was made, a correction on its own. What a hit saved is what its source
    cost when that was closed; a source of another ledger counts as nothing.

    Raises:
        ArtifactNotFound: There is no such plan.
        LedgerFailed: An event is not what was written.
    """
    if key is not None and not (is_text(key) and read("SELECT 1 FROM plans WHERE key = ?", (key,))):
        raise ArtifactNotFound(f"there is no plan {quoted(key)}", hint="see: theory plan ls")
    try:
        return _summed(read, key)
    except (ValueError, KeyError, TypeError, OverflowError) as error:
        raise LedgerFailed(
            "an event of the ledger is damaged", hint="theory plan verify says which; put back a copy"
        ) from error


def _summed(read: Callable[..., list[Any]], key: str | None) -> Report:
    sums = _Sums()
    for rows in _pages(read, _CLOSED, key):
        contents = [json.loads(payload) for *_, payload in rows]
        costs = _costs(read, {c["source_execution_id"] for c in contents if c["source_execution_id"]})
        for (_, ts, kind, _), content in zip(rows, contents, strict=True):
            sums.add(
                content["ref"],
                ts,
                executions=1,
                failures=kind == "execution.failure",
                hits=kind == "execution.memo_hit",
                saved=costs.get(content["source_execution_id"], 0) if kind == "execution.memo_hit" else 0,
            )
    for rows in _pages(read, _CHARGED, key):
        refs = {id_: content["ref"] for id_, content in _ends(read, {row[3] for row in rows})}
        for _, ts, kind, id_, payload in rows:
            content = json.loads(payload)
            over = (
                content["actual_micro_usd"] - content["reserved_micro_usd"] if content.get("overrun") else 0
            )
            spent = charged([(kind, payload)])
            sums.add(refs.get(id_, NOT_CLOSED), ts, spent=spent, overruns=over > 0, over=over)
    return sums.report()


class _Sums:
    def __init__(self) -> None:
        self._total: defaultdict[str, int] = defaultdict(int)
        self._refs: dict[str, defaultdict[str, int]] = defaultdict(lambda: defaultdict(int))
        self._days: dict[str, defaultdict[str, int]] = defaultdict(lambda: defaultdict(int))

    def add(self, ref: str, ts: int, **amounts: int) -> None:
        for sums in (self._total, self._refs[ref], self._days[_day(ts)]):
            for name, amount in amounts.items():
                sums[name] += amount

    def report(self) -> Report:
        refs, days = ({name: Line(**of[name]) for name in sorted(of)} for of in (self._refs, self._days))
        return Report(Line(**self._total), refs, days)


def _pages(read: Callable[..., list[Any]], query: str, key: str | None) -> Iterator[list[Any]]:
    last = 0
    while rows := read(query, (last, key or "")):
        yield rows
        last = further(last, rows[-1][0])


def _costs(read: Callable[..., list[Any]], ids: set[str]) -> dict[str, int]:
    return {id_: content["actual_micro_usd"] for id_, content in _ends(read, ids)}


def _ends(read: Callable[..., list[Any]], ids: set[str]) -> list[tuple[str, Any]]:
    """The contents of the closing events of these executions; of those that have one."""
    rows = read(_ENDS.format(",".join("?" * len(ids))), sorted(ids)) if ids else ()
    return [(id_, json.loads(payload)) for id_, payload in rows]


def _day(ts: int) -> str:
    try:
        return datetime.fromtimestamp(ts / 1_000_000, timezone.utc).date().isoformat()
    except (ValueError, OverflowError, OSError):  # the clock of who wrote it
        return "unknown"
