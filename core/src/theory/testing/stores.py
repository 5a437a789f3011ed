"""The contract of a store: subclass ``StoreContract``, give it a store, and pytest proves each promise.

    from theory.testing import StoreContract

    class TestS3Store(StoreContract):
        plugin = "theory_store_s3.adapter"      # where open_store is: module, or module:object

        @pytest.fixture
        def store(self, bucket):                # an empty store of its own for each test
            return S3Store(bucket.url)

With ``plugin`` the contract opens the store again by its URL, in this process and in others; without it those
tests are skipped. A store that cannot be had by its URL alone overrides the fixture ``reopened``.
"""

from __future__ import annotations

import os
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import pytest

from theory.disk import durable
from theory.errors import ArtifactNotFound, StoreFailed
from theory.formats.canon import cid_of
from theory.store import blobs
from theory.types import Staged, Store

if TYPE_CHECKING:
    from collections.abc import Callable
    from concurrent.futures import Executor

ABSENT = "b3:" + "5a" * 32  # nobody knows bytes of this cid
KEY = "b3:" + "c3" * 32
OTHER_KEY = "b3:" + "c4" * 32
MALFORMED = {
    "empty": "",
    "short": "b3:" + "a" * 63,
    "long": "b3:" + "a" * 65,
    "upper case": "b3:" + "A" * 64,
    "no prefix": "a" * 64,
    "another hash": "sha256:" + "a" * 64,
    "a path": "b3:../../" + "a" * 58,
    "a trailing newline": "b3:" + "a" * 64 + "\n",
    "a null byte": "b3:" + "a" * 63 + "\0",
    "full-width digits": "b3:" + "\uff11" * 64,
}
LARGE = bytes(range(251)) * (5 * 1024 * 1024 // 251 + 1)
CONTENTS = {
    "no byte": b"",
    "one byte": b"\n",
    "text": "to be or not to be, é\n".encode(),
    "every byte": bytes(range(256)),
    "the most that core keeps in memory": LARGE[: 64 * 1024],
    "one byte more": LARGE[: 64 * 1024 + 1],
    "5 MiB": LARGE,
}
SHARED = 8  # contents that every worker puts
WORKERS = 4
ROUNDS = 6


def in_memory(store: Store, content: bytes) -> Staged:  # noqa: ARG001 - called as in_a_file is
    """Staged in memory, whatever its size."""
    return Staged(cid_of(content), len(content), data=content)


def in_a_file(store: Store, content: bytes) -> Staged:
    """Staged in a file, whatever its size."""
    descriptor, path = durable.create(store.staging)
    durable.write_all(descriptor, content)
    os.close(descriptor)
    return Staged(cid_of(content), len(content), Path(path))


_contents = pytest.mark.parametrize("content", CONTENTS.values(), ids=CONTENTS)
_malformed = pytest.mark.parametrize("name", MALFORMED.values(), ids=MALFORMED)


class StoreContract:
    """Every promise of ``theory.types.Store``, as tests; each gets an empty store of its own."""

    plugin: ClassVar[str | None] = None  # "module" or "module:object" that implements open_store

    @pytest.fixture
    def store(self) -> Store:
        """The store to prove, empty."""
        raise NotImplementedError(
            "a StoreContract needs a fixture `store`, with an empty store for each test"
        )

    @pytest.fixture
    def reopened(self, store: Store) -> Callable[[], Store]:
        """What opens the same store anew, as another process would."""
        if self.plugin is None:
            pytest.skip("this store names no plugin that opens it by its URL")
        plugin, url = self.plugin, store.url
        return lambda: open_by(plugin, url)

    # ------------------------------------------------------------ blobs

    @_contents
    def test_a_blob_comes_back_byte_for_byte(self, store: Store, content: bytes) -> None:
        """All sizes, from nothing to what no single request should carry."""
        assert_same(read(store, put(store, content)), content)

    @_contents
    @pytest.mark.parametrize("stage", [in_memory, in_a_file], ids=["in memory", "in a file"])
    def test_a_store_takes_every_size_from_memory_and_from_a_file(
        self, store: Store, stage: Callable[[Store, bytes], Staged], content: bytes
    ) -> None:
        """Where core changes from the one to the other is no business of a store."""
        blob = stage(store, content)
        store.put([blob])
        assert_same(read(store, blob.cid), content)
        assert list(store.list()) == [(blob.cid, len(content))]
        assert list(store.staging.iterdir()) == []

    def test_large_and_small_blobs_are_taken_together(self, store: Store) -> None:
        """As they come: in memory and in files."""
        contents = [*CONTENTS.values(), b"in a file"]
        staged = [blobs.stage(store, content) for content in contents[:-1]]
        store.put([*staged, in_a_file(store, contents[-1])])
        assert store.has(map(cid_of, contents)) == frozenset(map(cid_of, contents))
        for content in contents:
            assert_same(read(store, cid_of(content)), content)

    def test_a_blob_can_be_read_in_portions(self, store: Store) -> None:
        """``open`` gives a stream: reads add up to the content, and after its end there is nothing."""
        for content, size in ((LARGE, 300_007), (LARGE[:60_000], 7_001)):
            with store.open(put(store, content)) as stream:
                portions = list(iter(partial(stream.read, size), b""))
                assert stream.read(1) == b""
            assert_same(b"".join(portions), content)

    def test_two_readers_of_one_blob_do_not_disturb_each_other(self, store: Store) -> None:
        """Each ``open`` has a place of its own."""
        cid = put(store, b"abcdef")
        with store.open(cid) as one, store.open(cid) as other:
            assert (one.read(3), other.read(), one.read()) == (b"abc", b"abcdef", b"def")

    def test_many_blobs_are_taken_at_once(self, store: Store) -> None:
        """``put`` gets all blobs of an execution in one call."""
        contents = [b"%d" % number * number for number in range(100)]
        staged = [blobs.stage(store, content) for content in contents]
        store.put(staged)
        assert [read(store, blob.cid) for blob in staged] == contents

    def test_an_empty_put_does_nothing(self, store: Store) -> None:
        """An execution may have no new blob."""
        store.put([])
        assert list(store.list()) == []

    def test_one_content_staged_twice_in_one_put_is_one_blob(self, store: Store) -> None:
        """Two outputs may be equal."""
        staged = [blobs.stage(store, b"twin"), blobs.stage(store, b"twin")]
        store.put(staged)
        assert list(store.list()) == [(cid_of(b"twin"), 4)]
        assert read(store, staged[0].cid) == b"twin"

    def test_a_blob_that_is_there_can_be_put_again(self, store: Store) -> None:
        """It stays one blob, and whole."""
        first, second = put(store, b"again"), put(store, b"again")
        assert first == second
        assert list(store.list()) == [(first, 5)]
        assert read(store, first) == b"again"

    def test_put_leaves_nothing_in_the_staging_folder(self, store: Store) -> None:
        """Nor does it matter how often the same bytes come."""
        staged = [in_a_file(store, content) for content in (b"x", LARGE, b"x", LARGE)]
        store.put(staged)
        store.put([in_a_file(store, LARGE), in_memory(store, b"x")])
        assert list(store.staging.iterdir()) == []

    def test_a_put_of_a_file_that_is_gone_fails_and_shows_nothing(self, store: Store) -> None:
        """A failed write raises ``StoreFailed`` and leaves nothing half visible."""
        for content in (b"lost", LARGE):
            blob = in_a_file(store, content)
            path = path_of(blob)
            path.unlink()
            with pytest.raises(StoreFailed, match=path.name):
                store.put([in_memory(store, b"beside it"), blob])
            assert store.has([blob.cid]) == frozenset()

    def test_a_put_of_a_file_that_changed_its_size_fails_and_shows_nothing(self, store: Store) -> None:
        """What was staged is what is kept."""
        for content in (b"whole", LARGE):
            blob = in_a_file(store, content)
            path = path_of(blob)
            path.write_bytes(b"who")
            with pytest.raises(StoreFailed, match=path.name):
                store.put([in_memory(store, b"beside it"), blob])
            assert store.has([blob.cid]) == frozenset()

    def test_has_answers_for_many_at_once(self, store: Store) -> None:
        """Exactly those that are here."""
        here = [put(store, b"%d" % number) for number in range(20)]
        assert store.has([*here, ABSENT, cid_of(b"never put")]) == frozenset(here)

    def test_has_of_nothing_is_nothing(self, store: Store) -> None:
        """An empty question is allowed."""
        assert store.has([]) == frozenset()

    def test_the_questions_take_any_iterable(self, store: Store) -> None:
        """A generator is walked once."""
        cid = put(store, b"once")
        assert store.has(name for name in [cid, ABSENT]) == frozenset({cid})
        store.delete(name for name in [ABSENT, cid])
        assert store.has([cid]) == frozenset()

    def test_opening_an_absent_blob_says_that_it_is_not_here(self, store: Store) -> None:
        """By its cid."""
        put(store, b"something else")
        with pytest.raises(ArtifactNotFound, match=ABSENT):
            store.open(ABSENT)

    def test_an_empty_store_can_be_asked(self, store: Store) -> None:
        """Before the first write there is nothing, and that is no error."""
        assert list(store.list()) == []
        assert list(store.memo_list()) == []
        assert store.has([ABSENT]) == frozenset()
        assert store.memo_get(KEY) is None
        store.delete([ABSENT])
        store.memo_delete(KEY)
        with pytest.raises(ArtifactNotFound, match=ABSENT):
            store.open(ABSENT)

    def test_delete_removes_these_and_no_other(self, store: Store) -> None:
        """Many at once."""
        gone, kept = [put(store, b"gone %d" % number) for number in range(5)], put(store, b"kept")
        store.delete(gone)
        assert store.has([*gone, kept]) == frozenset({kept})
        with pytest.raises(ArtifactNotFound, match=gone[0]):
            store.open(gone[0])
        assert read(store, kept) == b"kept"

    def test_deleting_what_is_not_here_is_no_error(self, store: Store) -> None:
        """Twice neither."""
        cid = put(store, b"once")
        store.delete([ABSENT, cid, cid])
        store.delete([cid])
        assert list(store.list()) == []

    def test_a_deleted_blob_can_be_put_again(self, store: Store) -> None:
        """A deletion is not remembered."""
        cid = put(store, b"phoenix")
        store.delete([cid])
        put(store, b"phoenix")
        assert read(store, cid) == b"phoenix"

    def test_list_has_every_blob_with_its_size(self, store: Store) -> None:
        """Each of them once."""
        put(store, *CONTENTS.values())
        assert sorted(store.list()) == sorted((cid_of(data), len(data)) for data in CONTENTS.values())

    # ------------------------------------------------------------ memo records

    def test_a_memo_record_comes_back_byte_for_byte(self, store: Store) -> None:
        """The store does not look into it."""
        record = bytes(range(256)) * 40
        store.memo_set(KEY, record)
        assert store.memo_get(KEY) == record
        assert store.memo_get(OTHER_KEY) is None

    def test_the_last_memo_record_wins(self, store: Store) -> None:
        """A shorter one leaves nothing of the longer."""
        store.memo_set(KEY, b'{"long":"record"}')
        store.memo_set(KEY, b"{}")
        assert store.memo_get(KEY) == b"{}"
        assert list(store.memo_list()) == [KEY]

    def test_a_deleted_memo_record_is_gone_and_can_be_set_again(self, store: Store) -> None:
        """And its neighbour stays."""
        store.memo_set(KEY, b"1")
        store.memo_set(OTHER_KEY, b"2")
        store.memo_delete(KEY)
        store.memo_delete(KEY)
        assert (store.memo_get(KEY), store.memo_get(OTHER_KEY)) == (None, b"2")
        store.memo_set(KEY, b"3")
        assert store.memo_get(KEY) == b"3"

    def test_memo_list_has_every_key_once(self, store: Store) -> None:
        """Whatever the order."""
        keys = [cid_of(b"%d" % number) for number in range(20)]
        for key in [*keys, keys[0]]:
            store.memo_set(key, b"{}")
        assert sorted(store.memo_list()) == sorted(keys)

    def test_blobs_and_memo_records_of_one_name_are_two_things(self, store: Store) -> None:
        """Deleting the one leaves the other."""
        cid = put(store, b"same name")
        store.memo_set(cid, b"record")
        assert (read(store, cid), store.memo_get(cid)) == (b"same name", b"record")
        store.delete([cid])
        assert (store.has([cid]), store.memo_get(cid), list(store.memo_list())) == (
            frozenset(),
            b"record",
            [cid],
        )
        put(store, b"same name")
        store.memo_delete(cid)
        assert (read(store, cid), store.memo_get(cid)) == (b"same name", None)

    # ------------------------------------------------------------ names

    @_malformed
    def test_a_malformed_cid_is_refused(self, store: Store, name: str) -> None:
        """No path and no key is ever built from it."""
        staged = in_a_file(store, b"x")
        calls: list[Callable[[], object]] = [
            lambda: store.open(name),
            lambda: store.has([ABSENT, name]),
            lambda: store.delete([ABSENT, name]),
            lambda: store.put([Staged(name, staged.size_bytes, staged.path)]),
            lambda: store.put([Staged(name, 1, data=b"x")]),
        ]
        for call in calls:
            with pytest.raises(StoreFailed):  # the words are the store's own
                call()
        assert list(store.list()) == []

    @_malformed
    def test_a_malformed_memo_key_is_refused(self, store: Store, name: str) -> None:
        """As a malformed cid is."""
        calls: list[Callable[[], object]] = [
            lambda: store.memo_get(name),
            lambda: store.memo_set(name, b"{}"),
            lambda: store.memo_delete(name),
        ]
        for call in calls:
            with pytest.raises(StoreFailed):  # the words are the store's own
                call()
        assert list(store.memo_list()) == []

    def test_a_put_with_one_malformed_cid_takes_none(self, store: Store) -> None:
        """Names are looked at before anything is moved."""
        for stage in (in_memory, in_a_file):
            good, large, bad = stage(store, b"good"), stage(store, LARGE), stage(store, b"bad")
            with pytest.raises(StoreFailed):  # the words are the store's own
                store.put([good, large, Staged("b3:..", bad.size_bytes, bad.path, bad.data)])
            assert list(store.list()) == []

    # ------------------------------------------------------------ others at the same time

    def test_the_same_store_opened_anew_has_it_all(self, store: Store, reopened: Callable[[], Store]) -> None:
        """Nothing that was promised lives in one object's memory."""
        cid = put(store, b"kept")
        store.memo_set(KEY, b"record")
        again = reopened()
        assert (read(again, cid), again.memo_get(KEY), again.url) == (b"kept", b"record", store.url)
        again.delete([cid])
        again.memo_delete(KEY)
        assert (store.has([cid]), store.memo_get(KEY)) == (frozenset(), None)

    def test_threads_share_a_store(self, store: Store) -> None:
        """Putting, reading, listing and memo records, all at once."""
        with ThreadPoolExecutor(WORKERS) as pool:
            self._work(store, pool, lambda worker: work(store, worker))

    def test_processes_share_a_store(self, store: Store, reopened: Callable[[], Store]) -> None:
        """As threads do; the first of them makes it."""
        if self.plugin is None:
            pytest.skip("this store names no plugin that opens it by its URL")
        reopened()
        import multiprocessing  # noqa: PLC0415 - of this test alone

        with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("spawn")) as pool:
            self._work(store, pool, _Worker(self.plugin, store.url))

    def _work(self, store: Store, pool: Executor, task: Callable[[int], int]) -> None:
        assert list(pool.map(task, range(WORKERS))) == [ROUNDS] * WORKERS
        contents = [_shared(number) for number in range(SHARED)]
        contents += [_own(worker, number) for worker in range(WORKERS) for number in range(ROUNDS)]
        assert sorted(store.list()) == sorted((cid_of(content), len(content)) for content in contents)
        assert all(read(store, cid_of(content)) == content for content in contents)
        assert store.memo_get(KEY) in [_record(worker) for worker in range(WORKERS)]
        assert list(store.staging.iterdir()) == []


