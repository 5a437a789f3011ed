"""Apps on Modal that hold the function of one entry, as it is: by name, so that nothing else answers for it.

The name tells all that decides what a call would meet: the image, what its containers get, the programs that
serve there. A changed entry has another name, and is not there until it is deployed too.
"""

from __future__ import annotations

import re
import time
from typing import TYPE_CHECKING, Any, NamedTuple

from theory import canonical_json, cid_of, errors, pinned_id
from theory_adapter_modal.function.shipped import BOX, SHIM, shim
from theory_adapter_modal.images import PLATFORM, build, image_for
from theory_adapter_modal.resources import resources_of
from theory_adapter_modal.secrets import names_in, secrets_for
from theory_adapter_modal.tags import tag_of_ref

if TYPE_CHECKING:
    import modal

    from theory import Channel, Processor
    from theory_adapter_modal.options import Options

FUNCTION = "serve"  # in theory_shim.py
_MODULES = "/root"  # of a container: where Modal puts a function's module, and imports it from (client 1.6)
OVERHEAD = 256  # MiB for Modal's program and ours, which live beside the command
SPARE_S = 600  # for files to come and go, beside the command's time
LONG_S = 3600  # a command that may take longer needs Modal's longest timeout
DAY_S = 86_400  # Modal's longest timeout of a call. Source: https://modal.com/docs/guide/timeouts
_DIGITS = 12  # of the name's digest: 48 bits
_STUB_LENGTH = 48  # Modal takes 64 characters for a name
_KNOWN_S = 60.0  # how long a function that was found is not looked for again
_known: dict[tuple[int, str, str], tuple[float, modal.Function[..., Any, Any]]] = {}


class Deployed(NamedTuple):
    """What ``theory modal deploy`` made."""

    ref: str
    app: str
    function: str
    image: str  # im-…
    environment: str | None  # None for the account's own choice


def app_name(processor: Processor, options: Options) -> str:
    """The name of the app that holds this entry, with these options.

    Raises:
        RegistryFault: The stub_name is no name that Modal takes, or the image has none.
    """
    pinned = pinned_id(processor, PLATFORM)
    content = {
        "image": pinned or [processor.image.oci, processor.image.dockerfile, processor.tree],
        "resources": resources_of(processor.runtime, options),
        "secrets": sorted(names_in(options.secret)),
        "served by": [cid_of(path.read_bytes()) for path in (SHIM, BOX)],
    }
    digest = cid_of(canonical_json(content)).removeprefix("b3:")[:_DIGITS]
    return f"{_stub_name(processor)}-{digest}"


def _stub_name(processor: Processor) -> str:
    stub = processor.adapter.get("modal", {}).get("stub_name")
    if stub is None:
        ref = processor.ref
        return f"{ref.namespace}-{ref.name}-v{ref.version}"[:_STUB_LENGTH]
    if not isinstance(stub, str) or not re.fullmatch(rf"[a-zA-Z0-9._-]{{1,{_STUB_LENGTH}}}", stub):
        raise errors.RegistryFault(
            f"{processor.ref}: adapter.modal.stub_name is {str(stub)[:100]!r}",
            hint=f"write 1 to {_STUB_LENGTH} letters, digits, dots, dashes or underscores",
        )
    return stub


async def find_function(
    processor: Processor, options: Options, client: modal.Client
) -> modal.Function[..., Any, Any] | None:
    """The deployed function of exactly this entry; None where there is none."""
    import modal  # noqa: PLC0415 - only where the adapter runs
    from modal.exception import NotFoundError  # noqa: PLC0415 - as above

    name = app_name(processor, options)
    key = (id(client), options.environment or "", name)
    found = _known.get(key)
    if found is not None and time.monotonic() - found[0] < _KNOWN_S:
        return found[1]
    function = modal.Function.from_name(name, FUNCTION, environment_name=options.environment, client=client)
    try:
        await function.hydrate.aio(client)
    except NotFoundError:
        return None
    _known[key] = (time.monotonic(), function)
    return function


def forget(processor: Processor, options: Options, client: modal.Client) -> None:
    """Look for the function anew the next time."""
    _known.pop((id(client), options.environment or "", app_name(processor, options)), None)


def volume_of(processor: Processor, options: Options, client: modal.Client) -> modal.Volume:
    """The volume of the entry's app, for what is too large for a document."""
    import modal  # noqa: PLC0415 - only where the adapter runs

    return modal.Volume.from_name(
        app_name(processor, options),
        environment_name=options.environment,
        create_if_missing=True,
        version=2,
        client=client,
    )


def not_deployed(processor: Processor, options: Options) -> errors.TheoryError:
    """The error for a run that asks for a function which is not there."""
    where = f" in the environment {options.environment}" if options.environment else ""
    return errors.Unsupported(
        f"no function of {processor.ref}, as it is now, is deployed on Modal{where}",
        hint=f"theory modal deploy {processor.ref}, with the same -o; or -o mode=sandbox",
    )


async def deploy(processor: Processor, options: Options, client: modal.Client, channel: Channel) -> Deployed:
    """Deploy the function of an entry: build its image, ship the programs that serve, keep them under a name.

    To do it again changes nothing that a caller sees; what runs meanwhile ends as it began.

    Raises:
        Unsupported: The entry has no command of its own.
        ImageBuildFailed, ImageNotFound, MissingSecret: What Modal cannot have.
        modal.exception.Error: Anything else that Modal says (``faults.told``).
    """
    import modal  # noqa: PLC0415 - only where the adapter runs

    if processor.command is None:
        raise errors.Unsupported(
            f"{processor.ref} has no command, and a function serves only what it can start itself",
            hint="give the entry a command, or run it in a sandbox: -o mode=sandbox",
        )
    name = app_name(processor, options)
    kept = await secrets_for(processor, _none(), options, client) if options.secret else []
    tags = {"theory.ref": tag_of_ref(processor.ref)}
    builder = await modal.App.lookup.aio(
        name, create_if_missing=True, environment_name=options.environment, client=client
    )
    image_id = await build(image_for(processor, options, client), processor, builder, channel)
    image = modal.Image.from_id(image_id, client=client)
    app = modal.App(name, tags=tags)
    app.function(
        image=image.add_local_file(BOX, f"{_MODULES}/{BOX.name}"),
        name=FUNCTION,
        secrets=kept,
        volumes={str(shim().VOLUME): volume_of(processor, options, client)},
        timeout=timeout_of(processor.runtime.timeout),
        startup_timeout=options.startup,
        **container_of(processor, options),
    )(shim().serve)
    await app.deploy.aio(environment_name=options.environment, client=client)
    forget(processor, options, client)
    return Deployed(str(processor.ref), name, FUNCTION, image_id, options.environment)


def container_of(processor: Processor, options: Options) -> dict[str, Any]:
    """What a container of the function gets: what the command may have, and room for what serves it."""
    resources = resources_of(processor.runtime, options)
    memory = processor.runtime.memory + OVERHEAD
    return {**resources, "memory": (memory, memory)}


def timeout_of(seconds: float) -> int:
    """Modal's own timeout of a call, which only a call that cannot end by itself ever meets."""
    return LONG_S + SPARE_S if seconds <= LONG_S else DAY_S


def _none() -> Any:  # noqa: ANN401 - theory.Secrets
    from theory import Secrets  # noqa: PLC0415 - once a deployment

    return Secrets()
