"""Which image an entry means on Modal, and how it gets there: Modal pulls it, or builds the Dockerfile.

The id of an image is what the memo key has of it (docs/reference/formats.md). ``sha256:…`` and ``build:b3:…``
are those of every adapter; what nothing pins is ``once:…``, of one run alone, and is recorded as
``modal:im-…``, Modal's own id of what ran, which nobody else shares.
"""

from __future__ import annotations

import asyncio
import os
import re
from typing import TYPE_CHECKING

from theory import Image, bases_of, errors, files_of, image_name, pinned_id, tree_of

if TYPE_CHECKING:
    from pathlib import Path

    import modal

    from theory import Channel, Processor
    from theory_adapter_modal.options import Options

PLATFORM = "linux/amd64"  # all that Modal runs. Source: https://modal.com/docs/guide/images
_NEWS_S = 2.0  # of a build, after which people want to know what they wait for
_LOG_LINES = 400  # of a failed build, which are asked for
_SHOWN_LINES = 12  # of its last step, which the error has
_STEP_LENGTH = 200  # characters of a step that the error has
_STEP = re.compile(r"(?:=> )?step \d+(?:/\d+)? ?: ", re.IGNORECASE)
_ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
# How registries, and what asks them for Modal, say that they do not give an image.
_NOT_GIVEN = re.compile(
    r"manifest (for \S+ )?(is )?(unknown|not found)|not found: manifest|repository does not exist"
    r"|repository \S+ not found|name unknown|name invalid|pull access denied|requested access .* is denied"
    r"|failed to resolve reference|unable to find image|no match for platform",
    re.IGNORECASE,
)
_SHUT_DOWN = "external shut-down"  # Modal's own word for a build that it gave up, not the Dockerfile's fault


def identify_image(processor: Processor, options: Options) -> Image:
    """The image that this entry means, told without a network.

    Raises:
        RegistryFault: The entry names its image in a way that Docker cannot read, or has no Dockerfile.
    """
    dockerfile = processor.image.dockerfile
    known = "" if options.build and dockerfile else pinned_id(processor, PLATFORM)
    return Image(
        id=known or f"once:{os.urandom(16).hex()}",
        digest=None if dockerfile else image_name(processor).digest or None,
        platform=PLATFORM,
    )


def image_that_ran(image: Image, modal_id: str) -> Image:
    """What is recorded of a run: what was identified or, where that was nothing, Modal's id (``im-…``)."""
    if not image.is_passing or not modal_id:
        return image
    return Image(id=f"modal:{modal_id}", digest=image.digest, platform=image.platform)


def image_for(processor: Processor, options: Options, client: modal.Client) -> modal.Image:
    """The image as Modal is asked for it; nothing is sent yet.

    A name goes out as it stands. The context of a Dockerfile is what counts of the entry's folder. An entry's
    command is the whole of it, so an entry point of the image is cleared: it would be put before the command.
    """
    import modal  # noqa: PLC0415 - only where the adapter runs

    login = (
        modal.Secret.from_name(options.registry_secret, environment_name=options.environment, client=client)
        if options.registry_secret
        else None
    )
    if processor.image.dockerfile is None:
        name = processor.image.oci or ""
        return modal.Image.from_registry(name, secret=login, force_build=options.build).entrypoint([])
    counting = frozenset(path for path, *_ in files_of(processor.folder, processor.image.dockerfile))

    def ignored(path: Path) -> bool:
        return path.as_posix() not in counting

    return modal.Image.from_dockerfile(
        processor.folder / processor.image.dockerfile,
        context_dir=processor.folder,
        ignore=ignored,
        registry_secret=login,
        force_build=options.build,
    ).entrypoint([])


