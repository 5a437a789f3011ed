"""Which image an entry means, and how it is pulled: from a registry that can refuse."""

from __future__ import annotations

import base64
import json
import threading
from typing import TYPE_CHECKING

import pytest

from adapter_local.imagery import PATIENCE_S, Studio
from adapter_local.registry import Registry
from theory import ImageName, errors
from theory.testing.channel import RecordingChannel
from theory_adapter_local.cancelled import Cancelled
from theory_adapter_local.images.here import platform_of
from theory_adapter_local.images.pull import Progress, refusal

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from theory_adapter_local.engine.client import Engine

DIGEST = "sha256:" + "a1" * 32
FILES = [{"a.txt": b"a"}, {"b.txt": b"b"}]


@pytest.fixture
def studio(engine: Engine, tmp_path: Path) -> Iterator[Studio]:
    made = Studio(engine, tmp_path)
    yield made
    made.close()


@pytest.fixture
def registry() -> Iterator[Registry]:
    made = Registry()
    yield made
    made.close()


@pytest.fixture
def docker_config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of Docker's own configuration, which is empty."""
    folder = tmp_path / "docker"
    folder.mkdir()
    monkeypatch.setenv("DOCKER_CONFIG", str(folder))
    return folder


# ---------------------------------------------------------------- what is here


def test_an_entry_whose_image_has_no_proper_name_is_refused(studio: Studio) -> None:
    with pytest.raises(errors.RegistryFault, match="'Not A Name' is no name of an image"):
        studio.identify(studio.pulled("Not A Name"))


def test_an_image_with_a_tag_that_is_here_is_known_by_its_local_id(
    studio: Studio, registry: Registry
) -> None:
    registry.add("acme/tool", "1", FILES, environment=["PYTHON_VERSION=3.11.2", "A=b"])
    processor = studio.pulled(f"{registry.host}/acme/tool:1")
    studio.ready(processor)
    image = studio.identify(processor)
    here = studio.inspected(f"{registry.host}/acme/tool:1")["Id"]
    assert (image.id, image.platform, image.python) == (f"local:{here}", "linux/amd64", "3.11")


def test_an_image_that_no_registry_has_gives_its_own_id_as_digest(studio: Studio, base_image: str) -> None:
    here = studio.inspected(base_image)
    image = studio.identify(studio.pulled(base_image, ours=False))
    assert image.digest == (here["RepoDigests"] or [here["Id"]])[0].rpartition("@")[2]
    assert image.id == f"local:{here['Id']}"


def test_an_image_that_is_not_here_has_an_id_of_its_own_each_time(studio: Studio, registry: Registry) -> None:
    registry.add("acme/tool", "1", FILES)
    processor = studio.pulled(f"{registry.host}/acme/tool:1")
    first, second = studio.identify(processor), studio.identify(processor)
    assert first.id.startswith("once:")
    assert first.id != second.id
    assert not registry.asked


def test_a_pinned_image_is_known_before_it_is_here(studio: Studio) -> None:
    image = studio.identify(studio.pulled(f"127.0.0.1:9/acme/tool@{DIGEST}"))
    assert (image.id, image.digest) == (DIGEST, DIGEST)
    assert image.platform == platform_of(studio.engine)


def test_the_platform_asked_for_is_that_of_an_image_to_come(studio: Studio) -> None:
    image = studio.identify(studio.pulled("127.0.0.1:9/acme/tool:1"), platform="linux/aarch64")
    assert image.platform == "linux/arm64"


def test_with_folders_mounted_no_image_is_ever_the_same(studio: Studio, registry: Registry) -> None:
    digest = registry.add("acme/tool", "1", FILES)
    processor = studio.pulled(f"{registry.host}/acme/tool@{digest}")
    ready = studio.ready(processor, mounts="/srv:/srv").ready
    ids = {studio.identify(processor, mounts="/srv:/srv").id for _ in range(2)} | {ready.image.id}
    assert len(ids) == 3
    assert all(known.startswith("once:") for known in ids)
    assert ready.image.digest == digest


# ---------------------------------------------------------------- pulling


def test_a_pinned_image_is_pulled_and_is_what_it_was_said_to_be(studio: Studio, registry: Registry) -> None:
    digest = registry.add("acme/tool", "1", FILES, environment=["PYTHON_VERSION=3.12.1", "A=b"])
    made = studio.ready(studio.pulled(f"{registry.host}/acme/tool@{digest}"))
    assert made.ready.image.id == made.ready.image.digest == digest
    assert made.ready.id == studio.inspected(f"{registry.host}/acme/tool@{digest}")["Id"]
    assert made.ready.environment == ("PYTHON_VERSION=3.12.1", "A=b")
    assert made.ready.image.python == "3.12"
    assert made.log.startswith(f"pulling {registry.host}/acme/tool@{digest}\n")


