"""A value in the spellings in which values leak, and whether one of them, or a part of one, is somewhere.

A processor that leaks takes this text along as the begin of its own, so it stands on the standard library.
"""

from __future__ import annotations

import json
from base64 import b64encode, urlsafe_b64encode
from urllib.parse import quote, quote_plus

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

_LEAST = 10  # bytes that must be gone on with for a part to count as found


def spellings(value: str) -> dict[str, bytes]:
    """The value as raw text, base64, hex, URL and JSON have it, and as they have it in mixtures."""
    raw = value.encode("utf-8", "surrogateescape")
    escaped, url = json.dumps(value)[1:-1], quote(raw, safe="")
    code = b64encode(raw).decode()
    text = {
        "hex": raw.hex(),
        "hex, upper case": raw.hex().upper(),
        "URL": quote(raw),
        "URL component": url,
        "URL form": quote_plus(raw),
        "URL, lower case": _lowered(url),
        "URL, all": "".join(f"%{byte:02X}" for byte in raw),
        "URL, all, lower case": "".join(f"%{byte:02x}" for byte in raw),
        "URL, half": "".join(
            f"%{byte:02x}" if at % 2 or byte > 127 else chr(byte) for at, byte in enumerate(raw)
        ),
        "JSON": escaped,
        "JSON, slashes": escaped.replace("/", "\\/"),
        "JSON, all": _units(value, "04x"),
        "JSON, all, upper case": _units(value, "04X"),
        "JSON, half": "".join(
            _units(char, "04x") if at % 2 or char in '"\\' else char for at, char in enumerate(value)
        ),
        "JSON, all, in JSON": json.dumps(_units(value, "04X"))[1:-1],
        "JSON in JSON": json.dumps(escaped)[1:-1],
        "JSON in a URL": quote(escaped, safe=""),
        "JSON pointer": value.replace("~", "~0").replace("/", "~1"),
        "base64 in a URL": quote(code, safe=""),
        "base64 in JSON": code.replace("/", "\\/"),
        "repr": repr(value)[1:-1],
        "repr, ASCII": ascii(value)[1:-1],
        "repr of bytes": repr(raw)[2:-1],
    }
    found = {
        "raw": raw,
        "JSON, UTF-8": json.dumps(value, ensure_ascii=False)[1:-1].encode("utf-8", "surrogateescape"),
    }
    found |= {name: spelled.encode("utf-8", "surrogateescape") for name, spelled in text.items()}
    for name, encode in (("base64", b64encode), ("base64, url-safe", urlsafe_b64encode)):
        found |= {name: encode(raw), f"{name}, no padding": encode(raw).rstrip(b"=")}
        for before in (b"u", b"u:"):
            found[f"{name}, inside, {len(before)}"] = encode(before + raw + b"zz")
    return found


def pieces(value: str) -> dict[bytes, str]:
    """Parts of all spellings: whoever shows a third of one shows at least one of these."""
    found: dict[bytes, str] = {}
    for name, spelled in spellings(value).items():
        body = spelled[4:-4] if "inside" in name else spelled  # what is around has the bits of others
        size = max(_LEAST, len(body) // 4)
        for at in range(0, len(body) - size + 1, max(1, size // 3)):
            found.setdefault(body[at : at + size], name)
    return found


def found_in(data: bytes, sought: Mapping[bytes, str]) -> set[str]:
    """The spellings of which there is a part."""
    return {name for piece, name in sought.items() if piece in data}


def _units(text: str, how: str) -> str:
    """Every character as JSON may escape it: a UTF-16 unit."""
    units = text.encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{int.from_bytes(units[at : at + 2], 'big'):{how}}" for at in range(0, len(units), 2))


def _lowered(url: str) -> str:
    first, *others = url.split("%")
    return "%".join([first, *(part[:2].lower() + part[2:] for part in others)])
