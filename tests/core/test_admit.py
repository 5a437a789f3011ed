"""May this run at all? What lacks is named before anything costs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest

from core.bed import EVERYTHING, Fake, good, house, write_entry
from theory import Failure

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path


def admitted(folder: Path, adapter: Fake, *, environ: Mapping[str, str] | None = None, **run: Any) -> Any:
    with house(folder, adapter, environ=environ) as runner:
        return runner.run("test/thing@1", **run)


@pytest.mark.parametrize(
    ("entry", "needed", "said"),
    [
        ({"command": None}, "image", "has no command, so it needs its image, and fake cannot run images"),
        ({"runtime": {"network": True}}, "network", "needs network, which the adapter fake does not offer"),
        ({"runtime": {"gpu": "any"}}, "gpu", "needs gpu, which the adapter fake does not offer"),
    ],
    ids=["image", "network", "gpu"],
)
def test_what_the_entry_needs_and_the_adapter_lacks_is_refused(
    tmp_path: Path, entry: dict[str, Any], needed: Any, said: str
) -> None:
    folder = write_entry(tmp_path / "entries", **entry)
    if "command" in entry:
        file = folder / "processor.yaml"
        file.write_text(file.read_text().replace('"command": null, ', ""))
    adapter = Fake(offers=EVERYTHING - {needed})
    envelope = admitted(tmp_path, adapter)
    assert isinstance(envelope, Failure)
    assert envelope.code == "ERR_UNSUPPORTED"
    assert envelope.message == f"test/thing@1 {said}"
    assert not adapter.calls
    good(admitted(tmp_path, Fake(offers=EVERYTHING | {needed})))


def test_all_missing_secrets_are_named_and_no_value_is_shown(tmp_path: Path) -> None:
    write_entry(tmp_path / "entries", secrets=["A_KEY", "B_KEY", "C_KEY", "D_KEY"])
    envelope = admitted(tmp_path, Fake(), environ={"B_KEY": "value-of-b", "D_KEY": ""})
    assert (envelope.code, envelope.exit_code) == ("ERR_MISSING_SECRET", 2)
    assert "A_KEY, C_KEY, D_KEY" in envelope.message
    assert "B_KEY" not in envelope.message
    assert "value-of-b" not in repr(envelope)


def test_secrets_that_are_there_reach_the_adapter_and_optional_ones_may_lack(tmp_path: Path) -> None:
    write_entry(tmp_path / "entries", secrets={"required": ["A_KEY"], "optional": ["B_KEY", "C_KEY"]})
    adapter = Fake()
    good(admitted(tmp_path, adapter, environ={"A_KEY": "a", "C_KEY": "c", "OTHER": "o"}))
    assert dict(adapter.calls[0].secrets) == {"A_KEY": "a", "C_KEY": "c"}
    assert "A_KEY" not in adapter.calls[0].job.environment


def test_secrets_may_come_from_the_users_file_and_the_environment_wins(tmp_path: Path) -> None:
    (tmp_path / "keys").write_text("# mine\nA_KEY=from-file\nB_KEY=b\n")
    write_entry(tmp_path / "entries", secrets=["A_KEY", "B_KEY"])
    adapter = Fake()
    environ = {"THEORY_SECRETS_FILE": str(tmp_path / "keys"), "A_KEY": "from-environment"}
    good(admitted(tmp_path, adapter, environ=environ))
    assert dict(adapter.calls[0].secrets) == {"A_KEY": "from-environment", "B_KEY": "b"}


def test_an_adapter_that_has_the_secrets_elsewhere_needs_none_here(tmp_path: Path) -> None:
    @dataclass(frozen=True)
    class Options:
        vault: str | None = None

        @property
        def keeps_secrets(self) -> bool:
            return self.vault is not None

    write_entry(tmp_path / "entries", secrets=["A_KEY", "B_KEY"])
    assert admitted(tmp_path, Fake(options=Options), environ={"A_KEY": "a"}).code == "ERR_MISSING_SECRET"
    adapter = Fake(options=Options)
    good(admitted(tmp_path, adapter, environ={"A_KEY": "a"}, options={"vault": "mine"}))
    assert dict(adapter.calls[0].secrets) == {"A_KEY": "a"}


def test_an_adapter_that_pretends_gets_no_secrets_and_none_are_asked_for(tmp_path: Path) -> None:
    write_entry(tmp_path / "entries", secrets=["A_KEY", "B_KEY"])
    adapter = Fake(pretends=True)
    good(admitted(tmp_path, adapter, environ={"A_KEY": "a"}))
    assert len(adapter.calls[0].secrets) == 0


@pytest.mark.parametrize(
    ("deliver", "offers", "fits"),
    [
        (None, "secrets_env", True),
        (None, "secrets_file", True),
        (None, None, False),
        ("env", "secrets_env", True),
        ("env", "secrets_file", False),
        ("file", "secrets_file", True),
        ("file", "secrets_env", False),
    ],
)
def test_secrets_are_delivered_the_way_that_the_entry_asks_for(
    tmp_path: Path, deliver: str | None, offers: Any, fits: bool
) -> None:
    ways = {"required": ["A_KEY"], **({"deliver": deliver} if deliver else {})}
    write_entry(tmp_path / "entries", secrets=ways)
    adapter = Fake(offers=frozenset({"process", "isolation", *([offers] if offers else [])}))
    envelope = admitted(tmp_path, adapter, environ={"A_KEY": "a"})
    if fits:
        good(envelope)
    else:
        assert envelope.code == "ERR_UNSUPPORTED"
        assert "cannot deliver the secrets of test/thing@1" in envelope.message


def test_an_adapter_without_a_way_for_secrets_runs_what_needs_none(tmp_path: Path) -> None:
    good(admitted(tmp_path, Fake(offers=frozenset({"process"}))))


@pytest.mark.parametrize(
    ("prefix", "message"),
    [
        ("/artifacts/x", "--write-prefix must end with /"),
        ("/elsewhere/", "does not begin with /artifacts/"),
        ("/artifacts/inputs/", "is kept for"),
        ("/artifacts/Execution/x/", "is kept for"),
        ("/artifacts/{name}/", "has a placeholder"),
        ("/artifacts/../x/", "has a segment"),
    ],
)
def test_a_prefix_that_breaks_its_rules_is_refused(tmp_path: Path, prefix: str, message: str) -> None:
    adapter = Fake()
    envelope = admitted(tmp_path, adapter, write_prefix=prefix)
    assert (envelope.code, envelope.exit_code) == ("ERR_WRITE_PREFIX", 2)
    assert message in envelope.message
    assert not adapter.calls


@dataclass(frozen=True)
class Options:
    cost_micro_usd: int = 0
    build: bool = False


@dataclass(frozen=True)
class OddOptions:
    cost_micro_usd: float = -1.5


def test_options_are_those_of_the_adapter(tmp_path: Path) -> None:
    adapter = Fake(options=Options)
    good(admitted(tmp_path, adapter, options={"cost_micro_usd": "7", "build": True}))
    assert adapter.calls[0].options == Options(7, build=True)
    envelope = admitted(tmp_path, Fake(options=Options), options={"colour": 1})
    assert (envelope.code, "no option 'colour'" in envelope.message) == ("ERR_ADAPTER_OPTIONS", True)
    assert admitted(tmp_path, Fake(), options={"build": True}).code == "ERR_ADAPTER_OPTIONS"


@pytest.mark.parametrize(
    ("pretends", "asked", "held"), [(True, None, 7), (False, None, 500), (True, 3, 3), (False, 0, 0)]
)
def test_what_is_held_is_what_the_caller_the_pretender_or_the_entry_says(
    tmp_path: Path, pretends: bool, asked: int | None, held: int
) -> None:
    write_entry(tmp_path / "entries", cost={"reserve_micro_usd": 500})
    adapter = Fake(options=Options, pretends=pretends)
    with house(tmp_path, adapter) as runner:
        runner.run("test/thing@1", options={"cost_micro_usd": 7}, reserve_micro_usd=asked, memo="off")
        reserved = [
            event.payload for event in runner.ledger.events("default") if event.kind == "budget.reserve"
        ]
    assert reserved == ([f'{{"amount_micro_usd":{held}}}'] if held else [])


def test_a_pretended_cost_that_is_no_amount_is_refused(tmp_path: Path) -> None:
    assert admitted(tmp_path, Fake(options=OddOptions, pretends=True)).code == "ERR_ADAPTER_OPTIONS"


def test_an_entry_that_nobody_named_does_not_run_without_isolation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_entry(tmp_path / "registry", "found/thing@1")
    monkeypatch.chdir(tmp_path)
    with house(tmp_path, Fake(offers=frozenset({"process"}))) as runner:
        envelope = runner.run("found/thing@1")
        assert isinstance(envelope, Failure)
        assert envelope.code == "ERR_REGISTRY"
        assert envelope.hint == f"if you trust it: --registry {tmp_path / 'registry'}"
    with house(tmp_path, Fake(offers=frozenset({"process", "isolation"}))) as runner:
        good(runner.run("found/thing@1"))
