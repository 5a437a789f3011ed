from __future__ import annotations

import dataclasses
import unicodedata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from theory.errors import AttachmentNotFound, BadInputs, RegistryFault
from theory.formats.canon import ZERO_CID, canonical, cid_of
from theory.formats.mime import mime_of
from theory.rooms.inputs import Attachment, Reference, check_inputs
from theory.types import Artifact, ImageSource, Processor, Ref, Runtime, SecretNeeds

if TYPE_CHECKING:
    from theory.rooms.inputs import Inputs
    from theory.types import JsonObject

CID = cid_of(b"photo")
PATH = f"/artifacts/inputs/{CID}/photo.jpg"


def processor(schema: JsonObject | None = None) -> Processor:
    return Processor(
        ref=Ref("a", "b", 1),
        description="x",
        image=ImageSource(oci="x"),
        command=None,
        runtime=Runtime(),
        adapter={},
        secrets=SecretNeeds(),
        determinism="pure",
        reserve_micro_usd=0,
        inputs={} if schema is None else schema,
        outputs={},
        folder=Path("/nowhere"),
        cid=ZERO_CID,
        tree=ZERO_CID,
    )


def materialized(inputs: Inputs) -> JsonObject:
    """The inputs with what room 4 would find: the bytes of a source are its name."""
    found: dict[Attachment | Reference, Artifact] = {}
    for attachment in inputs.attachments:
        cid, name = cid_of(attachment.source.encode()), attachment.basename
        found[attachment] = Artifact(f"/artifacts/inputs/{cid}/{name}", cid, 5, mime_of(name))
    for reference in inputs.references:
        name = reference.path.rpartition("/")[2]
        found[reference] = Artifact(f"/artifacts/inputs/{CID}/{name}", CID, 5, mime_of(name))
    return inputs.with_artifacts(found)


# ---------------------------------------------------------------- $attach


def test_an_attachment_becomes_the_object_of_the_document() -> None:
    inputs = check_inputs(processor(), '{"image": {"$attach": "image"}}', {"image": "dir/photo.jpg"})
    cid = cid_of(b"dir/photo.jpg")
    assert materialized(inputs) == {
        "image": {"$artifact": f"/artifacts/inputs/{cid}/photo.jpg", "cid": cid, "mime": "image/jpeg"}
    }


def test_a_stand_in_is_validated_before_the_file_is_read() -> None:
    schema: JsonObject = {
        "properties": {
            "image": {"properties": {"mime": {"const": "image/png"}, "cid": {"pattern": "^b3:0{64}$"}}}
        }
    }
    check_inputs(processor(schema), '{"image": {"$attach": "i"}}', {"i": "/gone/x.png"})
    with pytest.raises(BadInputs, match=r'^the inputs of a/b@1 at /image/mime: "image/png" was expected'):
        check_inputs(processor(schema), '{"image": {"$attach": "i"}}', {"i": "/gone/x.jpg"})


def test_the_real_object_is_validated_again() -> None:
    schema: JsonObject = {"properties": {"image": {"properties": {"cid": {"const": ZERO_CID}}}}}
    inputs = check_inputs(processor(schema), '{"image": {"$attach": "i"}}', {"i": "x.png"})
    with pytest.raises(BadInputs, match="at /image/cid"):
        materialized(inputs)


