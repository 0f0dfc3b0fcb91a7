"""The workflows that jobs can name: what each takes, and whether it would run."""

from handoff.failures import EdgeError
from handoff.messages import Language
from handoff.settings import WatcherSettings, load
from handoff_cli.exits import Exit
from handoff_cli.rendering import note, print_json, print_table, say
from workflows.catalogue import Catalogue
from workflows.compatibility import check
from workflows.parameter import Kind, Parameter
from workflows.schema import json_schema
from workflows.template import Broken, Template


def list_workflows(*, as_json: bool) -> Exit:
    settings = load(WatcherSettings)
    entries = Catalogue(settings.workflows_dir).list()
    if as_json:
        print_json({"workflows": [_to_json(entry, settings.language) for entry in entries]})
        return Exit.DONE
    print_table(("workflow", "title", "what it does"), [_row(entry, settings.language) for entry in entries])
    note("`handoff workflows list NAME` shows the parameters of one.")
    return Exit.DONE


def show_workflow(name: str, *, as_json: bool) -> Exit:
    """Raises Failure for an unknown or broken workflow."""
    settings = load(WatcherSettings)
    language = settings.language
    template = Catalogue(settings.workflows_dir).get(name)
    if as_json:
        print_json(json_schema(template, language))
        return Exit.DONE
    say(f"{template.name}: {template.title[language]}", "bold")
    say(template.description[language])
    rows = [
        (f"{parameter.name}{' *' if parameter.required else ''}", parameter.kind, _show_default(parameter),
         _show_limits(parameter), parameter.help[language])
        for parameter in template.parameters.values()
    ]  # fmt: skip
    print_table(("parameter", "type", "default", "limits", "help"), rows)
    note("* must be given")
    return Exit.DONE


def check_workflows(name: str | None, *, as_json: bool) -> Exit:
    """JOB_FAILED when something is wrong with one of them. A ComfyUI that does not answer is told, and no fault of theirs."""
    settings = load(WatcherSettings)
    catalogue = Catalogue(settings.workflows_dir)
    entries = [entry for entry in catalogue.list() if name in (None, entry.name)]
    if not entries and name is not None:
        catalogue.get(name)  # raises, and names the nearest
    object_info = _ask_comfyui(settings.comfyui_url)
    problems = {
        entry.name: list(entry.problems)
        if isinstance(entry, Broken)
        else check(entry, object_info)
        if object_info is not None
        else []
        for entry in entries
    }
    if as_json:
        print_json({"compared_with_comfyui": object_info is not None, "problems": problems})
    else:
        for checked, found in problems.items():
            say(f"{checked}: {'ok' if not found else f'{len(found)} problem(s)'}", "red" if found else "green")
            for problem in found:
                say(f"  {problem}")
    return Exit.JOB_FAILED if any(problems.values()) else Exit.DONE


def _ask_comfyui(url: str) -> dict[str, object] | None:
    from watcher.comfyui import ComfyUI

    comfyui = ComfyUI(url)
    try:
        return comfyui.object_info()
    except EdgeError as error:
        note(f"Only the files were checked, since ComfyUI does not answer: {error}", "yellow")
        return None
    finally:
        comfyui.close()


def _to_json(entry: Template | Broken, language: Language) -> dict[str, object]:
    if isinstance(entry, Broken):
        return {"name": entry.name, "problems": list(entry.problems)}
    return {
        "name": entry.name,
        "title": entry.title[language],
        "description": entry.description[language],
        "problems": [],
        "parameters": list(entry.parameters),
    }


def _row(entry: Template | Broken, language: Language) -> tuple[str, str, str]:
    if isinstance(entry, Broken):
        return entry.name, "(broken)", f"{entry.problems[0]}; `handoff workflows check {entry.name}` lists all"
    return entry.name, entry.title[language], entry.description[language]


def _show_default(parameter: Parameter) -> str:
    if parameter.default is not None:
        return f'"{parameter.default}"' if isinstance(parameter.default, str) else str(parameter.default)
    return {Kind.SEED: "drawn", Kind.MODEL: "the only one there is"}.get(parameter.kind, "-")


def _show_limits(parameter: Parameter) -> str:
    if parameter.kind is Kind.ENUM:
        return ", ".join(parameter.choices)
    limits = [
        None if parameter.minimum is None else f"from {parameter.minimum}",
        None if parameter.maximum is None else f"to {parameter.maximum}",
        None if parameter.step is None else f"step {parameter.step}",
    ]
    return " ".join(limit for limit in limits if limit) or (
        f"in models/{parameter.folder}" if parameter.folder else "-"
    )
