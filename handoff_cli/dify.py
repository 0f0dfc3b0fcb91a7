"""What Dify imports, without a running adapter."""

import json

from dify_adapter import flows, openapi
from handoff.messages import nearest
from handoff.settings import AdapterSettings, load, name_of
from handoff_cli.exits import Exit, Stopped
from handoff_cli.rendering import note
from workflows.catalogue import Catalogue
from workflows.template import Template

OPENAPI = "openapi"


def export(name: str, *, url: str | None) -> Exit:
    """Prints the document. `url` is the adapter as Dify reaches it; from the settings when None."""
    settings = load(AdapterSettings)
    known = [*flows.NAMES, OPENAPI]
    if name not in known:
        raise Stopped(Exit.USAGE, f"Nothing is named {name}. The nearest: {nearest(name, known)}.")
    address = (url or settings.dify_url or settings.base_url).rstrip("/")
    if not address.startswith(("http://", "https://")):
        raise Stopped(Exit.USAGE, f"--url {address}: it must begin with http:// or https://.")
    if name == OPENAPI:
        templates = [entry for entry in Catalogue(settings.workflows_dir).list() if isinstance(entry, Template)]
        document = openapi.describe(templates, server=address, language=settings.language)
        print(json.dumps(document, ensure_ascii=False, indent=2))
    else:
        asks_for_key = bool(settings.api_keys or settings.api_keys_file)
        bucket_url = flows.find_bucket_url(settings)
        flow = flows.fill(flows.read(name), address=address, bucket_url=bucket_url, asks_for_key=asks_for_key)
        print(flow, end="")
    if not (url or settings.dify_url or settings.public_url):
        note(
            f"It says {address}. Set {name_of('dify_url')}, or --url, to the address at which Dify reaches the adapter."
        )
    return Exit.DONE
