"""What the settings are, where each comes from, and whether what they point to works."""

import os
from dataclasses import asdict, dataclass

from dotenv import dotenv_values
from rich.text import Text

from handoff.masking import MASK, mask_urls, mask_value
from handoff.settings import ENV_FILE, PROGRAMS, WatcherSettings, load, name_of
from handoff_cli.exits import Exit
from handoff_cli.rendering import note, print_json, print_table

_COMMANDS = frozenset({"comfyui_restart"})  # a command line may hold a token
_PATHS = frozenset({"api_keys_file"})  # where secrets are is none
_PLAIN_AWS = frozenset({"AWS_REGION", "AWS_DEFAULT_REGION", "AWS_PROFILE", "AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3"})
_FAR = frozenset({"comfyui", "websocket", "bucket"})  # findings about what may just be away


@dataclass(frozen=True, kw_only=True)
class Effective:
    """A setting as the programs see it. `source`: environment, .env or default."""

    name: str
    value: object
    source: str
    description: str


def print_settings(*, as_json: bool) -> Exit:
    """Raises SettingsError."""
    rows = read_effective()
    if as_json:
        print_json([asdict(row) for row in rows])
    else:
        print_table(
            ("setting", "value", "from", ""),
            [(row.name, _show(row.value), row.source, row.description) for row in rows],
        )
    return Exit.DONE


def read_effective() -> list[Effective]:
    """Every setting, and the AWS variables that are set; secrets are masked. Raises SettingsError."""
    environment = {name.upper() for name in os.environ}  # before `load`, which puts AWS lines of .env into it
    written = {name.upper() for name, value in dotenv_values(ENV_FILE).items() if value is not None}
    values: dict[str, object] = {}
    descriptions: dict[str, str] = {}
    for program in PROGRAMS:
        values |= load(program).model_dump(mode="json")
        descriptions |= {field: info.description or "" for field, info in program.model_fields.items()}
    rows = []
    for field, description in descriptions.items():
        name = name_of(field)
        source = _find_source(name, environment, written)
        rows.append(Effective(name=name, value=_mask(field, values[field]), source=source, description=description))
    for name in sorted(name for name in environment | written if name.startswith("AWS_")):
        value = mask_urls(os.environ.get(name, "")) if name in _PLAIN_AWS else MASK
        rows.append(
            Effective(name=name, value=value, source=_find_source(name, environment, written), description="for boto3")
        )
    return rows


def _find_source(name: str, environment: set[str], written: set[str]) -> str:
    return "environment" if name in environment else ENV_FILE if name in written else "default"


def _mask(field: str, value: object) -> object:
    if field in _PATHS:
        return value
    return MASK if field in _COMMANDS and value is not None else mask_value(field, value)


def _show(value: object) -> str:
    if value is None:
        return "-"
    return " ".join(map(str, value)) if isinstance(value, list) else str(value)


def diagnose(*, as_json: bool) -> Exit:
    """Looks whether everything works. UNREACHABLE when something far away does not answer, USAGE when something here is wrong."""
    from handoff_cli.doctor import diagnose as look

    findings = look(load(WatcherSettings))
    if as_json:
        print_json([asdict(finding) for finding in findings])
    else:
        print_table(
            ("", "what", "found", "remedy"),
            [(_show_state(finding.state), finding.name, finding.found, finding.remedy) for finding in findings],
        )
    failed = [finding.name for finding in findings if finding.state == "failed"]
    if not failed:
        note("Everything that is needed works.", "green")
        return Exit.DONE
    return Exit.UNREACHABLE if _FAR.intersection(failed) else Exit.USAGE


def _show_state(state: str) -> Text:
    return Text(state, style={"ok": "green", "warning": "yellow"}.get(state, "bold red"))
