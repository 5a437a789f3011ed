# ruff: noqa: E501 - what is fuzzed is easiest to read on a line
"""What is read back from a store, a ledger and a home, and what a processor leaves."""

from __future__ import annotations

import io
import json
import shutil
from contextlib import suppress
from typing import TYPE_CHECKING, cast

from proofs.fuzz_core import ENTRY_INPUTS, ID, MIB, processor, text_of
from proofs.fuzz_table import Parser
from theory.disk.claims import claimed
from theory.errors import LedgerFailed, TheoryError, Usage
from theory.formats import wire
from theory.formats.canon import canonical, check_json, cid_of
from theory.ledger.audit import Checkpoint
from theory.rooms.redact import Redactor
from theory.store import blobs

if TYPE_CHECKING:
    from pathlib import Path

    from proofs.fuzz_table import Parse
    from theory.types import JsonObject, MemoRecord, Store

SECRET = "s3cr3t-välue+/="  # noqa: S105 - nobody's


def _memo(folder: Path) -> Parse:
    from theory.store.filestore import FileStore
    from theory.store.memo import recall

    store = FileStore(folder / "store")
    store.put([blobs.stage(store, io.BytesIO())])
    there = cid_of(b"")

    class Shared:
        """A store that others write to: its records are whole, whatever they say."""

        data = b""

        def __getattr__(self, name: str) -> object:
            return getattr(store, name)

        def memo_get(self, _: str) -> bytes:
            return self.data

    shared = Shared()

    def parse(data: bytes) -> object:
        found = None
        for shared.data in (data, _sealed(json.dumps(_document(data)).encode())):
            record = recall(cast("Store", shared), "b3:" + "0" * 64, "/artifacts/outputs/")
            if record is None:
                continue
            found = record
            assert _is_sound(record), record
            check_json(wire.memo_document(record))
            assert all(output.cid == there for output in record.outputs)
        return found

    return parse


def _sealed(body: bytes) -> bytes:
    """As ``theory.store.memo.sealed`` does it, also what that would not take."""
    return b'{"check":"' + cid_of(body).encode() + b'",' + body[1:]


def _is_sound(record: MemoRecord) -> bool:
    meta = all(isinstance(value, (str, int, float, bool, type(None))) for value in record.meta.values())
    texts = (record.source_execution_id, record.platform or "", *(output.mime for output in record.outputs))
    return meta and all(isinstance(text, str) for text in texts) and type(record.cost_micro_usd) is int


def _document(data: bytes) -> JsonObject:
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):
        value = {}
    return {"memo_key": "b3:" + "0" * 64, **value} if isinstance(value, dict) else {}


def _envelope(_: Path) -> Parse:
    def parse(data: bytes) -> object:
        return wire.envelope_of(_document(data))

    return parse


def _closing(_: Path) -> Parse:
    from theory.ledger.audit import _artifacts, _lists_all
    from theory.ledger.chain import Event
    from theory.ledger.execution import Record
    from theory.store.references import cids_in, references

    contents = {
        "tree": b'[["main.py","b3:' + b"0" * 64 + b'",false]]',
        "inputs": b'{"a":[{"$artifact":"/artifacts/a","cid":"b3:' + b"0" * 64 + b'"}]}',
    }

    def parse(data: bytes) -> object:
        payload = data.decode("utf-8", "replace")
        cids_in(payload)
        list(_artifacts(payload))
        _lists_all(payload)
        event = Event("default", 1, 1, "execution.success", ID, payload, "", "")
        with suppress(LedgerFailed):
            Record.of(event)
        roles = json.loads(payload)["blobs"]
        return list(
            references(payload, {roles[role]: held for role, held in contents.items() if role in roles})
        )

    return parse


def _checkpoint(_: Path) -> Parse:
    def parse(data: bytes) -> object:
        found = Checkpoint.parse(data)
        if len(data) < MIB:
            assert Checkpoint.parse(canonical(found.document())) == found
        return found

    return parse


def _outputs(folder: Path) -> Parse:
    from theory.rooms.outputs import check_outputs
    from theory.store.filestore import FileStore

    entry, store, out = processor({}, outputs=ENTRY_INPUTS), FileStore(folder / "store"), folder / "out"
    out.mkdir(exist_ok=True)
    redactor = Redactor([SECRET])

    def parse(data: bytes) -> object:
        for name in ("meta.json", "a.json"):
            (out / name).write_bytes(data)
            try:
                found = check_outputs(
                    entry, out, "/artifacts/outputs/", store, redactor, cancelled=lambda: False
                )
            finally:
                (out / name).unlink()
                for staged in store.staging.iterdir():
                    staged.unlink()
            check_json(found.meta)
        return found

    return parse


def _names(folder: Path) -> Parse:
    """The files that a processor leaves, by the lines of a list."""
    from theory.rooms.outputs import check_outputs
    from theory.store.filestore import FileStore

    entry, store, out = processor({}), FileStore(folder / "store"), folder / "out"
    redactor = Redactor([SECRET])

    def parse(data: bytes) -> object:
        out.mkdir()
        try:
            for line in data.split(b"\n")[:20]:
                name = line.replace(b"\0", b"").strip(b"/")
                if not name or b".." in name.split(b"/") or name.count(b"/") > 100:
                    continue
                with suppress(OSError):
                    file = out / text_of(name)
                    file.parent.mkdir(parents=True, exist_ok=True)
                    file.write_bytes(name)
            return check_outputs(entry, out, "/artifacts/outputs/", store, redactor, cancelled=lambda: False)
        finally:
            shutil.rmtree(out)
            for staged in store.staging.iterdir():
                staged.unlink()

    return parse


