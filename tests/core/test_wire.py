from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st

import theory
from theory.formats import wire
from theory.formats.canon import ZERO_CID, canonical, cid_of, compact, memo_key
from theory.types import (
    Artifact,
    Failure,
    Image,
    ImageSource,
    MemoRecord,
    Processor,
    Receipt,
    Ref,
    Runtime,
    SecretNeeds,
    Success,
)

ID = "01890a5d-ac96-774b-bcce-b302099a8057"
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
SCALARS: st.SearchStrategy[Any] = (
    st.none()
    | st.booleans()
    | st.integers(-(10**9), 10**9)
    | st.floats(allow_nan=False, allow_infinity=False)
    | TEXT
)
CIDS = st.binary(max_size=3).map(cid_of)
ARTIFACTS = st.builds(
    Artifact, TEXT.map(lambda text: f"/artifacts/{text}"), CIDS, st.integers(0, 2**53 - 1), TEXT
)
CORE: dict[str, Any] = {
    "image_digest": None,
    "env_fingerprint": "linux_x64_none_a-b",
    "duration_ms": 5,
    "adapter": "mock",
    "memo": "off",
    "cost_micro_usd": 0,
}
METAS = st.dictionaries(TEXT, SCALARS, max_size=4).map(lambda said: {**said, **CORE})
SUCCESSES = st.builds(
    Success,
    execution_id=st.just(ID),
    outputs=st.lists(ARTIFACTS, max_size=4).map(tuple),
    index_path=st.just(f"/artifacts/execution/{ID}/outputs.json"),
    receipt_path=st.just(f"/artifacts/execution/{ID}/determinism.json"),
    meta=METAS,
    status=st.just("success"),
)
FAILURES = st.builds(
    Failure,
    execution_id=st.just(ID),
    code=st.from_regex(r"ERR_[A-Z_]{1,20}", fullmatch=True),
    message=TEXT,
    hint=TEXT,
    meta=st.dictionaries(TEXT, SCALARS, max_size=4),
    exit_code=st.integers(1, 255),
    status=st.just("error"),
)


def shipped(name: str) -> jsonschema.Draft202012Validator:
    file = Path(theory.__file__).parent / "formats" / f"{name}.schema.json"
    document = json.loads(file.read_text("utf-8"))
    jsonschema.Draft202012Validator.check_schema(document)
    return jsonschema.Draft202012Validator(document)


ENVELOPE, INDEX, RECEIPT = shipped("envelope"), shipped("index"), shipped("receipt")


# ---------------------------------------------------------------- envelope, index, receipt


@given(SUCCESSES | FAILURES)
def test_an_envelope_is_read_again_from_its_document_and_keeps_its_schema(
    envelope: Success | Failure,
) -> None:
    document = wire.envelope_document(envelope)
    assert wire.envelope_of(document) == envelope
    assert wire.envelope_of(json.loads(compact(document))) == envelope
    ENVELOPE.validate(document)


@pytest.mark.parametrize("name", ["status", "execution_id", "outputs", "index_path", "receipt_path", "meta"])
def test_an_envelope_without_one_of_its_keys_breaks_the_schema(name: str) -> None:
    document = wire.envelope_document(Success(ID, (), "/artifacts/i", "/artifacts/r", CORE))
    ENVELOPE.validate(document)
    del document[name]
    assert not ENVELOPE.is_valid(document)


def test_the_envelope_of_the_document_has_its_keys_in_order() -> None:
    output = Artifact("/artifacts/outputs/text/response.txt", ZERO_CID, 26, "text/plain")
    line = compact(
        wire.envelope_document(Success(ID, (output,), "/artifacts/i", "/artifacts/r", {"memo": "hit"}))
    )
    assert line == (
        f'{{"status":"success","execution_id":"{ID}","outputs":[{{"path":"/artifacts/outputs/text/response.txt",'
        f'"cid":"{ZERO_CID}","size_bytes":26,"mime":"text/plain"}}],"index_path":"/artifacts/i",'
        '"receipt_path":"/artifacts/r","meta":{"memo":"hit"}}'
    )


