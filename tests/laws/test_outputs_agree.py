"""Laws of the whole way: envelope, index, receipt, names and blobs tell one story, each time."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from core.bed import Call, Fake, document, done, good, house, write_entry
from theory import cid_of
from theory.formats import wire

if TYPE_CHECKING:
    from theory import Outcome, Runner, Success

SEGMENT = st.text("abcdeZ.é 漢-_", min_size=1, max_size=6).filter(lambda name: name not in {".", ".."})
NAME = st.lists(SEGMENT, min_size=1, max_size=3).map("/".join)
CONTENT = st.binary(max_size=40)


def distinct(files: dict[str, bytes]) -> bool:
    """No two are one on a file system that folds case, and no file has a folder's name."""
    folded = [name.casefold() for name in files]
    return len(set(folded)) == len(folded) and not any(
        one != other and other.startswith(one + "/") for one in folded for other in folded
    )


FILES = st.dictionaries(NAME, CONTENT, max_size=6).filter(distinct)


def story(runner: Runner, envelope: Success, files: dict[str, bytes], prefix: str) -> None:
    """Hold everything that was written about an execution against the files."""
    expected = {prefix + name: content for name, content in files.items()}
    listed = [output.path for output in envelope.outputs]
    last = [prefix + "meta.json"] if "meta.json" in files else []
    assert listed == sorted(expected.keys() - set(last)) + last
    for output in envelope.outputs:
        content = expected[output.path]
        assert (output.cid, output.size_bytes) == (cid_of(content), len(content))
        assert runner.ledger.name(output.path) == output
        with runner.open(output) as stream:
            assert stream.read() == content
    assert document(runner, envelope.index_path) == wire.index_document(envelope.outputs)
    receipt = document(runner, envelope.receipt_path)
    assert receipt["output_cids"] == [output.cid for output in envelope.outputs]
    assert receipt["execution_id"] == envelope.execution_id
    record = runner.ledger.execution(envelope.execution_id)
    assert record is not None
    assert record.memo_key == receipt["memo_key"]
    assert len(runner.store.has(record.blobs.values())) == len(set(record.blobs.values()))


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(files=FILES, meta=st.none() | st.just(b'{"k":1}'))
def test_a_miss_and_its_hit_tell_one_story_each_under_its_own_prefix(
    files: dict[str, bytes], meta: bytes | None
) -> None:
    if meta is not None:
        files = {**files, "meta.json": meta}

    def act(call: Call) -> Outcome:
        call.channel.started()
        call.write(files)
        return done(cost_micro_usd=5)

    with tempfile.TemporaryDirectory() as folder:
        write_entry(Path(folder, "entries"))
        fake = Fake(act=act)
        with house(Path(folder), fake) as runner:
            miss = good(runner.run("test/thing@1"))
            story(runner, miss, files, "/artifacts/outputs/")
            hit = good(runner.run("test/thing@1", write_prefix="/artifacts/again/{execution_id}/"))
            story(runner, hit, files, f"/artifacts/again/{hit.execution_id}/")
            assert len(fake.calls) == 1
            assert [o.cid for o in hit.outputs] == [o.cid for o in miss.outputs]
            assert (miss.meta["memo"], hit.meta["memo"]) == ("miss", "hit")
            assert (miss.meta["cost_micro_usd"], hit.meta["cost_micro_usd"]) == (5, 0)
            assert document(runner, hit.receipt_path)["source_execution_id"] == miss.execution_id
            kinds = [record.kind for record in runner.ledger.executions(limit=9)]
            assert kinds == ["execution.memo_hit", "execution.success"]
            assert runner.ledger.plan("default").spent_micro_usd == 5
