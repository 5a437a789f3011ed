"""What a simulated processor answers: the outputs that the entry gives in adapter.mock, or derived ones."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, NamedTuple

from theory import errors

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from theory import Json, JsonObject, Processor

META = "meta.json"  # the output whose members join the envelope
_MAX_PATH = 1024  # characters; a world path has no more bytes
_MAX_NAME_BYTES = 255  # of one segment: NAME_MAX of Linux and macOS
_MOST_KNOWN = 64
_known: dict[int, tuple[Processor, Answer]] = {}  # by the id of the entry, which stays its own as it is kept
_TOKEN = re.compile(r"^\s+|\S+\s*")  # joined again, the tokens are the text


class Answer(NamedTuple):
    """The outputs of a simulated run, by relative path."""

    texts: Mapping[str, str]
    documents: Mapping[str, Json]
    schema: JsonObject | None = None  # that a derived answer has to keep; None: the entry's own words
    stream: bytes = b""  # the texts as events, a line for each word with the space that follows it

    def files(self) -> dict[str, bytes]:
        """Each output's bytes: a text as it is, a document as JSON."""
        files = {path: text.encode() for path, text in self.texts.items()}
        for path, document in self.documents.items():
            files[path] = (
                json.dumps(document, ensure_ascii=False, indent=2, allow_nan=False) + "\n"
            ).encode()
        return files

    def with_stream(self) -> Answer:
        """The same, with the events that tell it."""
        tokens = (token for text in self.texts.values() for token in _TOKEN.findall(text))
        events = (
            json.dumps({"event": "token", "text": token}, ensure_ascii=False) + "\n" for token in tokens
        )
        return self._replace(stream="".join(events).encode())

    def counted(self, messages: list[Json]) -> Answer:
        """The answer with ``tokens_in`` and ``tokens_out`` in its meta.json, unless they are there already.

        A token is a word: what stands between white space. Derived counts are replaced by true ones where
        the outputs schema allows these.
        """
        meta = self.documents.get(META)
        if not isinstance(meta, dict):
            return self
        counts: dict[str, Json] = {
            "tokens_in": sum(len(text.split()) for message in messages for text in _texts_of(message)),
            "tokens_out": sum(len(text.split()) for text in self.texts.values()),
        }
        if self.schema is None:
            return self._with_meta({**meta, **{name: counts[name] for name in counts if name not in meta}})
        from theory_adapter_mock.derive import fits  # noqa: PLC0415 - entries that give their outputs need none of it

        counted = self._with_meta({**meta, **counts})
        return counted if fits(self.schema, counted.texts, counted.documents) else self

    def _with_meta(self, meta: dict[str, Json]) -> Answer:
        return self._replace(documents={**self.documents, META: meta})


def answer_to(processor: Processor) -> Answer:
    """The answer of this entry, the same every time.

    Raises:
        RegistryFault: adapter.mock of the entry is wrong.
        Unsupported: It gives no outputs, and its outputs schema is not simple enough to derive them from.
    """
    found = _known.get(id(processor))
    if found is None:
        if len(_known) >= _MOST_KNOWN:
            _known.clear()
        found = _known[id(processor)] = (processor, _made(processor).with_stream())
    return found[1]


def _made(processor: Processor) -> Answer:
    told = processor.adapter.get("mock", {})
    unknown = sorted(told.keys() - {"outputs"})
    if unknown:
        raise errors.RegistryFault(
            f"{processor.ref}: adapter.mock has {unknown[0]!r}, which the mock adapter does not know",
            hint="adapter.mock takes outputs: a path and a text or JSON for each",
        )
    if "outputs" not in told:
        return _derived(processor)
    outputs = told["outputs"]
    if not isinstance(outputs, dict):
        raise errors.RegistryFault(
            f"{processor.ref}: adapter.mock.outputs is no object",
            hint="give a path and a text or JSON for each output",
        )
    if fault := _fault_of_paths(outputs.keys()):
        raise errors.RegistryFault(
            f"{processor.ref}: adapter.mock.outputs: {fault}",
            hint="name files below out, such as text/response.txt",
        )
    return Answer(
        texts={path: value for path, value in outputs.items() if isinstance(value, str)},
        documents={path: value for path, value in outputs.items() if not isinstance(value, str)},
    )


def _derived(processor: Processor) -> Answer:
    from theory_adapter_mock.derive import derive  # noqa: PLC0415 - as above
    from theory_adapter_mock.schema import NotDerivable  # noqa: PLC0415 - as above

    try:
        texts, documents = derive(processor.outputs)
    except NotDerivable as error:
        place, reason = error.pointer or "its root", error.reason
    else:
        place, reason = "/properties", _fault_of_paths([*texts, *documents])
        if not reason:
            return Answer(texts, documents, processor.outputs)
    raise errors.Unsupported(
        f"{processor.ref}: the mock adapter cannot derive outputs from their schema: at {place}, {reason}",
        hint="add adapter.mock.outputs to the entry: a path and a text or JSON for each output",
    )


def _fault_of_paths(paths: Iterable[str]) -> str:
    """Why these cannot all be files below one folder, or an empty text."""
    paths = tuple(paths)
    for path in paths:
        if len(path) > _MAX_PATH or any(map(_is_no_name, path.split("/"))):
            return f"{path[:100]!r} is no relative path of a file"
        if "\0" in path or "\\" in path:
            return f"{path[:100]!r} has a character that no file name may have"
    folders = {path[:end] for path in paths for end, character in enumerate(path) if character == "/"}
    for path in paths:
        if path in folders:
            return f"{path[:100]!r} is a file and a folder"
    return ""


def _is_no_name(step: str) -> bool:
    return step in {"", ".", ".."} or len(step.encode()) > _MAX_NAME_BYTES


def _texts_of(message: Json) -> list[str]:
    """The texts of one message: its content, or the text parts of its content."""
    content = message.get("content") if isinstance(message, dict) else None
    parts = content if isinstance(content, list) else [content]
    texts = [part.get("text") if isinstance(part, dict) else part for part in parts]
    return [text for text in texts if isinstance(text, str)]