def test_who_changes_the_document_does_not_change_the_envelope() -> None:
    envelope = Failure(ID, "ERR_X", "m", meta={"a": 1})
    wire.envelope_document(envelope)["meta"]["a"] = 2  # type: ignore[call-overload,index]  # it is an object
    assert envelope.meta == {"a": 1}


@given(st.lists(ARTIFACTS, max_size=4))
def test_the_index_has_the_outputs_of_the_envelope_exactly(outputs: list[Artifact]) -> None:
    document = wire.index_document(outputs)
    INDEX.validate(document)
    assert document["outputs"] == wire.envelope_document(Success(ID, tuple(outputs), "i", "r"))["outputs"]


def test_the_receipt_has_all_that_the_record_has() -> None:
    receipt = Receipt(
        ID,
        "a/b@1",
        7,
        ZERO_CID,
        "fp",
        (ZERO_CID,),
        ZERO_CID,
        ZERO_CID,
        ZERO_CID,
        "image",
        None,
        "mock",
        "linux/amd64",
        "2026-01-02T03:04:05.678Z",
        "2026-01-02T03:04:06Z",
        None,
    )
    document = wire.receipt_document(receipt)
    RECEIPT.validate(document)
    assert document == {**dataclasses.asdict(receipt), "output_cids": [ZERO_CID]}


@given(
    st.builds(
        MemoRecord,
        memo_key=CIDS,
        source_execution_id=st.just(ID),
        outputs=st.lists(ARTIFACTS, max_size=3).map(tuple),
        meta=st.dictionaries(TEXT, SCALARS, max_size=3),
        image_digest=st.none() | TEXT,
        platform=TEXT,
        cost_micro_usd=st.integers(0, 2**53 - 1),
    )
)
def test_a_memo_record_is_read_again_from_its_document(record: MemoRecord) -> None:
    assert wire.memo_of(json.loads(compact(wire.memo_document(record)))) == record


@pytest.mark.parametrize(
    "document", [{}, {"outputs": 5}, {"memo_key": "x", "source_execution_id": "y", "outputs": [{}]}]
)
def test_a_memo_record_of_another_form_is_none(document: dict[str, Any]) -> None:
    with pytest.raises((KeyError, TypeError), match=r"."):
        wire.memo_of(document)


# ---------------------------------------------------------------- the preimage of the memo key

PROCESSOR = Processor(
    ref=Ref("a", "b", 1),
    description="x",
    image=ImageSource(oci="x"),
    command=("python", "main.py"),
    runtime=Runtime(),
    adapter={},
    secrets=SecretNeeds(),
    determinism="pure",
    reserve_micro_usd=0,
    inputs={"type": "object"},
    outputs={},
    folder=Path("/nowhere"),
    cid=ZERO_CID,
    tree=ZERO_CID,
)
IMAGE = Image("sha256:x", "sha256:x", "linux/amd64")


def preimage(
    processor: Processor = PROCESSOR,
    image: Image = IMAGE,
    inputs: Any = None,
    seed: int = 0,
    secrets: tuple[str, ...] = (),
    *,
    pretends: bool = False,
) -> bytes:
    return canonical(wire.preimage_document(processor, image, inputs or {}, seed, secrets, pretends=pretends))


def changed(**fields: Any) -> bytes:
    return preimage(dataclasses.replace(PROCESSOR, **fields))


def artifact(cid: str, name: str, folder: str = "inputs/x") -> dict[str, str]:
    return {"$artifact": f"/artifacts/{folder}/{name}", "cid": cid, "mime": "text/plain"}