def test_an_image_with_a_tag_is_recorded_as_what_it_was_in_the_registry(
    studio: Studio, registry: Registry
) -> None:
    digest = registry.add("acme/tool", "1", FILES)
    assert studio.ready(studio.pulled(f"{registry.host}/acme/tool:1")).ready.image.digest == digest


def test_what_is_here_is_not_asked_for_again(studio: Studio, registry: Registry) -> None:
    registry.add("acme/tool", "1", FILES)
    processor = studio.pulled(f"{registry.host}/acme/tool:1")
    studio.ready(processor)
    registry.asked.clear()
    assert studio.ready(processor).log == ""
    assert not registry.asked


def test_pull_always_takes_what_the_tag_means_now(studio: Studio, registry: Registry) -> None:
    registry.add("acme/tool", "1", FILES)
    processor = studio.pulled(f"{registry.host}/acme/tool:1")
    studio.ready(processor)
    newer = registry.add("acme/tool", "1", [{"a.txt": b"newer"}])
    assert studio.identify(processor, pull="always").id.startswith("once:")
    assert studio.ready(processor, pull="always").ready.image.digest == newer


def test_pull_always_without_the_registry_says_that_it_cannot_be_reached(
    studio: Studio, registry: Registry
) -> None:
    registry.add("acme/tool", "1", FILES)
    processor = studio.pulled(f"{registry.host}/acme/tool:1")
    studio.ready(processor)
    registry.close()
    with pytest.raises(
        errors.ImageNotFound, match=f"^Unable to find image '{registry.host}/acme/tool:1'$"
    ) as raised:
        studio.ready(processor, pull="always")
    assert raised.value.hint.startswith(f"the engine cannot reach {registry.host}")


def test_pull_never_asks_no_registry(studio: Studio, registry: Registry) -> None:
    registry.add("acme/tool", "1", FILES)
    name = f"{registry.host}/acme/tool:1"
    with pytest.raises(errors.ImageNotFound, match=f"^Unable to find image '{name}'$") as raised:
        studio.ready(studio.pulled(name), pull="never")
    assert raised.value.hint == f"pull=never: docker pull {name}, or docker load it, first"
    assert not registry.asked


def test_progress_is_told_once_a_second() -> None:
    channel, milliseconds = RecordingChannel(), iter(range(10_000))
    progress = Progress("pulling it", channel, lambda: next(milliseconds) / 1000)
    progress.hear({"status": "Already exists", "id": "bb"})
    for here in range(1, 2001):
        size = {"current": here * 1024**2, "total": 2000 * 1024**2}
        progress.hear({"status": "Downloading", "id": "aa", "progressDetail": size})
    assert channel.output("stderr").decode().splitlines() == [
        "pulling it: 1 of 2 layers, 999.0 of 2000.0 MiB",
        "pulling it: 1 of 2 layers, 1999.0 of 2000.0 MiB",
    ]


def test_a_pull_that_hangs_can_be_cancelled(studio: Studio, registry: Registry) -> None:
    registry.add("acme/tool", "1", FILES)
    registry.hold = threading.Event()
    channel = RecordingChannel()
    pull = studio.start(studio.pulled(f"{registry.host}/acme/tool:1"), channel)
    assert registry.stalled.wait(PATIENCE_S)
    channel.cancel()
    with pytest.raises(Cancelled):
        pull.within(10)


# ---------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("status", "advice"),
    [
        (401, "{host} does not give it to you: docker login {host}"),
        (403, "{host} does not give it to you: docker login {host}"),
        (404, "{host} has no such image; look for a typing error in its name or tag"),
        (429, "{host} has had enough requests from here; docker login {host} raises its limit"),
        (500, "{host} failed; try again later"),
    ],
    ids=["unauthorized", "denied", "unknown", "too many requests", "broken"],
)
def test_a_refusal_says_what_to_do(studio: Studio, registry: Registry, status: int, advice: str) -> None:
    registry.fault = status
    name = f"{registry.host}/acme/tool:1"
    with pytest.raises(errors.ImageNotFound, match=f"^Unable to find image '{name}'$") as raised:
        studio.ready(studio.pulled(name))
    assert raised.value.hint.startswith(advice.format(host=registry.host))


