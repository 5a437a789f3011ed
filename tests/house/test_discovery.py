"""Plugins of other people, installed beside ours: the faulty have their message and harm no other."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable

    from house.command import DistributionMaker, Theory

HELLO = '{"messages":[{"role":"user","content":"Hello!"}]}'

WORKS = """
from theory import AdapterInfo, hookimpl
@hookimpl
def describe_adapter():
    return AdapterInfo(summary="a third party's", offers=frozenset({"image"}))
"""
FAULTY = {
    "raises on import": ("raise RuntimeError('no licence file')\n", "no licence file"),
    "misspelt hook": (WORKS + "@hookimpl\ndef exeucte(job):\n    return None\n", "exeucte"),
    "wrong type": (
        "from theory import hookimpl\n@hookimpl\ndef describe_adapter():\n    return 'an adapter'\n",
        "str, not AdapterInfo",
    ),
    "a hook of another group": (WORKS + "@hookimpl\ndef finalize(envelope):\n    pass\n", "finalize"),
    "no such attribute": ("", "third"),
}
POINT = {"raises on import": "third_party", "no such attribute": "third_party:third"}


@pytest.fixture
def crowded(layer: Callable[[], Theory], distribution: DistributionMaker) -> Callable[[str, str], Theory]:
    """`theory` beside a third party's adapter `third`."""

    def make(source: str, value: str = "third_party") -> Theory:
        theory = layer()
        theory.install(
            "--no-deps",
            "--no-index",
            distribution("acme-third", "third_party", source, {"theory.adapters": f"third = {value}"}),
        )
        return theory

    return make


def run(theory: Theory, adapter: str) -> tuple[int, str, str]:
    result = theory("run", "llm/litellm@1", "--adapter", adapter, "--inputs-json", HELLO, "--json")
    error = result.line.get("error", {})
    assert "Traceback" not in result.stderr
    return result.code, error.get("code", ""), error.get("message", "")


@pytest.mark.parametrize("fault", FAULTY)
def test_a_faulty_plugin_has_its_message_and_harms_no_other(
    crowded: Callable[..., Theory], fault: str
) -> None:
    source, named = FAULTY[fault]
    theory = crowded(source, POINT.get(fault, "third_party"))

    status, code, message = run(theory, "third")
    assert (status, code) == (69, "ERR_PLUGIN")
    assert "acme-third" in message
    assert named in message

    assert run(theory, "mock") == (0, "", "")
    listed = theory("adapters", "ls").ok().stdout
    assert all(name in listed for name in ("mock", "process", "third"))

    shown = theory("plugins")
    (line,) = [line for line in shown.stdout.splitlines() if "acme-third" in line]
    assert "broken" in line
    assert named in line
    assert shown.stdout.count("broken") == 1
    assert shown.code == 69


def test_one_name_from_two_distributions_is_refused_and_both_are_named(
    layer: Callable[[], Theory], distribution: DistributionMaker
) -> None:
    theory = layer()
    for name in ("acme-third", "emca-third"):
        module = name.replace("-", "_")
        theory.install(
            "--no-deps",
            "--no-index",
            distribution(name, module, WORKS, {"theory.adapters": f"third = {module}"}),
        )
    status, code, message = run(theory, "third")
    assert (status, code) == (69, "ERR_PLUGIN")
    assert "acme-third" in message
    assert "emca-third" in message
    assert run(theory, "mock") == (0, "", "")


def test_nobody_takes_over_a_name_of_ours_silently(
    layer: Callable[[], Theory], distribution: DistributionMaker
) -> None:
    theory = layer()
    theory.install(
        "--no-deps",
        "--no-index",
        distribution("acme-mock", "acme_mock", WORKS, {"theory.adapters": "mock = acme_mock"}),
    )
    status, code, message = run(theory, "mock")
    assert (status, code) == (69, "ERR_PLUGIN")
    assert "acme-mock" in message
    assert "theory-adapter-mock" in message


def test_a_plugin_that_is_not_asked_for_is_not_imported(crowded: Callable[..., Theory]) -> None:
    theory = crowded("open('imported', 'w').close()\n" + WORKS)
    theory("--help").ok()
    theory("adapters", "show", "process").ok()
    theory.hello().ok()
    assert not (theory.cwd / "imported").exists()
    theory("adapters", "show", "third")
    assert (theory.cwd / "imported").exists()


def test_an_empty_list_of_plugins_lets_no_third_party_in(crowded: Callable[..., Theory]) -> None:
    theory = crowded(WORKS).with_environ(THEORY_PLUGINS="")
    status, code, _ = run(theory, "third")
    assert (status, code) == (2, "ERR_UNKNOWN_ADAPTER")
    assert run(theory, "mock") == (0, "", "")


def test_a_listener_that_fails_is_a_warning(
    layer: Callable[[], Theory], distribution: DistributionMaker
) -> None:
    source = "from theory import hookimpl\n@hookimpl\ndef finalize(envelope):\n    raise OSError('no mail')\n"
    theory = layer()
    theory.install(
        "--no-deps",
        "--no-index",
        distribution("acme-mail", "acme_mail", source, {"theory.plugins": "mail = acme_mail"}),
    )
    result = theory.hello("--json").ok()
    assert result.line["status"] == "success"
    assert "no mail" in result.stderr


def test_a_command_of_a_third_party_is_found(
    layer: Callable[[], Theory], distribution: DistributionMaker
) -> None:
    source = "import click\n@click.command()\ndef greet():\n    click.echo('greetings')\n"
    theory = layer()
    theory.install(
        "--no-deps",
        "--no-index",
        distribution("acme-greet", "acme_greet", source, {"theory.commands": "greet = acme_greet:greet"}),
    )
    assert theory("greet").ok().stdout == "greetings\n"
    assert "greet" in theory("--help").ok().stdout