@given(
    st.recursive(
        st.just(None),
        lambda inner: st.lists(inner, min_size=1) | st.dictionaries(st.text("ab"), inner, min_size=1),
        max_leaves=8,
    )
)
def test_an_attachment_is_found_at_any_depth(shape: Any) -> None:
    def filled(value: Any, leaf: object) -> Any:
        if isinstance(value, list):
            return [filled(item, leaf) for item in value]
        return {key: filled(item, leaf) for key, item in value.items()} if isinstance(value, dict) else leaf

    inputs = check_inputs(processor(), {"at": filled(shape, {"$attach": "f"})}, {"f": "a.txt"})
    cid = cid_of(b"a.txt")
    expected = {"$artifact": f"/artifacts/inputs/{cid}/a.txt", "cid": cid, "mime": "text/plain"}
    assert materialized(inputs) == {"at": filled(shape, expected)}


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        ('{"a": [{"$attach": "y"}]}', r"^/a/0 refers to the attachment 'y', which was not given$"),
        ('{"a": {"$attach": "x", "b": 1}}', r'^/a is not of the form {"\$attach": "name"}$'),
        ('{"a": {"$attach": 5}}', r'^/a is not of the form {"\$attach": "name"}$'),
        ('{"$attach": "x", "$artifact": "/artifacts/a"}', r"^/ is not of the form"),
        ("{}", "^nothing in the inputs refers to the attachment 'x'$"),
        ('{"a": "$attach", "b": ["$attach", "x"]}', "^nothing in the inputs refers to the attachment 'x'$"),
    ],
)
def test_a_misused_attachment_is_refused_with_its_place(raw: str, message: str) -> None:
    with pytest.raises(BadInputs, match=message):
        check_inputs(processor(), raw, {"x": "x.txt"})


def test_one_file_under_two_names_is_two_attachments_with_one_content() -> None:
    inputs = check_inputs(
        processor(), {"a": {"$attach": "x"}, "b": {"$attach": "y"}}, {"x": "f.txt", "y": "f.txt"}
    )
    document = materialized(inputs)
    assert [attachment.name for attachment in inputs.attachments] == ["x", "y"]
    assert document["a"] == document["b"]


# ---------------------------------------------------------------- names of attachments


@pytest.mark.parametrize(
    ("source", "basename"),
    [
        ("photo.jpg", "photo.jpg"),
        ("a/b/photo.jpg", "photo.jpg"),
        ("https://example.org/x/data.csv", "data.csv"),
        ("-", "name.txt"),
        (unicodedata.normalize("NFD", "é.txt"), "é.txt"),
    ],
)
def test_the_basename_is_the_last_part_in_normal_form(source: str, basename: str) -> None:
    inputs = check_inputs(processor(), {"a": {"$attach": "name.txt"}}, {"name.txt": source})
    assert inputs.attachments == (Attachment("name.txt", source, basename),)


@pytest.mark.parametrize(
    ("name", "source"),
    [
        ("x", "a\nb"),
        ("x", "photo\u202egnp.exe"),
        ("x", "a\\b"),
        ("x", "a%2e"),
        ("x", ".."),
        ("x", "/"),
        ("x", "\udcff"),
        ("x", "a" * 256),
        ("a/b", "-"),
        ("\x1b[2J", "-"),
    ],
)
def test_a_name_that_no_file_may_have_here_is_refused(name: str, source: str) -> None:
    with pytest.raises(AttachmentNotFound, match=r"^Attachment file .* (has|is) ") as caught:
        check_inputs(processor(), {"a": {"$attach": name}}, {name: source})
    caught.value.message.encode()
    assert caught.value.message.isprintable()


# ---------------------------------------------------------------- $artifact


@pytest.mark.parametrize(
    "given_object",
    [
        {"$artifact": PATH},
        {"$artifact": PATH, "cid": CID},
        {"$artifact": PATH, "cid": CID, "mime": "text/html"},
        {"$artifact": "/artifacts/outputs/photo.jpg", "mime": "x"},
    ],
)
def test_a_reference_is_answered_by_what_core_found(given_object: JsonObject) -> None:
    inputs = check_inputs(processor(), {"a": given_object}, {})
    assert inputs.references == (Reference(str(given_object["$artifact"]), given_object.get("cid")),)  # type: ignore[arg-type]  # text or None
    assert materialized(inputs) == {"a": {"$artifact": PATH, "cid": CID, "mime": "image/jpeg"}}


