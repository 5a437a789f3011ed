"""What ``theory doctor`` says of Modal."""

from __future__ import annotations

import asyncio
import os
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING

from theory import Finding, errors
from theory_adapter_modal.account import APP, client, is_enabled
from theory_adapter_modal.faults import NOT_ENABLED, NOT_INSTALLED, told

if TYPE_CHECKING:
    from collections.abc import Mapping

    import modal

_PATIENCE_S = 10.0  # for Modal to answer
_SHOWN = 3  # sandboxes by name


def findings(environ: Mapping[str, str] = os.environ) -> tuple[Finding, ...]:
    """Whether Modal can be used, and what runs there for us. Raises nothing."""
    try:
        package = Finding("package", ok=True, message=f"modal {version('modal')}")
    except PackageNotFoundError:
        return (Finding("package", ok=False, message="modal is not installed", hint=NOT_INSTALLED),)
    if not is_enabled(environ):
        return (
            package,
            Finding("enabled", ok=False, message="MODAL_ENABLED is not set to True", hint=NOT_ENABLED),
        )
    return (package, Finding("enabled", ok=True, message="MODAL_ENABLED allows runs on Modal"), *_account())


def _account() -> tuple[Finding, ...]:
    try:
        return asyncio.run(asyncio.wait_for(_asked(client()), _PATIENCE_S))
    except asyncio.TimeoutError:
        return (Finding("account", ok=False, message=f"Modal does not answer within {_PATIENCE_S:g} s"),)
    except Exception as error:  # noqa: BLE001 - a diagnosis tells whatever it is
        known = error if isinstance(error, errors.TheoryError) else told(error)
        return (Finding("account", ok=False, message=known.message, hint=known.hint),)


async def _asked(account: modal.Client) -> tuple[Finding, ...]:
    import modal  # noqa: PLC0415 - for theory doctor
    from modal.exception import NotFoundError  # noqa: PLC0415 - as above

    await account.hello.aio()  # type: ignore[no-untyped-call]  # it is, in the stub
    known = Finding("account", ok=True, message="Modal knows the token")
    try:
        app = await modal.App.lookup.aio(APP, client=account)
    except NotFoundError:
        return (known, Finding("sandboxes", ok=True, message="none was ever made"))
    there = [each.object_id async for each in modal.Sandbox.list.aio(app_id=app.app_id, client=account)]
    if not there:
        return (known, Finding("sandboxes", ok=True, message="none runs"))
    more = ", …" if len(there) > _SHOWN else ""
    return (
        known,
        Finding(
            "sandboxes",
            ok=True,
            message=f"{len(there)} of this account's are there: {', '.join(there[:_SHOWN])}{more}",
            hint="runs end their own; those of callers that died are ended by the next run on their machine",
        ),
    )
