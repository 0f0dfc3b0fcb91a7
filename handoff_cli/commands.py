# ruff: noqa: D301 - the help needs the control character \b itself, which keeps the lines of an example apart
"""The whole command line on one page: every command with its options and an example.

Nothing of the project is imported here before a command runs, so that `handoff --help` answers at once.
"""

from typing import Annotated

import typer

from handoff_cli.exits import Exit

app = typer.Typer(
    name="handoff",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="""Hands jobs to ComfyUI through a shared folder, and brings verified results back.

    \b
    handoff watch                                     beside ComfyUI
    handoff serve                                     beside Dify
    handoff submit txt2img -p prompt="a cat" --wait   anywhere that sees its folders
    cp job.json input/                                does the same

    \b
    Exit status: 0 done; 1 the job failed, expired, was cancelled or rejected; 2 usage or settings;
    3 something is unreachable; 4 unknown id; 5 the wait ran out; 130 interrupted.""",
)
workflows = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="The workflows that a job can name.")
app.add_typer(workflows, name="workflows")
keys = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="The keys of the HTTP API.")
app.add_typer(keys, name="keys")
dify = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="What Dify imports.")
app.add_typer(dify, name="dify")

Id = Annotated[str, typer.Argument(metavar="ID", help="The job's id.", show_default=False)]
AsJson = Annotated[bool, typer.Option("--json", help="JSON on standard output, nothing else.")]
Wait = Annotated[bool, typer.Option("--wait", help="Wait for the end of the job, however long.")]
WaitS = Annotated[
    float | None,
    typer.Option("--wait-s", metavar="SECONDS", min=0, help="Wait at most this long, then exit with status 5."),
]


@app.command()
def watch() -> None:
    """Run the jobs of the input folder on ComfyUI.

    Until SIGTERM or Ctrl-C, which let it finish what it is saving; a second signal stops at once. Settings are HANDOFF_* variables or lines of .env; `handoff config` shows them.

    \b
    Example:
      HANDOFF_INPUT_DIR=/comfyui/input HANDOFF_OUTPUT_DIR=/comfyui/output handoff watch
    """
    from handoff_cli import watchers

    _end(watchers.watch())


@app.command()
def serve() -> None:
    """Serve the HTTP API for Dify and others.

    Until SIGTERM or Ctrl-C. Settings are HANDOFF_* variables or lines of .env; `handoff config` shows them. Without keys it listens on loopback only.

    \b
    Example:
      HANDOFF_LISTEN=0.0.0.0:8080 HANDOFF_API_KEYS_FILE=keys.txt handoff serve
    """
    from handoff_cli import adapters

    _end(adapters.serve())


