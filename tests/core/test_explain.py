"""Why two executions have different keys: each component by itself, and nothing is changed by asking."""

import json
import os
from pathlib import Path
from typing import Any

import pytest

from core.bed import Fake, good, house, write_entry
from theory import Image, Runner
from theory.errors import ArtifactNotFound, BadInputs, Damaged, MissingSecret
from theory.request import Request
from theory.store import blobs
from theory.upkeep.explain import ABSENT, Difference, Explanation, explain_executions, explain_request

REF = "test/thing@1"


def run(runner: Runner, inputs: Any = None, **more: Any) -> str:
    return good(runner.run(REF, inputs, **more)).execution_id


def told(found: Explanation) -> list[tuple[str, str, object, object]]:
    return [(d.component, d.place, d.a, d.b) for d in found.differences]


def request(inputs: Any = None, **more: Any) -> Request:
    values = {"ref": REF, "inputs": inputs or {}, "adapter": "fake", "plan": "default"}
    return Request(**{**values, "prefix": "/artifacts/outputs/", **more})


def test_inputs_that_differ_are_told_by_json_pointer(tmp_path: Path) -> None:
    with house(tmp_path) as runner:
        a = run(runner, {"a/b": [1, {"x": True}], "same": "s", "only": None})
        b = run(runner, {"a/b": [1, {"x": 1}, 3], "same": "s", "new": {}}, seed=7)
        found = explain_executions(runner, a, b)
    assert found.components == ("inputs", "seed")
    assert told(found) == [
        ("inputs", "/a~1b/1/x", True, 1),
        ("inputs", "/a~1b/2", ABSENT, 3),
        ("inputs", "/only", None, ABSENT),
        ("inputs", "/new", ABSENT, {}),
        ("seed", "", 0, 7),
    ]
    assert found.document()["equal"] is False
    documents = found.document()["differences"]
    assert isinstance(documents, list)
    assert documents[1] == {"component": "inputs", "place": "/a~1b/2", "b": 3}


def test_the_tree_is_told_file_by_file(tmp_path: Path) -> None:
    folder = write_entry(tmp_path / "entries")
    with house(tmp_path) as runner:
        a = run(runner)
        (folder / "main.py").write_text("print('other')\n")
        (folder / "new.py").write_text("")
        (folder / "Dockerfile").chmod(0o755)
        b = run(runner)
        found = explain_executions(runner, a, b)
    assert found.components == ("tree",)
    assert [d.place for d in found.differences] == ["Dockerfile", "main.py", "new.py"]
    mode, content, new = found.differences
    assert isinstance(mode.a, dict)
    assert isinstance(mode.b, dict)
    assert (mode.a["cid"], mode.a["executable"], mode.b["executable"]) == (mode.b["cid"], False, True)
    assert isinstance(content.a, dict)
    assert isinstance(content.b, dict)
    assert content.a["cid"] != content.b["cid"]
    assert new.a is ABSENT


def test_a_tree_whose_listing_is_gone_is_told_as_a_whole(tmp_path: Path) -> None:
    folder = write_entry(tmp_path / "entries")
    with house(tmp_path) as runner:
        a = run(runner)
        (folder / "main.py").write_text("print('other')\n")
        b = run(runner)
        record = runner.ledger.execution(a)
        assert record is not None
        runner.store.delete([record.blobs["tree"]])
        (difference,) = explain_executions(runner, a, b).differences
    assert (difference.component, difference.place) == ("tree", "")
    assert str(difference.a).startswith("b3:")


@pytest.mark.parametrize(
    ("fields", "component", "place"),
    [
        ({"command": ["python", "other.py"]}, "command", "/1"),
        ({"determinism": "seeded"}, "determinism", ""),
        ({"inputs": {"type": "object", "title": "t"}}, "inputs_schema", "/title"),
        ({"outputs": {"title": "t"}}, "outputs_schema", "/title"),
        ({"image": {"oci": "alpine"}}, "image", "/dockerfile"),
        ({"runtime": {"network": True}}, "network", ""),
        ({"runtime": {"gpu": "any"}}, "gpu", ""),
    ],
)
def test_every_part_of_the_entry_that_counts_is_told(
    tmp_path: Path, fields: dict[str, Any], component: str, place: str
) -> None:
    with house(tmp_path) as runner:
        a = run(runner)
    write_entry(tmp_path / "entries", **fields)
    with house(tmp_path) as runner:
        b = run(runner)
        found = explain_executions(runner, a, b)
    assert found.components == (component,)
    assert found.differences[0].place == place


