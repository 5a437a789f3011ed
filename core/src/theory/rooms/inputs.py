"""Room 2: raw JSON becomes inputs that satisfy the entry's schema.

An attachment is not read here: a stand-in object with an all-zero cid takes its place, so that a file of 10
GB is not hashed for a request that is wrong anyway. ``Inputs.with_artifacts`` puts the real objects in and
validates again.
"""

from __future__ import annotations

import unicodedata
from typing import TYPE_CHECKING, cast

from theory.entries.schemas import BadSchema, Mismatch, schema_of
from theory.errors import AttachmentNotFound, BadInputs, RegistryFault
from theory.formats import paths, wire
from theory.formats.canon import (
    CID,
    ZERO_CID,
    BadJson,
    canonical,
    check_json,
    compact,
    parse_json,
    pointer_of,
)
from theory.formats.mime import mime_of
from theory.record import Record
from theory.types import Artifact

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from theory.formats.canon import Place
    from theory.types import Json, JsonObject, Processor


_SHORT = 4 * paths.MAX_SEGMENT_BYTES  # characters: composed, no more than these could be a name


class Attachment(Record):
    """A file that a request brings along."""

    name: str  # what "$attach" calls it
    source: str  # a path, a URI, or - for standard input
    basename: str  # the last segment of its world path


class Reference(Record):
    """An artifact that the inputs name by world path."""

    path: str
    cid: str | None  # what the request says it is


class Inputs(Record):
    """Inputs that would do, were the attachments there."""

    raw: JsonObject
    attachments: tuple[Attachment, ...]  # all of them are referred to
    references: tuple[Reference, ...]
    processor: Processor
    checked: JsonObject  # with its defaults, and with stand-ins for the files

    def with_artifacts(self, found: Mapping[Attachment | Reference, Artifact]) -> JsonObject:
        """The inputs as the processor will see them.

        Raises:
            BadInputs: The real objects break the schema where the stand-ins did not.
        """
        if not found:
            return self.checked
        named = {attachment.name: attachment for attachment in self.attachments}
        return _validated(
            self.processor,
            self.raw,
            attach=lambda name: found[named[name]],
            refer=lambda reference: found[reference],
        )

    def agree_with(self, earlier: Json) -> bool:
        """Whether an earlier execution's inputs are these, as far as can be told without reading a file.

        Files are compared by name: what is in them is not read for an answer that is there already.
        """
        basenames = {attachment.name: attachment.basename for attachment in self.attachments}
        value = _validated(
            self.processor,
            self.raw,
            attach=lambda name: _stand_in(basenames[name]),
            refer=lambda reference: _stand_in(reference.path.rpartition("/")[2]),
        )
        return canonical(_named(value)) == canonical(_named(earlier))


def check_inputs(
    processor: Processor, raw: str | bytes | JsonObject, attachments: Mapping[str, str]
) -> Inputs:
    """Parse, rewrite, fill defaults and validate.

    Args:
        processor: Whose inputs these are.
        raw: JSON text, or a document.
        attachments: Path, URI or ``-`` of each attachment, by name.

    Raises:
        BadInputs: Line and column, or the JSON pointer of the fault and what was expected there.
        AttachmentNotFound: An attachment's name can be no file name.
    """
    document = _parsed(raw)
    known = {name: _attachment(name, source) for name, source in attachments.items()}
    used: set[str] = set()
    references: list[Reference] = []

    def attach(name: str) -> Artifact:
        used.add(name)
        return _stand_in(known[name].basename)

    def refer(reference: Reference) -> Artifact:
        references.append(reference)
        return _stand_in(reference.path.rpartition("/")[2])

    _check_places(document, None, known)
    checked = _validated(processor, document, attach, refer)
    if unused := sorted(known.keys() - used):
        shown = paths.printable(compact({wire.ATTACH: unused[0]}))
        raise BadInputs(
            f"nothing in the inputs refers to the attachment {paths.quoted(unused[0])}",
            hint=f"write {shown} where it belongs, or leave the attachment out",
        )
    return Inputs(document, tuple(known.values()), tuple(dict.fromkeys(references)), processor, checked)


def _stand_in(basename: str) -> Artifact:
    return Artifact(f"{paths.INPUTS}{ZERO_CID}/{basename}", ZERO_CID, 0, mime_of(basename))


def _named(value: Json) -> Json:
    """Inputs with each file by its name alone."""
    if isinstance(value, list):
        return [_named(item) for item in value]
    if not isinstance(value, dict):
        return value
    if wire.ARTIFACT in value:
        return {wire.ARTIFACT: str(value[wire.ARTIFACT]).rpartition("/")[2]}
    return {key: _named(item) for key, item in value.items()}


def _place(pointer: str) -> str:
    """A JSON pointer as people see it; the keys in it come from outside."""
    return paths.printable(pointer) or "/"