@keys.command("new")
def new_key(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Whose key it is; stands in the log.")],
    owner: Annotated[
        str | None, typer.Option("--owner", help="Whose jobs it sees; the name when left out.", show_default=False)
    ] = None,
    scopes: Annotated[
        list[str] | None,
        typer.Option(
            "--scope",
            help="submit (the default), graph, admin or read; may be given several times.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Make a key for the adapter.

    The line goes into HANDOFF_API_KEYS, or into the file that HANDOFF_API_KEYS_FILE names; the part between the colons is what Dify sends.

    \b
    Example:
      handoff keys new shop --scope submit >> keys.txt
    """
    from handoff_cli import adapters

    _end(adapters.new_key(name, owner=owner, scopes=scopes or ()))


@dify.command("export")
def export_for_dify(
    name: Annotated[
        str,
        typer.Argument(metavar="NAME", help="chatflow, workflow, picture-to-picture, bucket-polling or openapi."),
    ],
    url: Annotated[
        str | None,
        typer.Option("--url", metavar="URL", help="The adapter as Dify reaches it; HANDOFF_DIFY_URL when left out."),
    ] = None,
) -> None:
    """Print a flow, or the OpenAPI document, with the adapter's address filled in.

    The running adapter serves the same at its page, GET /.

    \b
    Example:
      handoff dify export chatflow --url http://handoff:8080 > chatflow.yml
    """
    from handoff_cli import dify as exports

    _end(exports.export(name, url=url))


@app.command()
def submit(
    workflow: Annotated[
        str | None, typer.Argument(metavar="WORKFLOW", help="A name of `handoff workflows list`.", show_default=False)
    ] = None,
    params: Annotated[
        list[str] | None,
        typer.Option("-p", "--param", metavar="NAME=VALUE", help="A parameter; a picture's path works."),
    ] = None,
    overrides: Annotated[
        list[str] | None, typer.Option("--set", metavar="NODE.INPUT=VALUE", help="An input by node id or title.")
    ] = None,
    graph: Annotated[
        str | None, typer.Option("--graph", metavar="FILE", help="A graph (Export (API)) or any job file, instead.")
    ] = None,
    id: Annotated[str | None, typer.Option("--id", help="The same id and content twice is one job.")] = None,
    priority: Annotated[int | None, typer.Option("--priority", help="-100 to 100; higher comes first.")] = None,
    queue_timeout_s: Annotated[
        float | None, typer.Option("--queue-timeout", metavar="SECONDS", help="Give up waiting after this long.")
    ] = None,
    run_timeout_s: Annotated[
        float | None, typer.Option("--run-timeout", metavar="SECONDS", help="Give up running after this long.")
    ] = None,
    metadata: Annotated[
        str | None, typer.Option("--metadata", metavar="JSON", help="An object, given back in the status.")
    ] = None,
    waits: Wait = False,
    wait_s: WaitS = None,
    as_json: AsJson = False,
) -> None:
    """Submit a job and print its id.

    With --wait it is followed to its end and its results are printed. Everything is checked before the job is published, and all problems are told at once.

    \b
    Example:
      handoff submit txt2img -p prompt="a lighthouse" -p width=768 --wait
      handoff submit invert -p image=./cat.png
      handoff submit --graph workflow_api.json --set 3.seed=7 --priority 10
    """
    from handoff_cli.submission import Request
    from handoff_cli.submission import submit as run

    request = Request(
        workflow=workflow,
        graph=graph,
        params=params or (),
        overrides=overrides or (),
        id=id,
        priority=priority,
        queue_timeout_s=queue_timeout_s,
        run_timeout_s=run_timeout_s,
        metadata=metadata,
    )
    _end(run(request, waits=waits or wait_s is not None, wait_s=wait_s, as_json=as_json))


@app.command()
def status(id: Id, waits: Wait = False, wait_s: WaitS = None, as_json: AsJson = False) -> None:
    """Say where a job stands. Exit status 1 if it ended otherwise than well.

    \b
    Example:
      handoff status poster-20261124-083015-k7q --wait-s 60 --json
    """
    from handoff_cli import jobs

    _end(jobs.status(id, waits=waits or wait_s is not None, wait_s=wait_s, as_json=as_json))


@app.command()
def show(id: Id) -> None:
    """Tell what happened to a job.

    Its times, its attempts and how each ended, errors and what to do about them, and where its files are.

    \b
    Example:
      handoff show poster-20261124-083015-k7q
    """
    from handoff_cli import jobs

    _end(jobs.show(id))


@app.command("list")
def list_jobs(
    status: Annotated[
        list[str] | None, typer.Option("--status", help="Only these; may be given several times.", show_default=False)
    ] = None,
    workflow: Annotated[str | None, typer.Option("--workflow", help="Only jobs of this workflow.")] = None,
    limit: Annotated[int, typer.Option("--limit", min=1, max=10_000, help="At most this many.")] = 20,
    as_json: AsJson = False,
) -> None:
    """List jobs, the newest first.

    Unfinished jobs stand before finished ones.

    \b
    Example:
      handoff list --status failed --status expired --limit 50
    """
    from handoff.state import Status
    from handoff_cli import jobs

    try:
        statuses = [Status(name) for name in status or ()]
    except ValueError as error:
        raise typer.BadParameter(f"{error}; choose of {', '.join(Status)}", param_hint="--status") from None
    _end(jobs.list_jobs(statuses=statuses, workflow=workflow, limit=limit, as_json=as_json))


@app.command()
def cancel(id: Id, waits: Wait = False, wait_s: WaitS = None) -> None:
    """Ask a job to stop. One that is over stays as it is.

    \b
    Example:
      handoff cancel poster-20261124-083015-k7q --wait
    """
    from handoff_cli import jobs

    _end(jobs.cancel(id, waits=waits or wait_s is not None, wait_s=wait_s))


@app.command()
def retry(id: Id, waits: Wait = False, wait_s: WaitS = None, as_json: AsJson = False) -> None:
    """Run a job again that did not succeed.

    As a new job, ID-r1, with the same parameters, pictures and seed. Retrying twice makes one job.

    \b
    Example:
      handoff retry poster-20261124-083015-k7q --wait
    """
    from handoff_cli import jobs

    _end(jobs.retry(id, waits=waits or wait_s is not None, wait_s=wait_s, as_json=as_json))


@app.command()
def pause(
    reason: Annotated[str | None, typer.Option("--reason", help="Shown to everybody who wonders.")] = None,
) -> None:
    """Let jobs wait until `handoff resume`.

    They are accepted, and no watcher claims one; what is at ComfyUI goes on.

    \b
    Example:
      handoff pause --reason "models are being updated"
    """
    from handoff_cli import watchers

    _end(watchers.pause(reason))


@app.command()
def resume() -> None:
    """End a pause.

    \b
    Example:
      handoff resume
    """
    from handoff_cli import watchers

    _end(watchers.resume())


@app.command()
def health(
    any_server: Annotated[bool, typer.Option("--any", help="Of any ComfyUI, not only of the one set here.")] = False,
    as_json: AsJson = False,
) -> None:
    """Tell whether a watcher lives.

    Exit status 0 while a watcher of this ComfyUI does, else 3. For health checks.

    \b
    Example:
      handoff health --any
    """
    from handoff_cli import watchers

    _end(watchers.health(any_server=any_server, as_json=as_json))


@workflows.command("list")
def list_workflows(
    name: Annotated[
        str | None, typer.Argument(metavar="NAME", help="Shows its parameters.", show_default=False)
    ] = None,
    as_json: AsJson = False,
) -> None:
    """List the workflows, or the parameters of one.

    With their limits and defaults; --json with a NAME gives JSON Schema.

    \b
    Example:
      handoff workflows list txt2img
    """
    from handoff_cli import templates

    _end(templates.show_workflow(name, as_json=as_json) if name else templates.list_workflows(as_json=as_json))


@workflows.command("check")
def check_workflows(
    name: Annotated[str | None, typer.Argument(metavar="NAME", help="Only this one.", show_default=False)] = None,
    as_json: AsJson = False,
) -> None:
    """Look for mistakes in workflows.

    They are compared with ComfyUI's nodes and models, too, when it answers. Exit status 1 if something is wrong.

    \b
    Example:
      handoff workflows check txt2img
    """
    from handoff_cli import templates

    _end(templates.check_workflows(name, as_json=as_json))


@app.command(add_help_option=False, context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def simulator(context: typer.Context) -> None:
    """Run a simulated ComfyUI, without a GPU.

    `handoff simulator --help` shows its flags.

    \b
    Example:
      handoff simulator --port 8188 --base-directory data
    """
    from handoff_cli import simulator as simulators

    _end(simulators.run(context.args))


@app.command()
def config(as_json: AsJson = False) -> None:
    """Show every setting and where it comes from.

    Secrets are masked.

    \b
    Example:
      handoff config --json
    """
    from handoff_cli import configuration

    _end(configuration.print_settings(as_json=as_json))


@app.command()
def doctor(as_json: AsJson = False) -> None:
    """Find out what does not work, and the remedy.

    Exit status 3 if something is unreachable, 2 if something here is wrong, 0 if all that is needed works.

    \b
    Example:
      handoff doctor
    """
    from handoff_cli import configuration

    _end(configuration.diagnose(as_json=as_json))


@app.command()
def demo(
    comfyui_url: Annotated[
        str | None, typer.Option("--comfyui-url", metavar="URL", help="A real ComfyUI instead of the simulated one.")
    ] = None,
) -> None:
    """Show three jobs on their way to a picture.

    On a simulated ComfyUI or a real one; everything stays in data/demo-1, data/demo-2, …

    \b
    Example:
      handoff demo
    """
    from handoff_cli.demo import demo as run

    _end(run(comfyui_url))


def _end(status: int) -> None:
    """Ends the command with its exit status."""
    if status != Exit.DONE:
        raise typer.Exit(status)