def test_a_registry_that_cannot_be_reached_is_told_apart(studio: Studio, registry: Registry) -> None:
    registry.close()
    with pytest.raises(
        errors.ImageNotFound, match=f"^Unable to find image '{registry.host}/acme/tool:1'$"
    ) as raised:
        studio.ready(studio.pulled(f"{registry.host}/acme/tool:1"))
    assert raised.value.hint.startswith(f"the engine cannot reach {registry.host}; try again with a network")


def test_a_pinned_image_that_the_registry_does_not_have_is_not_found(
    studio: Studio, registry: Registry
) -> None:
    name = f"{registry.host}/acme/tool@{DIGEST}"
    with pytest.raises(errors.ImageNotFound, match=f"^Unable to find image '{name}'$"):
        studio.ready(studio.pulled(name))


@pytest.mark.parametrize(
    ("words", "advice"),
    [
        (
            "dial tcp: lookup registry-1.docker.io on 10.0.0.1:53: no such host",
            "the engine cannot reach docker.io",
        ),
        (
            "net/http: request canceled while waiting (Client.Timeout exceeded)",
            "the engine cannot reach docker.io",
        ),
        (
            "pull access denied for acme/tool, repository does not exist or may require 'docker login'",
            "docker.io has no such repository, or shows it only to its users: docker login docker.io",
        ),
        (
            "x509: certificate signed by unknown authority",
            "the engine does not trust the certificate of docker.io",
        ),
        ("http: server gave HTTP response to HTTPS client", "docker.io speaks plain HTTP"),
        (
            "no matching manifest for linux/s390x in the manifest list entries",
            "there is none for linux/s390x",
        ),
        ("something new", "docker.io failed; try again later (something new)"),
    ],
    ids=["no name", "no answer", "private or none", "certificate", "insecure", "platform", "unknown"],
)
def test_words_of_other_registries_are_understood_too(engine: Engine, words: str, advice: str) -> None:
    error = refusal(engine, ImageName.parse("acme/tool:1"), "linux/s390x", words)
    assert isinstance(error, errors.ImageNotFound)
    assert error.message == "Unable to find image 'docker.io/acme/tool:1'"
    assert error.hint.startswith(advice)


def test_an_engine_without_room_is_no_fault_of_the_image(engine: Engine) -> None:
    words = "write /var/lib/docker/tmp/GetImageBlob1: no space left on device"
    error = refusal(engine, ImageName.parse("acme/tool:1"), "", words)
    assert isinstance(error, errors.Retry)
    assert error.message == f"the disk of the Docker engine is full: {words}"


# ---------------------------------------------------------------- logins


def test_the_users_own_login_is_used(studio: Studio, registry: Registry, docker_config: Path) -> None:
    registry.login = ("ann", "s3cret-word")
    digest = registry.add("acme/tool", "1", FILES)
    auth = base64.b64encode(b"ann:s3cret-word").decode()
    docker_config.joinpath("config.json").write_text(json.dumps({"auths": {registry.host: {"auth": auth}}}))
    made = studio.ready(studio.pulled(f"{registry.host}/acme/tool:1"))
    assert made.ready.image.digest == digest
    assert "s3cret-word" not in made.log


