"""Room 3: may this run at all? The last room that costs nothing.

The adapter must offer what the entry needs, options and secrets must be there, and the write prefix must keep
its rules.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from theory.errors import BadAdapterOptions, MissingSecret, RegistryFault, Unsupported
from theory.formats import paths
from theory.formats.canon import MAX_INTEGER
from theory.options import options_of
from theory.record import Record
from theory.types import Secrets

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from theory.types import AdapterInfo, Capability, Image, JsonObject, Processor


class Admission(Record):
    """What a run is allowed."""

    prefix: str
    options: object  # an instance of the adapter's options class
    secrets: Secrets
    image: Image
    reserve_micro_usd: int  # what is held on the plan while it runs


def admit(  # noqa: PLR0913 - each is a part of the request or of the adapter
    processor: Processor,
    adapter: str,
    info: AdapterInfo,
    identify: Callable[[Processor, object], Image],
    *,
    options: JsonObject,
    prefix: str,
    execution_id: str,
    reserve_micro_usd: int | None = None,
    found: bool = False,
    environ: Mapping[str, str] = os.environ,
) -> Admission:
    """Admit a run.

    Args:
        processor: What is asked for.
        adapter: The adapter's name.
        info: What it can do.
        identify: Its answer to which image the entry means.
        options: Its options, as given.
        prefix: The write prefix, as given.
        execution_id: What the prefix's placeholder stands for.
        reserve_micro_usd: What to hold on the plan; None: what the entry or a pretending adapter says.
        found: The entry is from a folder that nobody named, so it must not run without isolation.
        environ: Where secrets come from.

    Raises:
        BadWritePrefix, BadAdapterOptions, Unsupported, MissingSecret, RegistryFault: What is wrong.
    """
    if found and "process" in info.offers and "isolation" not in info.offers:
        raise RegistryFault(
            f"{processor.ref} comes from {processor.folder}, which you did not name,"
            f" and {adapter} would run it without isolation",
            hint=f"if you trust it: --registry {processor.folder.parents[2]}",
        )
    prefix = paths.check_write_prefix(prefix, execution_id)
    chosen = options_of(adapter, info.options, options)
    if processor.command is None and "image" not in info.offers:
        raise Unsupported(
            f"{processor.ref} has no command, so it needs its image, and {adapter} cannot run images",
            hint="an adapter that offers image can, or give the entry a command",
        )
    for needed in _needs(processor):
        if needed not in info.offers:
            raise Unsupported(
                f"{processor.ref} needs {needed}, which the adapter {adapter} does not offer",
                hint="theory adapters ls shows what each one offers",
            )
    # An adapter whose options say so has them where it runs, and finds out itself what is missing there; what
    # is here too is masked in its log.
    elsewhere = bool(getattr(chosen, "keeps_secrets", False))
    secrets = Secrets() if info.pretends else _secrets(processor, environ, elsewhere=elsewhere)
    if secrets:
        _deliverable(processor, adapter, info)
    if reserve_micro_usd is None:
        reserve_micro_usd = _pretended_cost(chosen) if info.pretends else processor.reserve_micro_usd
    return Admission(prefix, chosen, secrets, identify(processor, chosen), reserve_micro_usd)


def _needs(processor: Processor) -> list[Capability]:
    needs: list[Capability] = []
    if processor.runtime.network:
        needs.append("network")
    if processor.runtime.gpu is not None:
        needs.append("gpu")
    return needs


def _secrets(processor: Processor, environ: Mapping[str, str], *, elsewhere: bool) -> Secrets:
    needs = processor.secrets
    missing = [name for name in needs.required if not environ.get(name)]
    if missing and not elsewhere:
        raise MissingSecret(
            f"{processor.ref} needs the secret{'s' if len(missing) > 1 else ''} {', '.join(missing)}",
            hint=f"export {missing[0]}=…, or --adapter mock to try without",
        )
    return Secrets({name: environ[name] for name in (*needs.required, *needs.optional) if environ.get(name)})


def _deliverable(processor: Processor, adapter: str, info: AdapterInfo) -> None:
    ways = {"file": "secrets_file", "env": "secrets_env"}
    wanted = [ways[processor.secrets.deliver]] if processor.secrets.deliver else list(ways.values())
    if not info.offers.intersection(wanted):
        how = {"file": "as a file", "env": "in a variable", None: "at all"}[processor.secrets.deliver]
        raise Unsupported(
            f"the adapter {adapter} cannot deliver the secrets of {processor.ref} {how}",
            hint="theory adapters ls shows what each one offers",
        )


def _pretended_cost(options: object) -> int:
    """What a pretending adapter's own ``cost_micro_usd`` option says, in micro-USD; 0 where it has none."""
    cost = getattr(options, "cost_micro_usd", 0)
    if type(cost) is not int or not 0 <= cost <= MAX_INTEGER:
        raise BadAdapterOptions("the option cost_micro_usd is not between 0 and 2^53-1")
    return cost
