"""Entries with images of their own, which are gone afterwards."""

from __future__ import annotations

import os
from contextlib import suppress
from typing import TYPE_CHECKING, Any, NamedTuple

from theory import tree_of
from theory.testing.channel import Later, RecordingChannel
from theory.types import Image, ImageSource, Job, Processor, Ref, Runtime, SecretNeeds
from theory_adapter_local.engine.client import Refused
from theory_adapter_local.images.find import Ready, identify_image, ready_image
from theory_adapter_local.images.here import CONTEXT_LABEL
from theory_adapter_local.images.source import source_of
from theory_adapter_local.options import Options

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from theory_adapter_local.engine.client import Engine

PATIENCE_S = 60


class Made(NamedTuple):
    """An image that became ready, and what was said meanwhile."""

    ready: Ready
    log: str


class Studio:
    """Makes entries, has their images made, and removes these.

    Args:
        engine: The real one.
        folder: An empty one.
    """

    def __init__(self, engine: Engine, folder: Path) -> None:
        self.engine = engine
        self.folder = folder
        self.cache = folder / "cache"
        self.name = f"test-{os.urandom(6).hex()}"
        self._repositories = [f"theory/{self.name}-x"]
        self._contexts: set[str] = set()

    def entry(self, dockerfile: str, files: Mapping[str, bytes] | None = None, **image: str) -> Processor:
        """An entry whose image is built; each call makes one from a folder that it alone has."""
        folder = self.folder / f"entry-{os.urandom(4).hex()}"
        source = ImageSource(**(image or {"dockerfile": "Dockerfile"}))
        for name, data in {source.dockerfile or "Dockerfile": dockerfile.encode(), **(files or {})}.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(data)
        return self._processor(source, folder)

    def tiny(self) -> Processor:
        """An entry whose image is quick to build, and of which no other test has a layer."""
        return self.entry("FROM scratch\nCOPY a /a\n", {"a": self.name.encode()})

    def pulled(self, oci: str, *, ours: bool = True) -> Processor:
        """An entry whose image is pulled, or here without us."""
        if ours:
            self.remove_later(oci)
        self.folder.joinpath("none").mkdir(exist_ok=True)
        return self._processor(ImageSource(oci=oci), self.folder / "none")

    def _processor(self, source: ImageSource, folder: Path) -> Processor:
        return Processor(
            ref=Ref(self.name, "x", 1),
            description="",
            image=source,
            command=("true",),
            runtime=Runtime(),
            adapter={},
            secrets=SecretNeeds(),
            determinism="pure",
            reserve_micro_usd=0,
            inputs={},
            outputs={},
            folder=folder,
            cid="b3:" + "0" * 64,
            tree=tree_of(folder, source.dockerfile),
        )

    def reread(self, processor: Processor) -> Processor:
        """The same entry as its folder is now."""
        return self._processor(processor.image, processor.folder)

    def options(self, **options: Any) -> Options:
        """The adapter's options."""
        return Options(**options)

    def identify(self, processor: Processor, **options: Any) -> Image:
        """What ``identify_image`` says."""
        return identify_image(self.engine, processor, Options(**options))

    def start(self, processor: Processor, channel: RecordingChannel, **options: Any) -> Later[Ready]:
        """Begin to make its image ready."""
        chosen = Options(**options)
        image = identify_image(self.engine, processor, chosen)
        self._contexts.add(source_of(processor, chosen).context)
        job = Job(
            execution_id="00000000-0000-7000-8000-000000000000",
            processor=processor,
            image=image,
            inputs={},
            artifacts=(),
            seed=0,
            memo_key="b3:" + "0" * 64,
            environment={},
        )
        return Later(lambda: ready_image(self.engine, job, chosen, self.cache, channel))

    def ready(self, processor: Processor, **options: Any) -> Made:
        """Its image, here now."""
        channel = RecordingChannel()
        ready = self.start(processor, channel, **options).within(PATIENCE_S)
        assert "started" not in channel.heard
        return Made(ready, channel.output("stderr").decode())

    def inspected(self, name: str) -> dict[str, Any]:
        """What the engine says of an image."""
        return dict(self.engine.call("GET", f"/images/{name}/json"))

    def remove_later(self, name: str) -> None:
        """See to it that nothing of this image's repository is here afterwards."""
        self._repositories.append(name.partition("@")[0].rpartition(":")[0])

    def close(self) -> None:
        """Remove every image that was made or pulled."""
        for image in self.engine.call("GET", "/images/json"):
            built = (image["Labels"] or {}).get(CONTEXT_LABEL) in self._contexts
            for name in (
                (image["Id"],) if built else (*(image["RepoTags"] or ()), *(image["RepoDigests"] or ()))
            ):
                if built or name.startswith(
                    tuple(f"{ours}{mark}" for ours in self._repositories for mark in ":@")
                ):
                    with suppress(Refused):  # it went with another of its names
                        self.engine.call("DELETE", f"/images/{name}", query={"force": "1"})