def _log(_: Path) -> Parse:
    from theory.cancel import Cancellation
    from theory.rooms.delivery import Delivery
    from theory.rooms.execute import LogChannel

    class Told(Delivery):
        """Without the thread of a listener."""

        deaf = False

        def __call__(self, event: JsonObject, size_bytes: int = 0) -> None:
            del size_bytes
            assert SECRET not in json.dumps(event, ensure_ascii=False)

    def parse(data: bytes) -> None:
        channel = LogChannel(1, Cancellation(), Redactor([SECRET]), Told(None, Cancellation()))
        step = 1 + (data[0] if data else 0) * 7 + len(data) // 1000
        for at in range(0, len(data), step):
            channel.write("stdout", data[at : at + step])
        channel.close()
        assert len(channel.tail().encode()) <= 4096

    return parse


def _redact(_: Path) -> Parse:
    redactor = Redactor([SECRET, "aaaa", "abab", "line one long enough\nline two long enough"])

    def parse(data: bytes) -> object:
        held, safe = b"", b""
        step = 1 + len(data) // 7
        for at in range(0, len(data), step):
            more, held = redactor.portion(held, data[at : at + step])
            safe += more
        assert safe + redactor.mask(held) == redactor.mask(data)
        return redactor.text(text_of(data))

    return parse


def _claim(folder: Path) -> Parse:
    place = folder / "states" / ID
    place.mkdir(parents=True, exist_ok=True)

    def parse(data: bytes) -> object:
        (place / "exclusive").write_bytes(data)
        (place / "lock").touch()
        return claimed(folder / "states")

    return parse


def _shown(_: Path) -> Parse:
    from theory.cli.show import clean
    from theory.formats.paths import HARMFUL

    def parse(data: bytes) -> object:
        text = clean(text_of(data))
        assert not HARMFUL.search(text.replace("\n", "").replace("\t", ""))
        return text

    return parse


_ARTIFACT = b'{"path":"a.txt","cid":"' + cid_of(b"").encode() + b'","size_bytes":0,"mime":"text/plain"}'
_SUCCESS = (
    b'{"status":"success","execution_id":"' + ID.encode() + b'","outputs":[' + _ARTIFACT
    + b'],"index_path":"/artifacts/execution/x/outputs.json","receipt_path":"/r","meta":{"a":1,"b":null}}'
)  # fmt: skip
_FAILURE = b'{"status":"error","execution_id":"x","error":{"code":"E","message":"m","hint":"h","exit_status":1},"meta":{}}'
_MEMO = (
    b'{"source_execution_id":"x","outputs":[' + _ARTIFACT + b'],"meta":{"a":"b"},"image_digest":null,'
    b'"platform":"linux/amd64","cost_micro_usd":3}'
)  # fmt: skip
_CLOSING = (
    b'{"actual_micro_usd":0,"adapter":"x","blobs":{"index":"b3:' + b"1" * 64 + b'","inputs":"b3:' + b"2" * 64
    + b'","tree":"b3:' + b"3" * 64 + b'"},"envelope":' + _SUCCESS + b',"estimated":false,"memo_key":"b3:'
    + b"4" * 64 + b'","names":[' + _ARTIFACT + b'],"ref":"a/b@1","source_execution_id":null,"started_ts":1}'
)  # fmt: skip
_META = (
    b'{"cost_micro_usd":5,"tokens_in":9007199254740993,"exit_code":1,"a":"' + SECRET.encode() + b'"}',
    b'{"cost_micro_usd":-1}',
    b'{"text":"a","rest":[{"text":"b"}],"deep":{"x":{}}}',
)
_LOG = (
    b'{"event":"token","text":"Hi"}\n{"event":"progress","fraction":0.4}\r\nplain \x1b[31m\xff\n',
    SECRET.encode() + b"\n" + b'{"event":"x","text":"s3cr3t-v\\u00e4lue+/="}\n',
    b"czNjcjN0LXbDpGx1ZSsvPQ== 7333637233742d76c3a46c75652b2f3d s3cr3t-v%C3%A4lue%2B%2F%3D\n",
)

PARSERS: dict[str, Parser] = {
    "memo": Parser(_memo, (), (_MEMO, b'{"check":"b3:","x":1}', _MEMO.replace(b'"a":"b"', b'"a":1.5')), MIB),
    "envelope": Parser(_envelope, (KeyError, TypeError), (_SUCCESS, _FAILURE), MIB),
    "closing": Parser(_closing, (ValueError, KeyError, TypeError, AttributeError, RecursionError), (_CLOSING, _CLOSING.replace(b'"envelope":', b'"envelope_cid":"b3:0","x":')), MIB),
    "checkpoint": Parser(_checkpoint, (Usage,), (b'{"format":"theory checkpoint v1","plans":{"default":{"events":1,"head":"b3:' + b"0" * 64 + b'"}},"rows":1,"order":"b3:' + b"0" * 64 + b'"}',), 16 * MIB),
    "outputs": Parser(_outputs, (TheoryError,), _META, 4 * MIB),
    "output-names": Parser(_names, (TheoryError,), (b"a.txt\nb/c.json\nA.TXT", "é\ne\u0301\nß\nss".encode(), b"a\\b\n%41\n\xff\n\x1b", SECRET.encode()), 1 << 14),
    "log": Parser(_log, (), _LOG, 1 << 17),
    "redact": Parser(_redact, (), (*_LOG, b"abababaaaaaaabab"), MIB),
    "claim": Parser(_claim, (TheoryError,), (b"/artifacts/a/", b"\xff"), MIB),
    "shown": Parser(_shown, (), (b"\x1b[31mred\x1b[0m\x9b1m\x1b]0;title\x07\x1bP...\x1b\\\r\n\ta", "\u202ea\u2066\ufeff".encode()), MIB),
}  # fmt: skip
