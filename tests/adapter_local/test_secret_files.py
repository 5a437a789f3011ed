"""A secret reaches the command, and nobody who looks at its container."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, cast

import pytest

from adapter_local.staging import Bed, bed, created, run
from theory import Secrets
from theory.types import SecretNeeds
from theory_adapter_local.files.archives import SecretCopies
from theory_adapter_local.files.secretfiles import SecretFolder, folder_for_secrets, folders_for_secrets
from theory_adapter_local.guard.watchdog import owner_name

if TYPE_CHECKING:
    from theory_adapter_local.engine.client import Engine

CANARY = "sk-canary-ünd\udcff\n"  # a value that is no UTF-8 and ends a line
RAW = CANARY.encode("utf-8", "surrogateescape")
READ = 'head -c 99 "$KEY_FILE" | od -An -tx1 | tr -d " \\n"'


@pytest.fixture
def one(engine: Engine, base_image: str, tmp_path: Path) -> Bed:
    return bed(engine, str(engine.call("GET", f"/images/{base_image}/json")["Id"]), tmp_path)


@pytest.fixture
def runtime(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of the user's own, for what does not last."""
    folder = tmp_path / "runtime"
    folder.mkdir(mode=0o700)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(folder))
    return folder


@pytest.mark.parametrize("user", [None, "7:8", "image", "nobody"])
def test_the_command_reads_it_and_inspect_does_not_show_it(one: Bed, user: str | None) -> None:
    files = one.files({"KEY": CANARY}, user=user)
    script = f"exec 2>/dev/null; {READ}; echo; echo x >> $KEY_FILE || ls /run/secrets"
    try:
        is_mounted = user is None or (user == "7:8" and os.geteuid() == 0)
        assert isinstance(files.secret_way, SecretFolder if is_mounted else SecretCopies)
        with created(one.engine, one.ready.id, files, script) as container:
            said = run(one.engine, container)
            shown = json.dumps(one.engine.call("GET", f"/containers/{container}/json"))
    finally:
        files.close()
    assert said.split() == [RAW.hex(), "KEY"]
    assert "/run/secrets/KEY" in shown
    assert "canary" not in shown


def test_an_entry_may_ask_for_variables(engine: Engine, base_image: str, tmp_path: Path) -> None:
    needs = SecretNeeds(("KEY",), deliver="env")
    one = bed(engine, str(engine.call("GET", f"/images/{base_image}/json")["Id"]), tmp_path, secrets=needs)
    files = one.files({"KEY": "value"})
    assert files.environment == {"KEY": "value"}
    assert "/run/secrets" not in json.dumps(files.host_config)
    files.close()


def test_without_secrets_there_is_no_folder(one: Bed, runtime: Path) -> None:
    files = one.files()
    assert files.environment == {}
    assert not list(runtime.iterdir())
    files.close()


def source_of(made: SecretFolder) -> Path:
    return Path(cast("dict[str, str]", made.mounts[0])["Source"])


class TestTheFolder:
    def made(self, engine: Engine, folder: Path) -> SecretFolder:
        return SecretFolder(engine, folder, Secrets({"KEY": CANARY}), (os.geteuid(), os.getegid()))

    def test_it_is_in_memory_and_for_nobody_else(self, engine: Engine) -> None:
        assert folders_for_secrets()[-1] == Path(f"/dev/shm/theory-{os.geteuid()}")  # noqa: S108 - checked for its owner
        folder = folder_for_secrets()
        assert folder is not None
        assert folder.stat().st_mode & 0o777 == 0o700
        made = self.made(engine, folder)
        path = source_of(made)
        assert path.parent == folder
        assert path.name.startswith(f"theory-{owner_name()}-"), "orphans.py knows it by its name"
        assert path.stat().st_mode & 0o777 == 0o500
        assert (path / "KEY").stat().st_mode & 0o777 == 0o400
        assert (path / "KEY").read_bytes() == RAW
        made.close()
        assert not path.exists()
        made.close()

    def test_another_group_gets_to_read_and_we_stay_its_owner(self, engine: Engine, runtime: Path) -> None:
        if os.geteuid() != 0:
            return  # there is no other group then
        folder = folder_for_secrets()
        assert folder == runtime / "theory-0"
        made = SecretFolder(engine, folder, Secrets({"KEY": "x"}), (7, 8))
        path = source_of(made)
        for thing, mode in ((path, 0o550), (path / "KEY", 0o440)):
            found = thing.stat()
            assert (found.st_uid, found.st_gid, found.st_mode & 0o777) == (0, 8, mode)
        made.close()

    def test_what_another_user_made_in_its_place_is_not_used(self, runtime: Path, tmp_path: Path) -> None:
        mine = runtime / f"theory-{os.geteuid()}"
        (tmp_path / "trap").mkdir(mode=0o700)
        mine.symlink_to(tmp_path / "trap")
        assert folder_for_secrets() != mine
        mine.unlink()
        mine.mkdir(mode=0o755)
        assert folder_for_secrets() != mine
        mine.rmdir()
        assert folder_for_secrets() == mine

    def test_it_goes_where_it_could_not_be_filled(self, engine: Engine, runtime: Path) -> None:
        folder = folder_for_secrets()
        assert folder is not None
        with pytest.raises(OSError, match="No such file"):
            SecretFolder(engine, folder, Secrets({"KEY": CANARY, "a/b": ""}), (os.geteuid(), os.getegid()))
        assert not list(folder.iterdir())
        assert folder.parent == runtime