@pytest.mark.parametrize(
    ("forged", "message"),
    [
        ({"$artifact": 1}, "is not of the form"),
        ({"$artifact": PATH, "size": 1}, "is not of the form"),
        ({"$artifact": PATH, "cid": "b3:00"}, "is not of the form"),
        ({"$artifact": PATH, "cid": CID.upper()}, "is not of the form"),
        ({"$artifact": PATH, "cid": CID + "\n"}, "is not of the form"),
        ({"$artifact": PATH, "cid": {"x": 1}}, "is not of the form"),
        ({"$artifact": PATH, "mime": 1}, "is not of the form"),
        ({"$artifact": PATH, "mime": None}, "is not of the form"),
        ({"$artifact": "/etc/passwd"}, "does not begin with /artifacts/"),
        ({"$artifact": "/artifacts/../etc/passwd"}, r"has a segment '\.\.'"),
        ({"$artifact": "/artifacts/a\u202eb"}, "control or direction-changing"),
    ],
)
def test_a_forged_reference_is_refused_with_its_place(forged: JsonObject, message: str) -> None:
    with pytest.raises(BadInputs, match=f"/a/0.*{message}"):
        check_inputs(processor(), {"a": [forged]}, {})


# ---------------------------------------------------------------- JSON and schema


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        ("{", "^the inputs are not JSON that can be used: expecting property name .* at line 1, column 2$"),
        ('{"a": {"b": [9007199254740993]}}', r"beyond 2\^53-1.* at /a/b/0$"),
        ('{"a": NaN}', "NaN or an infinite number, which JSON does not have at /a$"),
        ('{"x": [1, {"a/b": 1, "a/b": 2}]}', "the key 'a/b' stands twice in one object at /x/1/a~1b$"),
        ("[1]", "^the inputs are a list, not a JSON object$"),
        ("null", "^the inputs are one value, not a JSON object$"),
        (b'{"a": "\xff"}', "byte 7 is not UTF-8"),
        ({"a": (1, 2)}, "a value of type tuple"),
        (r'{"x": {"\ud800": 1}}', "a lone surrogate, which is no character at /x$"),
    ],
)
def test_what_is_no_usable_json_is_refused(raw: Any, message: str) -> None:
    with pytest.raises(BadInputs, match=message) as caught:
        check_inputs(processor(), raw, {})
    caught.value.message.encode()


def test_a_long_or_harmful_key_is_shown_short_and_safe() -> None:
    with pytest.raises(BadInputs, match="beyond") as caught:
        check_inputs(processor(), {"\x1b[2J" + "k" * 10_000: 2**60}, {})
    assert caught.value.message.isprintable()
    assert len(caught.value.message) < 400


def test_a_mismatch_names_the_pointer_the_expectation_and_the_number_of_others() -> None:
    schema: JsonObject = {"required": ["text"], "properties": {"n": {"type": "integer"}}}
    with pytest.raises(
        BadInputs, match=r'^the inputs of a/b@1 at /: "text" is a required property \(and 1 more\)$'
    ) as caught:
        check_inputs(processor(schema), {"n": "x"}, {})
    assert caught.value.hint == "theory registry show a/b@1 prints their schema"


def test_defaults_are_part_of_the_inputs() -> None:
    schema: JsonObject = {"properties": {"sep": {"default": ","}, "n": {"default": 1}}, "required": ["sep"]}
    assert materialized(check_inputs(processor(schema), '{"n": 2}', {})) == {"sep": ",", "n": 2}


def test_a_schema_that_is_none_is_a_fault_of_the_registry() -> None:
    with pytest.raises(RegistryFault, match="the inputs schema of a/b@1"):
        check_inputs(processor({"type": "strin"}), {}, {})


def test_who_changes_the_document_afterwards_changes_nothing() -> None:
    raw: Any = {"a": [1], "f": {"$attach": "f"}}
    inputs = check_inputs(processor(), raw, {"f": "f.txt"})
    before = canonical(materialized(inputs))
    raw["a"].append(2)
    raw["f"]["$attach"] = "g"
    assert canonical(materialized(inputs)) == before


def test_the_record_is_finished_when_it_is_made() -> None:
    inputs = check_inputs(processor(), {}, {})
    with pytest.raises(dataclasses.FrozenInstanceError, match="raw"):
        inputs.raw = {}  # type: ignore[misc]  # that is what is tried