def test_a_credential_helper_is_asked(
    studio: Studio, registry: Registry, docker_config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry.login = ("ann", "s3cret-word")
    registry.add("acme/tool", "1", FILES)
    helper = docker_config / "docker-credential-test"
    helper.write_text('#!/bin/sh\nread host\nprintf \'{"Username":"ann","Secret":"s3cret-word"}\'\n')
    helper.chmod(0o755)
    monkeypatch.setenv("PATH", str(docker_config), prepend=":")
    docker_config.joinpath("config.json").write_text(json.dumps({"credHelpers": {registry.host: "test"}}))
    assert studio.ready(studio.pulled(f"{registry.host}/acme/tool:1")).ready.id


def test_a_helper_that_is_missing_is_named(studio: Studio, registry: Registry, docker_config: Path) -> None:
    registry.add("acme/tool", "1", FILES)
    docker_config.joinpath("config.json").write_text(json.dumps({"credHelpers": {registry.host: "missing"}}))
    log = studio.ready(studio.pulled(f"{registry.host}/acme/tool:1")).log
    assert f"the login for {registry.host} cannot be read, so none is used: " in log
    assert "docker-credential-missing" in log


@pytest.mark.parametrize(
    "auths", [{}, {"auth": base64.b64encode(b"ann:s3cret-wrong").decode()}], ids=["none", "wrong"]
)
def test_without_the_right_login_the_hint_is_to_log_in(
    studio: Studio, registry: Registry, docker_config: Path, auths: dict[str, str]
) -> None:
    registry.login = ("ann", "s3cret-word")
    registry.add("acme/tool", "1", FILES)
    docker_config.joinpath("config.json").write_text(json.dumps({"auths": {registry.host: auths}}))
    with pytest.raises(errors.ImageNotFound, match="Unable to find image") as raised:
        studio.ready(studio.pulled(f"{registry.host}/acme/tool:1"))
    assert raised.value.hint.startswith(
        f"{registry.host} does not give it to you: docker login {registry.host}"
    )
    assert "s3cret" not in raised.value.hint


# ---------------------------------------------------------------- other platforms


@pytest.fixture
def foreign(engine: Engine) -> str:
    return "arm64" if platform_of(engine) != "linux/arm64" else "amd64"


def test_an_image_for_another_platform_is_refused_by_both_names(
    studio: Studio, registry: Registry, foreign: str
) -> None:
    registry.add("acme/tool", "1", FILES, architecture=foreign)
    processor = studio.pulled(f"{registry.host}/acme/tool:1")
    message = f"acme/tool:1 is for linux/{foreign}, and this engine runs {platform_of(studio.engine)}$"
    for policy in ("missing", "never"):  # the second time it is here
        with pytest.raises(errors.Unsupported, match=message) as raised:
            studio.ready(processor, pull=policy)
        assert raised.value.hint.startswith(f"-o platform=linux/{foreign} tries it")


def test_an_image_for_a_platform_that_is_asked_for_is_taken(
    studio: Studio, registry: Registry, foreign: str
) -> None:
    registry.add("acme/tool", "1", FILES, architecture=foreign)
    processor = studio.pulled(f"{registry.host}/acme/tool:1")
    assert studio.ready(processor, platform=f"linux/{foreign}").ready.image.platform == f"linux/{foreign}"


def test_an_image_that_is_not_for_the_platform_asked_for_is_pulled_only_once(
    studio: Studio, registry: Registry, foreign: str
) -> None:
    registry.add("acme/tool", "1", FILES)
    name = f"{registry.host}/acme/tool:1"
    with pytest.raises(
        errors.Unsupported, match=f"{name} is for linux/.*, and linux/{foreign} is asked for$"
    ):
        studio.ready(studio.pulled(name), platform=f"linux/{foreign}")
    assert len([path for path in registry.asked if path.endswith("/manifests/1")]) <= 2  # HEAD and GET


@pytest.fixture
def several(studio: Studio, registry: Registry, foreign: str) -> str:
    """The digest of an image that the registry has for this platform and for another one."""
    own = platform_of(studio.engine).partition("/")[2]
    both = {name: registry.add("acme/tool", name, FILES, architecture=name) for name in (own, foreign)}
    return registry.add_index("acme/tool", "1", both)


def test_of_an_image_for_several_platforms_the_one_asked_for_is_taken(
    studio: Studio, registry: Registry, foreign: str, several: str
) -> None:
    processor = studio.pulled(f"{registry.host}/acme/tool:1")
    other = studio.ready(processor, platform=f"linux/{foreign}").ready.image
    assert (other.digest, other.platform) == (several, f"linux/{foreign}")
    assert studio.identify(processor).id.startswith("once:")  # the one here is for the other platform
    assert studio.ready(processor).ready.image.platform == platform_of(studio.engine)


def test_of_a_pinned_image_for_several_platforms_the_engine_has_one_at_a_time(
    studio: Studio, registry: Registry, foreign: str, several: str
) -> None:
    processor = studio.pulled(f"{registry.host}/acme/tool@{several}")
    other = studio.ready(processor, platform=f"linux/{foreign}").ready.image
    assert (other.id, other.platform) == (several, f"linux/{foreign}")
    try:
        assert studio.ready(processor).ready.image.platform == platform_of(studio.engine)
    except errors.Unsupported as error:  # Docker's own image store; containerd's has both
        assert f"is for linux/{foreign}, and this engine runs" in error.message  # noqa: PT017 - either is right
        assert f"docker rmi {registry.host}/acme/tool@{several} makes room" in error.hint  # noqa: PT017 - as above


def test_an_image_for_other_platforms_only_is_not_found(
    studio: Studio, registry: Registry, foreign: str
) -> None:
    digest = registry.add("acme/tool", "2", FILES, architecture=foreign)
    registry.add_index("acme/tool", "1", {foreign: digest})
    with pytest.raises(errors.ImageNotFound, match="Unable to find image") as raised:
        studio.ready(studio.pulled(f"{registry.host}/acme/tool:1"))
    assert raised.value.hint.startswith(f"there is none for {platform_of(studio.engine)}; -o platform=")
