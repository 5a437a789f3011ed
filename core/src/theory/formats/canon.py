"""One spelling and one hash: strict JSON in, canonical JSON out, and every content address.

A cid is computed here and nowhere else. BLAKE3 is mandatory; there is no fallback.
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any, cast

from blake3 import blake3

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from typing import IO

    from theory.types import Json

    # Where something stands: in what, and its key or number there; None is the whole document.
    Place = tuple["Place", str | int] | None

MAX_JSON_BYTES = 16 * 1024 * 1024
MAX_JSON_DEPTH = 64
MAX_JSON_VALUES = 500_000  # in one document; of the smallest ones, 16 MiB would take 2 GiB and 20 s
MAX_INTEGER = 2**53 - 1  # RFC 8785, 3.2.2.3: beyond this, two integers may have one spelling
_EXPONENTS = 1e21  # ECMA-262, Number::toString: below this, a whole double is spelled as an integer

ZERO_CID = "b3:" + "0" * 64  # stands in for an artifact that is not hashed yet
CID = re.compile(r"b3:[0-9a-f]{64}")

_MEMO_CONTEXT = "theory memo v1"
_TREE_CONTEXT = "theory tree v1"
_LEDGER_CONTEXT = "theory ledger v1"
_READ_BYTES = 1024 * 1024
_SHOWN = 100  # characters of a key in a message

_STRING = re.compile(r'"[^"\\]*(?:\\.[^"\\]*)*"', re.DOTALL)
_BEYOND_BMP = re.compile("[\U00010000-\U0010ffff]")


def _spelling(*, sort_keys: bool) -> Callable[[object], str]:
    """The ``encode`` of an encoder, which would make its part in C anew for each document."""
    encoder = json.JSONEncoder(
        ensure_ascii=False, separators=(",", ":"), allow_nan=False, sort_keys=sort_keys, check_circular=False
    )
    make = getattr(json.encoder, "c_make_encoder", None)
    if make is None:  # a Python without that part
        return encoder.encode
    text = json.encoder.encode_basestring  # as JSONEncoder.iterencode has it
    encode = make(None, encoder.default, text, None, ":", ",", sort_keys, False, False)  # noqa: FBT003 - takes no names
    return lambda value: "".join(encode(value, 0))


# By type: whether such a value is surely one of ours.
_PLAIN: dict[type, Callable[[Any], bool]] = {
    str: str.isascii,
    int: range(-MAX_INTEGER, MAX_INTEGER + 1).__contains__,
    bool: (True, False).__contains__,
    type(None): (None,).__contains__,
}
_unsorted, _sorted = _spelling(sort_keys=False), _spelling(sort_keys=True)


class BadJson(ValueError):
    """Text that is not the JSON we take; the message says what and where."""

    def __init__(self, message: str, pointer: str = "") -> None:
        super().__init__(message)
        self.pointer = pointer


# ---------------------------------------------------------------- JSON


def parse_json(data: bytes | str, *, exact: bool = True) -> Json:
    """Read strict JSON: UTF-8, no NaN, no key twice, no lone surrogates, depth 64, 16 MiB, 500,000 values.

    Args:
        data: The text.
        exact: Refuse integers beyond 2^53-1, which have no canonical form; only what is never hashed
            may have them.

    Raises:
        BadJson: With line and column, or the JSON pointer of the fault.
    """
    size = len(data) if isinstance(data, bytes) else len(data.encode("utf-8", "surrogatepass"))
    if size > MAX_JSON_BYTES:
        raise BadJson(f"{size:,} bytes or more of JSON, which is over the limit of {MAX_JSON_BYTES:,}")
    text = _decode(data) if isinstance(data, bytes) else data
    if text.startswith("\ufeff"):
        raise BadJson("a byte order mark, which is not JSON")
    if most_values(text) > MAX_JSON_VALUES:
        raise BadJson(f"more than {MAX_JSON_VALUES:,} values, which is the limit")
    try:
        value = _decoder.decode(text)
    except json.JSONDecodeError as error:
        what = _lowered(error.msg).removesuffix(" at")
        raise BadJson(f"{what} at line {error.lineno}, column {error.colno}") from None
    except RecursionError:
        raise BadJson(f"nested deeper than {MAX_JSON_DEPTH} levels") from None
    except _StandsTwiceError as error:
        key: str = error.args[0]
        shown = key if len(key) <= _SHOWN else key[: _SHOWN - 1] + "…"  # who masks has to see that it is cut
        raise BadJson(f"the key {shown!r} stands twice in one object", _second(text)) from None
    check_json(value, exact=exact)
    return cast("Json", value)


def most_values(text: str) -> int:
    """How many values a JSON text has at most; below the limit of a document this may be far too many.

    Each value but the first follows a comma or begins a list or an object.
    """
    if (count := _separators(text)) <= MAX_JSON_VALUES:
        return count
    return _separators(_STRING.sub("", text))


def _separators(text: str) -> int:
    return 1 + text.count(",") + text.count("[") + text.count("{")


def check_json(value: object, *, exact: bool = True) -> None:
    """Refuse what no JSON document of ours may hold, with its JSON pointer.

    What passes ``exact`` is what ``parse_json`` reads again from its canonical form.

    Raises:
        BadJson: A type that is not JSON's, NaN, an infinite number, an integer beyond 2^53-1, a lone
            surrogate, or more than 64 levels.
    """
    if not _is_plain(value):  # to know the place of each value costs four times as much as to look at it
        _find_fault(value, exact=exact)


def _is_plain(value: object) -> bool:
    """Whether surely nothing is wrong with a document; most have ASCII, and no doubles."""
    level: list[Any] = [(value,)]
    for _ in range(MAX_JSON_DEPTH + 1):  # what is around the document is one more
        below: list[Any] = []
        for item in level:
            if type(item) is dict and not _has_plain_keys(item):
                return False
            for child in item.values() if type(item) is dict else item:
                kind = type(child)
                if kind is dict or kind is list:
                    below.append(child)
                elif kind not in _PLAIN or not _PLAIN[kind](child):
                    return False
        if not below:
            return True
        level = below
    return False


def _has_plain_keys(item: dict[Any, object]) -> bool:
    try:
        return "".join(item).isascii()
    except TypeError:  # a key that is no text
        return False


def _find_fault(value: object, *, exact: bool) -> None:
    if not isinstance(value, (dict, list)):
        _check_scalar(value, None, exact=exact)
        return
    todo: list[tuple[dict[object, object] | list[object], Place, int]] = [(value, None, 1)]
    while todo:
        item, place, depth = todo.pop()
        if depth > MAX_JSON_DEPTH:
            raise BadJson(f"nested deeper than {MAX_JSON_DEPTH} levels", pointer_of(place))
        if isinstance(item, dict):
            for key in item:
                if not isinstance(key, str):
                    raise BadJson(f"a key of type {type(key).__name__}, which is not text", pointer_of(place))
                _check_text(key, place)
        for step, child in item.items() if isinstance(item, dict) else enumerate(item):
            if isinstance(child, (dict, list)):
                todo.append((child, (place, cast("str | int", step)), depth + 1))
            else:
                _check_scalar(child, (place, cast("str | int", step)), exact=exact)


def pointer_of(place: Place) -> str:
    """The JSON pointer of a place: what it is in, and its key or number there; None is the whole document.

    A pointer for each value would take the square of the memory where a long key stands above many values.
    """
    steps = []
    while place is not None:
        place, step = place
        steps.append(escape_pointer(str(step)))
    return "".join(f"/{step}" for step in reversed(steps))


def escape_pointer(key: str) -> str:
    """One step of a JSON pointer (RFC 6901)."""
    return key.replace("~", "~0").replace("/", "~1")


def canonical(value: object) -> bytes:
    r"""The one spelling of a JSON value (RFC 8785); the value has passed ``check_json``.

    >>> canonical({"b": 1.0, "a": "é"})
    b'{"a":"\xc3\xa9","b":1}'
    """
    # The json module is several times as fast as rfc8785. It spells otherwise only where there is a double,
    # or a key beyond the BMP, which UTF-16 sorts otherwise than code points do.
    if not _has_double(value):
        text = _sorted(value)
        if text.isascii() or _BEYOND_BMP.search(text) is None:
            return text.encode()
    import rfc8785  # noqa: PLC0415 - few documents need it

    return rfc8785.dumps(cast("Any", value))


def canonical_object(members: Mapping[str, bytes]) -> bytes:
    """The one spelling of an object, from that of each member; its keys are plain ASCII words.

    >>> canonical_object({"b": b"1", "a": b"[]"})
    b'{"a":[],"b":1}'
    """
    return b"{" + b",".join(b'"%b":%b' % (key.encode(), members[key]) for key in sorted(members)) + b"}"


def compact(value: object) -> str:
    """A JSON document on one line, for people and programs, its keys in the order of the value."""
    return _unsorted(value)


def _has_double(value: object) -> bool:
    if type(value) in _PLAIN:
        return False
    todo: list[Any] = [(value,)]
    while todo:
        item = todo.pop()
        for child in item.values() if isinstance(item, dict) else item:
            if type(child) in _PLAIN:
                continue
            if isinstance(child, (dict, list, tuple)):
                todo.append(child)
            elif isinstance(child, float):
                return True
    return False


def _decode(data: bytes) -> str:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise BadJson(f"byte {error.start} is not UTF-8") from None


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        seen: set[str] = set()
        for key, _ in pairs:
            if key in seen:
                raise _StandsTwiceError(key)
            seen.add(key)
    return value


class _StandsTwiceError(Exception):
    """A key of an object whose place is not known yet."""


class _Members(list[tuple[str, Any]]):
    """An object with all of its members."""


def _second(text: str) -> str:
    """The pointer of a key that stands twice; the json module does not tell where it is."""
    try:
        whole = json.loads(text, object_pairs_hook=_Members, parse_int=str)
    except (ValueError, RecursionError):  # another fault, further down
        return ""
    todo: list[tuple[Any, Place]] = [(whole, None)]
    while todo:
        item, place = todo.pop()
        if isinstance(item, _Members):
            seen: set[str] = set()
            for key, child in item:
                if key in seen:
                    return pointer_of((place, key))
                seen.add(key)
                todo.append((child, (place, key)))
        elif isinstance(item, list):
            todo += ((child, (place, number)) for number, child in enumerate(item))
    return ""


def _constant(name: str) -> float:
    return float(name)  # check_json refuses it, and knows where it is


def _integer(digits: str) -> int:
    if len(digits) > 300:  # noqa: PLR2004 - no double is longer, and int() takes quadratic time
        raise BadJson(f"the integer {digits[:20]}… has {len(digits):,} digits; send it as a string")
    return int(digits)


_decoder = json.JSONDecoder(object_pairs_hook=_object, parse_constant=_constant, parse_int=_integer)


def _check_scalar(item: object, place: Place, *, exact: bool) -> None:
    if isinstance(item, str):
        _check_text(item, place)
    elif isinstance(item, (int, float)):  # bool is an int
        if item - item != 0:  # neither NaN nor infinite
            raise BadJson("NaN or an infinite number, which JSON does not have", pointer_of(place))
        if exact and abs(item) > MAX_INTEGER and (isinstance(item, int) or abs(item) < _EXPONENTS):
            raise BadJson(
                "an integer beyond 2^53-1 has no exact JSON; send it as a string", pointer_of(place)
            )
    elif item is not None:
        raise BadJson(f"a value of type {type(item).__name__}, which is not JSON", pointer_of(place))


def _check_text(text: str, place: Place) -> None:
    if text.isascii():
        return
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        raise BadJson("a lone surrogate, which is no character", pointer_of(place)) from None


def _lowered(message: str) -> str:
    return message[:1].lower() + message[1:]


# ---------------------------------------------------------------- content addresses


class Hasher:
    """Names bytes as they stream by."""

    __slots__ = ("_state", "size_bytes")

    def __init__(self) -> None:
        self._state = blake3()
        self.size_bytes = 0

    def update(self, data: bytes | memoryview) -> None:
        """Take the next bytes."""
        self._state.update(data)
        self.size_bytes += len(data)

    @property
    def cid(self) -> str:
        """The cid of the bytes so far."""
        return "b3:" + self._state.hexdigest()


def cid_of(data: bytes) -> str:
    """The cid of these bytes: ``b3:`` and the BLAKE3-256 digest in hex.

    >>> cid_of(b"")
    'b3:af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262'
    """
    return "b3:" + blake3(data).hexdigest()


def cid_of_stream(stream: IO[bytes], write: Callable[[bytes], object] | None = None) -> tuple[str, int]:
    """The cid and size in bytes of all that a stream still holds, passed on to ``write`` on the way."""
    hasher = Hasher()
    while block := stream.read(_READ_BYTES):
        hasher.update(block)
        if write is not None:
            write(block)
    return hasher.cid, hasher.size_bytes


def tree_cid(files: Iterable[tuple[str, str, bool]]) -> str:
    """The address of a folder: of ``(relative path, cid, executable)`` of each file, in any order."""
    listing = sorted([path, cid, executable] for path, cid, executable in files)
    return _derived(_TREE_CONTEXT, canonical(listing))


def memo_key(preimage: bytes) -> str:
    """The content address of a piece of work, from its canonical preimage (docs/reference/formats.md)."""
    return _derived(_MEMO_CONTEXT, preimage)


def event_hash(columns: Mapping[str, str | int | None]) -> str:
    """The hash of one ledger event: of all its columns but the hash, the hash before it among them."""
    # No doubles, and names of columns for keys: the fast spelling is the canonical one.
    return _derived(_LEDGER_CONTEXT, _sorted(columns).encode())


def _derived(context: str, data: bytes) -> str:
    return "b3:" + blake3(data, derive_key_context=context).hexdigest()