async def build(image: modal.Image, processor: Processor, app: modal.App, channel: Channel) -> str:
    """Have the image built, or found where it is built already; answer its id, ``im-…``.

    Modal gives the log of a build only once it has ended; that of a failed one is written to ``stderr``.
    To cancel it, cancel the task: Modal goes on building, and a later run finds the image.

    Raises:
        ImageBuildFailed: A step failed: which one, with its last lines.
        ImageNotFound: The registry does not give the image, or a base of the Dockerfile.
        Retry: The entry's folder was changed meanwhile, or Modal gave the build up.
        modal.exception.Error: Anything else that Modal says (``faults.told``).
    """
    from modal.exception import ImageBuildError  # noqa: PLC0415 - only where the adapter runs

    _check_tree(processor)
    building = asyncio.ensure_future(image.build.aio(app))
    try:
        await asyncio.wait((building,), timeout=_NEWS_S)
        if not building.done():
            channel.write("stderr", f"theory: Modal builds the image of {processor.ref}\n".encode())
        await building
    except asyncio.CancelledError:
        building.cancel()
        raise
    except ImageBuildError as error:
        log = await _log_of(image)
        channel.write("stderr", log.encode())
        raise _failed(processor, str(error), log) from error
    _check_tree(processor)  # what was sent is what the image's id tells of
    return image.object_id


def _check_tree(processor: Processor) -> None:
    dockerfile = processor.image.dockerfile
    if dockerfile is not None and tree_of(processor.folder, dockerfile) != processor.tree:
        raise errors.Retry(
            f"{processor.folder} was changed while its run began", hint="try again when nobody edits it"
        )


async def _log_of(image: modal.Image) -> str:
    """The end of a failed build's log; "" where Modal does not give it, which must not hide the failure."""
    from modal.exception import Error  # noqa: PLC0415 - only where the adapter runs

    try:
        parts = [entry.message async for entry in image.logs.tail.aio(_LOG_LINES)]
    except (Error, OSError, TimeoutError):
        return ""
    return _ESCAPES.sub("", "".join(parts))


def _failed(processor: Processor, words: str, log: str) -> errors.TheoryError:
    """The error for a build that ended with these words of Modal's, and this log."""
    if _SHUT_DOWN in words:
        return errors.Retry(f"Modal gave up the build of {processor.ref}'s image", hint="try again")
    said = f"{words}\n{log}"
    if processor.image.dockerfile is None:
        return _not_found(image_name(processor).full, said)
    path = processor.folder / processor.image.dockerfile
    if _NOT_GIVEN.search(said):
        bases = [base.name for base in bases_of(path.read_text("utf-8"))]
        named = [base for base in bases if base and base in said]
        return _not_found((named or bases or ["?"])[0], said)
    step, tail = _last_step(log)
    ended = f"{step} failed" if step else _plain(words)
    message = "\n".join((f"the image of {processor.ref} could not be built: {ended}", *tail))
    return errors.ImageBuildFailed(message, hint=f"mend {path}")


def _not_found(name: str, said: str) -> errors.TheoryError:
    reason = next((line.strip() for line in said.splitlines() if _NOT_GIVEN.search(line)), "")
    because = f" ({reason[:_STEP_LENGTH]})" if reason else ""
    return errors.ImageNotFound(
        f"Unable to find image '{name}'",
        hint="check its name; if it is private, -o registry_secret=NAME names the Modal secret with the login"
        + because,
    )


def _last_step(log: str) -> tuple[str, list[str]]:
    """The step that was the last to begin, and the last lines since."""
    step, lines = "", list[str]()
    for line in map(str.rstrip, log.splitlines()):
        if _STEP.match(line):
            step, lines = line.removeprefix("=> ")[:_STEP_LENGTH], []
        elif line.strip():
            lines.append(line)
    return step, lines[-_SHOWN_LINES:]


def _plain(words: str) -> str:
    """Modal's words in one line, without the advice to run its own program."""
    lines = [line.strip() for line in words.splitlines()]
    return " ".join(
        line for line in lines if line and not line.startswith(("View the build logs", "modal image"))
    )