@pytest.mark.parametrize(
    ("changes", "components"),
    [
        ({"image": Image("fake:2", None, "linux/arm64", "3.11")}, ("image_id", "platform")),
        ({"pretends": True}, ("pretends",)),
    ],
)
def test_what_the_adapter_says_is_told(
    tmp_path: Path, changes: dict[str, Any], components: tuple[str, ...]
) -> None:
    with house(tmp_path) as runner:
        a = run(runner)
    with house(tmp_path, Fake(**changes)) as runner:
        b = run(runner)
        assert explain_executions(runner, a, b).components == components


def test_the_names_of_secrets_are_told_and_never_their_values(tmp_path: Path) -> None:
    write_entry(tmp_path / "entries", secrets={"optional": ["API_KEY"]})
    with house(tmp_path) as runner:
        a = run(runner)
    with house(tmp_path, environ={"API_KEY": "canary-1234"}) as runner:
        b = run(runner)
        found = explain_executions(runner, a, b)
    assert told(found) == [("secrets", "/0", ABSENT, "API_KEY")]
    assert "canary" not in json.dumps(found.document())


def test_equal_keys_are_said_to_be_equal(tmp_path: Path) -> None:
    with house(tmp_path) as runner:
        a, b = run(runner, {"x": 1}), run(runner, {"x": 1.0})
        found = explain_executions(runner, a, b)
    assert (found.differences, found.document()["equal"]) == ((), True)
    assert found.notes == (f"{b} was served from the memo", "the memo has a record of this key")


def test_why_equal_work_was_done_again_is_said(tmp_path: Path) -> None:
    with house(tmp_path) as runner:
        a, b = run(runner), run(runner, memo="off")
        assert explain_executions(runner, a, b).notes[0] == f"{b} does not use the memo: --no-memo"
        path = "/artifacts/outputs/a.txt"
        artifact = runner.ledger.name(path)
        assert artifact is not None
        runner.store.delete([artifact.cid])
        assert (
            "cannot be served: its outputs are gone or damaged" in explain_executions(runner, a, b).notes[-1]
        )
        runner.store.memo_delete(explain_executions(runner, a, b).b.memo_key)
        assert explain_executions(runner, a, b).notes[-1] == "the memo has no record of this key"


def test_an_image_that_nothing_pins_is_said_to_be_of_one_run_alone(tmp_path: Path) -> None:
    with house(tmp_path, Fake(image=Image("once:1", None, "linux/amd64", "3.11"))) as runner:
        a = run(runner)
    with house(tmp_path, Fake(image=Image("once:2", None, "linux/amd64", "3.11"))) as runner:
        b = run(runner)
        found = explain_executions(runner, a, b)
    assert found.components == ("image_id",)
    for who, note in zip((a, b), found.notes, strict=True):
        assert note.startswith(f"no other run can be served what {who} made: ")
        assert "by digest (@sha256:…)" in note


def test_a_failure_is_never_remembered_and_that_is_said(tmp_path: Path) -> None:
    def act(_: object) -> object:
        raise RuntimeError("on purpose")

    with house(tmp_path, Fake(act=act)) as runner:
        a = runner.run(REF).execution_id
        found = explain_executions(runner, a)
    assert (found.a, found.b.status) == (None, "failure")
    assert f"{a} failed, and only successes are remembered" in found.notes


def test_one_execution_is_compared_with_the_nearest_former_one_of_its_ref(tmp_path: Path) -> None:
    with house(tmp_path) as runner:
        near = run(runner, {"x": 1})
        run(runner, {"x": 1}, seed=1)
        asked = run(runner, {"x": 2})
        run(runner, {"x": 2}, seed=9)  # later
        found = explain_executions(runner, asked)
        first = explain_executions(runner, near)
    assert found.a is not None
    assert (found.a.execution_id, told(found)) == (near, [("inputs", "/x", 1, 2)])
    assert first.a is None
    assert first.notes[0] == f"no former execution of {REF} is there to compare it with"