PARTS = {
    "ref": changed(ref=Ref("a", "b", 2)),
    "command": changed(command=("python", "main.py", "")),
    "no command": changed(command=None),
    "image": changed(image=ImageSource(dockerfile="x")),
    "determinism": changed(determinism="seeded"),
    "inputs schema": changed(inputs={}),
    "outputs schema": changed(outputs={"type": "object"}),
    "network": changed(runtime=Runtime(network=True)),
    "gpu": changed(runtime=Runtime(gpu=1)),
    "tree": changed(tree=cid_of(b"x")),
    "image id": preimage(image=Image("sha256:y", "sha256:x", "linux/amd64")),
    "platform": preimage(image=Image("sha256:x", "sha256:x", "linux/arm64")),
    "inputs": preimage(inputs={"a": 1}),
    "seed": preimage(seed=1),
    "secrets": preimage(secrets=("A",)),
    "pretends": preimage(pretends=True),
}


def test_each_part_of_the_work_is_in_the_key() -> None:
    assert len({preimage(), *PARTS.values()}) == len(PARTS) + 1


def test_what_is_not_part_of_the_work_is_not_in_the_key() -> None:
    same = [
        changed(description="y"),
        changed(runtime=Runtime(cpu=2, memory=1, timeout=1)),
        changed(reserve_micro_usd=5),
        changed(adapter={"mock": {"x": 1}}),
        changed(cid=cid_of(b"y")),
        changed(folder=Path("/elsewhere")),
        preimage(image=Image("sha256:x", None, "linux/amd64", "3.11")),
    ]
    assert set(same) == {preimage()}


def test_the_order_of_secrets_does_not_count() -> None:
    assert preimage(secrets=("B", "A")) == preimage(secrets=("A", "B"))


def test_the_key_of_a_known_piece_of_work_stays_what_it_is() -> None:
    inputs: Any = {"table": artifact(cid_of(b"a,b\n"), "t.csv"), "n": 1.0}
    document = wire.preimage_document(PROCESSOR, IMAGE, inputs, 7, ("B", "A"), pretends=False)
    assert canonical(document).decode() == (
        '{"command":["python","main.py"],"determinism":"pure","gpu":null,"image":{"dockerfile":null,"oci":"x"},'
        '"image_id":"sha256:x","inputs":{"n":1,"table":{"$artifact":{"cid":'
        '"b3:bb8c3eaa219465f5d51a3073a55c338276ecdecd2de5b3aed9797234d2afb676","name":"t.csv"}}},'
        '"inputs_schema":{"type":"object"},"network":false,"outputs_schema":{},"platform":"linux/amd64",'
        '"pretends":false,"ref":"a/b@1","secrets":["A","B"],"seed":7,'
        f'"tree":"{ZERO_CID}"}}'
    )
    assert (
        memo_key(canonical(document)) == "b3:efe710b0b8c0e04c61862733878582fb4ef555a45fec2e5a5f505bfd8cfbe732"
    )


def test_an_artifact_is_named_by_cid_and_basename_alone() -> None:
    one, two = cid_of(b"1"), cid_of(b"2")
    same = preimage(inputs={"f": artifact(one, "a.txt")})
    assert preimage(inputs={"f": artifact(one, "a.txt", "outputs/other")}) == same
    assert preimage(inputs={"f": artifact(two, "a.txt")}) != same
    assert preimage(inputs={"f": artifact(one, "b.txt")}) != same
    assert preimage(inputs={"f": [artifact(one, "a.txt")]}) != same


INPUTS = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-3, 3)
    | st.sampled_from(["", "a", "$artifact", "cid", ZERO_CID])
    | st.builds(artifact, st.sampled_from([ZERO_CID, cid_of(b"")]), st.sampled_from(["a", "b"])),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["a", "b", "cid", "name", ""]), inner, max_size=3)
    ),
    max_leaves=6,
)


@given(INPUTS, INPUTS)
def test_two_different_inputs_never_share_bytes(one: Any, other: Any) -> None:
    same = canonical({"x": one}) == canonical({"x": other})
    assert (preimage(inputs={"x": one}) == preimage(inputs={"x": other})) == same


@given(INPUTS)
def test_what_only_looks_like_a_named_artifact_is_another_input(value: Any) -> None:
    real = {"x": artifact(ZERO_CID, "a"), "y": value}
    forged = {"x": {"$artifact": {"cid": ZERO_CID, "name": "b"}}, "y": value}
    assert preimage(inputs=real) != preimage(inputs=forged)