class _Worker:
    """What another process does; it is pickled."""

    def __init__(self, plugin: str, url: str) -> None:
        self.plugin = plugin
        self.url = url

    def __call__(self, worker: int) -> int:
        return work(open_by(self.plugin, self.url), worker)


def open_by(plugin: str, url: str) -> Store:
    """The store that a plugin opens for a URL."""
    module, _, name = plugin.partition(":")
    implementer: Any = import_module(module)
    store: Store | None = (getattr(implementer, name) if name else implementer).open_store(url)
    assert store is not None, f"{plugin} does not open {url}, which is its own store's url"
    return store


def path_of(blob: Staged) -> Path:
    """The file of what is staged in one."""
    assert blob.path is not None
    return blob.path


def assert_same(found: bytes, content: bytes) -> None:
    """Compare bytes without asking pytest for a diff, for which it would look for minutes."""
    same = found == content
    assert same, "the bytes differ"


def put(store: Store, *contents: bytes) -> str:
    """Stage and put; the cid of the first."""
    staged = [blobs.stage(store, content) for content in contents]
    store.put(staged)
    return staged[0].cid


def read(store: Store, cid: str) -> bytes:
    """All of a blob."""
    with store.open(cid) as stream:
        return stream.read()


def work(store: Store, worker: int) -> int:
    """Write what all write and what nobody else does, and read it while others do so too; the rounds done."""
    for number in range(ROUNDS):
        own = put(store, _own(worker, number), *map(_shared, range(SHARED)))
        assert read(store, own) == _own(worker, number)
        assert all(read(store, cid_of(_shared(shared))) == _shared(shared) for shared in range(SHARED))
        assert own in dict(store.list())
        store.memo_set(KEY, _record(worker))
        record = store.memo_get(KEY)
        assert record in [_record(other) for other in range(WORKERS)], "half a record, or somebody else's"
        store.delete([ABSENT])
    return ROUNDS


def _shared(number: int) -> bytes:
    return b"shared %d" % number * (1 + 997 * number)


def _own(worker: int, number: int) -> bytes:
    return b"of worker %d in round %d" % (worker, number)


def _record(worker: int) -> bytes:
    return b"%d" % worker * (1 + 3000 * worker)
