"""The secrets of a job as Modal takes them: kept there under a name, or sent from the caller's environment.

With ``-o secret=NAME`` the values stay where they are, in the user's own Modal secrets, and nothing of this
machine's environment is sent. Else the values that core gathered go as a secret of their own. Either way they
are variables of the command, and stand in no argument, name, tag, label or log of ours.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from theory import errors

if TYPE_CHECKING:
    from collections.abc import Iterable

    import modal

    from theory import Processor, Secrets
    from theory_adapter_modal.options import Options


async def secrets_for(
    processor: Processor, secrets: Secrets, options: Options, client: modal.Client
) -> list[modal.Secret]:
    """What the container of a job is given.

    Secrets that Modal keeps are looked up now, before anything is created that costs.

    Raises:
        MissingSecret: Modal has no secret of a name, or none of them has a variable that the entry requires.
        modal.exception.Error: Anything else that Modal says (``faults.told``).
    """
    import modal  # noqa: PLC0415 - only where the adapter runs

    if names := names_in(options.secret):
        return await _kept(processor, names, options, client)
    return [modal.Secret.from_dict(dict(secrets))] if secrets else []


def names_in(text: str | None) -> tuple[str, ...]:
    """The names of Modal secrets in the option.

    >>> names_in("openai, hf-token,")
    ('openai', 'hf-token')
    """
    return tuple(dict.fromkeys(filter(None, (name.strip() for name in (text or "").split(",")))))


async def _kept(
    processor: Processor, names: tuple[str, ...], options: Options, client: modal.Client
) -> list[modal.Secret]:
    required = processor.secrets.required
    if len(names) == 1 and (held := await _held(names[0], required, options, client)) is not None:
        return [held]
    found = await asyncio.gather(*(_held(name, (), options, client) for name in names))
    for name, secret in zip(names, found, strict=True):
        if secret is None:
            where = f" in the environment {options.environment}" if options.environment else ""
            raise errors.MissingSecret(
                f"Modal has no secret named {name}{where}",
                hint=f"modal secret create {name} {required[0] if required else 'NAME'}=…",
            )
    missing = [key for key in required if not await _any_has(key, names, options, client)]
    if missing:
        raise errors.MissingSecret(
            f"{processor.ref} needs the secret{'s' if len(missing) > 1 else ''} {', '.join(missing)},"
            f" which {' and '.join(names)} on Modal {'do' if len(names) > 1 else 'does'} not have",
            hint=f"add {missing[0]} to {names[0]} at https://modal.com/secrets",
        )
    return [secret for secret in found if secret is not None]


async def _any_has(key: str, names: tuple[str, ...], options: Options, client: modal.Client) -> bool:
    found = await asyncio.gather(*(_held(name, (key,), options, client) for name in names))
    return any(secret is not None for secret in found)


async def _held(
    name: str, keys: Iterable[str], options: Options, client: modal.Client
) -> modal.Secret | None:
    """The secret of this name if Modal has it, with these variables; their values stay there."""
    import modal  # noqa: PLC0415 - only where the adapter runs
    from modal.exception import InvalidError, NotFoundError  # noqa: PLC0415 - as above

    secret = modal.Secret.from_name(
        name, environment_name=options.environment, required_keys=list(keys), client=client
    )
    try:
        await secret.hydrate.aio(client)
    except (NotFoundError, InvalidError):
        return None
    return secret