def test_a_request_is_explained_and_nothing_runs_and_nothing_is_written(tmp_path: Path) -> None:
    write_entry(tmp_path / "entries")
    file = tmp_path / "photo.jpg"
    file.write_bytes(b"x" * 100_000)
    fake = Fake()
    with house(tmp_path, fake) as runner:
        a = run(runner, {"file": {"$attach": "f"}, "n": 1}, attachments={"f": file})
        before = sorted(runner.store.list()), runner.ledger.plans(), files(runner)
        file.write_bytes(b"y" * 100_000)
        asked = {"file": {"$attach": "f"}, "n": 1}
        found = explain_request(runner, request(asked, attachments={"f": str(file)}))
        assert [(d.component, d.place) for d in found.differences] == [("inputs", "/file/$artifact/cid")]
        assert found.a is not None
        assert (found.a.execution_id, found.b.execution_id, found.b.memo) == (a, None, "miss")
        assert (sorted(runner.store.list()), runner.ledger.plans(), files(runner)) == before
        file.write_bytes(b"x" * 100_000)
        hit = explain_request(runner, request(asked, attachments={"f": str(file)}))
        assert (hit.differences, hit.b.memo) == ((), "hit")
        assert run(runner, asked, attachments={"f": file}) != a
        assert len(fake.calls) == 1


def files(runner: Runner) -> list[str]:
    return sorted(
        name for _, _, names in os.walk(runner.settings.home) for name in names if "-shm" not in name
    )


def test_the_key_of_a_request_is_that_of_its_run(tmp_path: Path) -> None:
    with house(tmp_path) as runner:
        found = explain_request(runner, request({"x": [1, "é"]}, seed=3))
        record = runner.ledger.execution(run(runner, {"x": [1, "é"]}, seed=3))
    assert record is not None
    assert found.b.memo_key == record.memo_key


def test_a_nondeterministic_request_does_not_use_the_memo_unless_asked_to(tmp_path: Path) -> None:
    write_entry(tmp_path / "entries", determinism="nondeterministic")
    with house(tmp_path) as runner:
        off, on = (explain_request(runner, request(memo=memo)) for memo in ("auto", "on"))
    assert (off.b.memo, on.b.memo) == ("off", "miss")
    assert (
        f"this request does not use the memo: {REF} is nondeterministic, and --memo was not given"
        in off.notes
    )


def test_a_request_is_compared_with_the_execution_that_is_named(tmp_path: Path) -> None:
    with house(tmp_path) as runner:
        far = run(runner, {"x": 1}, seed=4)
        run(runner, {"x": 2})
        found = explain_request(runner, request({"x": 2}), far)
    assert found.components == ("inputs", "seed")


def test_what_a_run_would_refuse_is_refused(tmp_path: Path) -> None:
    write_entry(tmp_path / "entries", secrets=["API_KEY"])
    with house(tmp_path) as runner:
        with pytest.raises(MissingSecret, match="needs the secret API_KEY"):
            explain_request(runner, request())
        with pytest.raises(BadInputs, match="nothing in the inputs refers to the attachment 'f'"):
            explain_request(runner, request(attachments={"f": "x"}))


def test_what_is_not_there_is_named_and_damage_is_told(tmp_path: Path) -> None:
    with house(tmp_path) as runner:
        a = run(runner)
        with pytest.raises(ArtifactNotFound, match="no execution is called 'x'"):
            explain_executions(runner, a, "x")
        record = runner.ledger.execution(a)
        assert record is not None
        cid = record.blobs["preimage"]
        runner.store.delete([cid])
        with pytest.raises(ArtifactNotFound, match=f"blob {cid} is not in"):
            explain_executions(runner, a, a)
        damaged = blobs.stage(runner.store, b"{}")
        raw = runner.store
        raw.put([type(damaged)(cid, damaged.size_bytes, data=b"{}")])
        with pytest.raises(Damaged, match=f"blob {cid} in .* is damaged"):
            explain_executions(runner, a, a)


def test_a_difference_is_a_value_and_absent_is_not_null() -> None:
    assert Difference("inputs", "/x", None, ABSENT).document() == {
        "component": "inputs",
        "place": "/x",
        "a": None,
    }