def _parsed(raw: str | bytes | JsonObject) -> JsonObject:
    try:
        if isinstance(raw, (str, bytes)):
            value: Json = parse_json(raw)
        else:
            check_json(raw)
            value = _copied(raw)  # the caller may go on to change it
    except BadJson as error:
        where = f" at {_place(error.pointer)}" if error.pointer else ""
        empty = isinstance(raw, (str, bytes)) and not raw.strip()
        raise BadInputs(
            "the inputs are empty, which is not JSON"
            if empty
            else f"the inputs are not JSON that can be used: {error}{where}",
            hint="without inputs write {}"
            if empty
            else "one JSON object in UTF-8; @FILE spares the shell's quoting",
        ) from None
    if not isinstance(value, dict):
        found = "a list" if isinstance(value, list) else "one value"
        raise BadInputs(f"the inputs are {found}, not a JSON object", hint='write {"name": …}')
    return value


def _copied(value: Json) -> Json:
    if isinstance(value, list):
        return [_copied(item) for item in value]
    return {key: _copied(item) for key, item in value.items()} if isinstance(value, dict) else value


def _attachment(name: str, source: str) -> Attachment:
    shown = paths.without_credentials(source)
    basename = name if source == "-" else shown.rstrip("/").rpartition("/")[2]
    basename = unicodedata.normalize("NFC", basename[:_SHORT])
    if fault := paths.fault_of_segment(basename):
        raise AttachmentNotFound(
            f"Attachment file {paths.quoted(shown if source != '-' else name)} {fault}",
            hint="give it another name"
            if source == "-"
            else "rename the file, or attach it from standard input",
        )
    return Attachment(name, source, basename)


def _check_places(value: Json, place: Place, known: Mapping[str, Attachment]) -> None:
    """Refuse a misused ``$attach`` or ``$artifact`` with its place."""
    if isinstance(value, list):
        for number, item in enumerate(value):
            _check_places(item, (place, number), known)
    if not isinstance(value, dict):
        return
    if wire.ATTACH in value:
        name = value[wire.ATTACH]
        if len(value) > 1 or not (isinstance(name, str) and name):
            raise BadInputs(
                f'{_place(pointer_of(place))} is not of the form {{"$attach": "name"}}',
                hint="nothing else may stand beside it; the file comes from --attach name=PATH",
            )
        if name not in known:
            have = ", ".join(map(paths.quoted, sorted(known)[:10])) or "none"
            raise BadInputs(
                f"{_place(pointer_of(place))} refers to the attachment {paths.quoted(name)},"
                " which was not given",
                hint=f"give it with --attach NAME=PATH (given: {have})",
            )
        return
    if wire.ARTIFACT in value:
        _reference(value, pointer_of(place))
        return
    for key, item in value.items():
        _check_places(item, (place, key), known)


def _reference(value: JsonObject, pointer: str = "") -> Reference:
    path, cid = value[wire.ARTIFACT], value.get("cid")
    if (
        not isinstance(path, str)
        or not value.keys() <= {wire.ARTIFACT, "cid", "mime"}
        or not (cid is None or (isinstance(cid, str) and CID.fullmatch(cid)))
        or not isinstance(value.get("mime", ""), str)
    ):
        raise BadInputs(
            f"{_place(pointer)} is not of the form"
            ' {"$artifact": "/artifacts/…", "cid": "b3:…", "mime": "…"}',
            hint="cid and mime may be left out",
        )
    if fault := paths.fault_of_path(path):
        raise BadInputs(
            f"the artifact {paths.quoted(path)} at {_place(pointer)} {fault}",
            hint="write a world path, as theory ls /artifacts/ shows them",
        )
    return Reference(path, cid)


def _validated(
    processor: Processor,
    document: JsonObject,
    attach: Callable[[str], Artifact],
    refer: Callable[[Reference], Artifact],
) -> JsonObject:
    try:
        schema = schema_of(processor.inputs)
    except BadSchema as error:
        raise RegistryFault(f"the inputs schema of {processor.ref}: {error} at {error.pointer}") from None
    value = schema.with_defaults(_rewritten(document, attach, refer))
    try:
        schema.check(value)
    except Mismatch as error:
        more = f" (and {error.more} more)" if error.more else ""
        raise BadInputs(
            f"the inputs of {processor.ref} at {_place(error.pointer)}: {error}{more}",
            hint=f"theory registry show {processor.ref} prints their schema",
        ) from None
    return cast("JsonObject", value)


def _rewritten(
    value: Json, attach: Callable[[str], Artifact], refer: Callable[[Reference], Artifact]
) -> Json:
    if isinstance(value, list):
        return [_rewritten(item, attach, refer) for item in value]
    if not isinstance(value, dict):
        return value
    if wire.ATTACH in value:
        return wire.input_document(attach(cast("str", value[wire.ATTACH])))
    if wire.ARTIFACT in value:
        return wire.input_document(refer(_reference(value)))
    return {key: _rewritten(item, attach, refer) for key, item in value.items()}
