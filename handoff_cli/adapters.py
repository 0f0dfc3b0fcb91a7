"""Running the HTTP API, and making its keys."""

import secrets
import sys
from collections.abc import Sequence

from handoff.settings import AdapterSettings, load, name_of
from handoff_cli.exits import Exit, Stopped
from handoff_cli.rendering import note


def serve() -> Exit:
    """Raises Stopped where the adapter's packages are not installed."""
    from handoff import log

    try:
        from dify_adapter.serve import serve as run
    except ModuleNotFoundError as error:
        raise Stopped(
            Exit.USAGE, f"The package {error.name} is missing: install handoff-comfyui[adapter] to serve."
        ) from None
    log.configure()
    run(load(AdapterSettings))
    return Exit.DONE


def new_key(name: str, *, owner: str | None, scopes: Sequence[str]) -> Exit:
    """Prints a line for the file of keys; the key itself is on standard output only."""
    from dify_adapter.keys import read_keys

    secret = f"hk_{secrets.token_hex(16)}"
    line = f"{name}{f'@{owner}' if owner else ''}:{secret}{':' + '+'.join(scopes) if scopes else ''}"
    try:
        read_keys([line])
    except ValueError as error:
        raise Stopped(Exit.USAGE, f"{error}.") from None
    print(line)
    if sys.stdout.isatty():
        note(
            f"Put this line into {name_of('api_keys')}, or into the file of {name_of('api_keys_file')}. Dify sends {secret}."
        )
    return Exit.DONE
