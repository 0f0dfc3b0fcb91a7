"""Every setting: an environment variable `HANDOFF_*` or a line of `.env`, described here once.

The README's reference table is generated from these classes. Each program has its own class, so that it cannot read
another's secrets. AWS credentials are boto3's own (`AWS_ACCESS_KEY_ID`, a profile, a role, …) and may stand in `.env`.
"""

import errno
import locale
import os
import socket
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Literal, TypeVar, get_origin

from dotenv import dotenv_values
from pydantic import Field, ValidationError, ValidationInfo, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from handoff.folders import Folders
from handoff.masking import mask_urls
from handoff.messages import Language, nearest

PREFIX = "HANDOFF_"
ENV_FILE = ".env"

Words = Annotated[tuple[str, ...], NoDecode]
"""A list written with commas or spaces."""


class SettingsError(Exception):
    """A setting is wrong, unknown or points to nothing; the text names it and the remedy."""


def _speak() -> Language:
    return "zh" if (locale.getlocale()[0] or "").lower().startswith(("zh", "chinese")) else "en"


class Settings(BaseSettings):
    """What every program of the project shares."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, env_file=ENV_FILE, extra="ignore", frozen=True)

    input_dir: Path = Field(default=Path("data/input"), description="ComfyUI's input folder, on the shared volume")
    output_dir: Path = Field(default=Path("data/output"), description="ComfyUI's output folder, on the shared volume")
    workflows_dir: Path = Field(
        default=Path("data/workflows"), description="your own workflow templates, beside the shipped ones"
    )
    default_workflow: str = Field(default="txt2img", description='the workflow of the short form {"prompt": "…"}')
    bucket: str | None = Field(default=None, description="the bucket's name; with it, S3 is used")
    bucket_dir: Path = Field(
        default=Path("data/bucket"), description="without a bucket: the folder that stands in for one"
    )
    s3_endpoint_url: str | None = Field(default=None, description="the S3 server; AWS when absent")
    s3_public_endpoint_url: str | None = Field(
        default=None, description="the S3 server as readers of links reach it; the endpoint when absent"
    )
    s3_prefix: str = Field(default="jobs", description="what every key in the bucket begins with")
    url_allow: Words = Field(
        default=(), description="hosts that pictures may be fetched from; private ones as `http://host:port`"
    )
    language: Language = Field(
        default_factory=_speak, description="`en` or `zh`: messages and hints; from the locale when absent"
    )

    @field_validator("*", mode="before")
    @classmethod
    def _split(cls, value: object, info: ValidationInfo) -> object:
        is_list = info.field_name is not None and get_origin(cls.model_fields[info.field_name].annotation) is tuple
        return tuple(value.replace(",", " ").split()) if isinstance(value, str) and is_list else value

    @property
    def folders(self) -> Folders:
        """The operator's own links are resolved here, once; below, none is followed."""
        return Folders(input=os.path.realpath(self.input_dir), output=os.path.realpath(self.output_dir))


class WatcherSettings(Settings):
    """The watcher's, beside ComfyUI."""

    comfyui_url: str = Field(default="http://127.0.0.1:8188", description="the ComfyUI that this watcher serves")
    comfyui_restart: str | None = Field(
        default=None, description="a command that restarts ComfyUI when it answers but no longer executes"
    )
    watcher_name: str | None = Field(
        default=None, description="which ComfyUI this watcher serves; host name and ComfyUI URL when absent"
    )
    window: int = Field(default=2, ge=1, le=100, description="jobs inside ComfyUI at once")
    settle_s: float = Field(default=5, gt=0, description="a torn job file is rejected when unchanged for this long")
    picture_wait_s: float = Field(default=60, gt=0, description="how long a named picture is waited for")
    lease_s: float = Field(default=30, ge=5, description="a watcher silent for this long is dead")
    grace_s: float = Field(default=20, gt=0, description="how long a stop may take after SIGTERM")
    scan_s: float = Field(default=5, gt=0, description="how often the folders are looked through, events or not")
    watch: Literal["auto", "events", "polling"] = Field(
        default="auto", description="`auto`, `events` or `polling`: how new files are noticed"
    )
    url_lifetime_s: int = Field(
        default=604_800, ge=0, le=604_800, description="how long the links in a status document live; 0 for no links"
    )
    s3_input_prefixes: Words = Field(
        default=(), description="`s3://bucket/prefix/` places that pictures may be fetched from"
    )
    allow_graphs: bool = Field(default=True, description="whether full graphs are taken, or named workflows only")
    node_deny: Words = Field(default=(), description="node classes that nobody may use")

    @field_validator("comfyui_url")
    @classmethod
    def _check_url(cls, value: str) -> str:
        if not value.startswith(("http://", "https://")):
            raise ValueError("must begin with http:// or https://")
        return value.rstrip("/")

    @property
    def server(self) -> str:
        """The name of the ComfyUI in leases and records: a hint for speed, since 127.0.0.1 is another one in each container."""
        return self.watcher_name or f"{socket.gethostname()} {mask_urls(self.comfyui_url)}"


class AdapterSettings(Settings):
    """The adapter's, beside Dify."""

    listen: str = Field(default="127.0.0.1:8080", description="the adapter's address, `host:port`")
    public_url: str | None = Field(
        default=None, description="the adapter as browsers reach it; made of its own address when absent"
    )
    dify_url: str | None = Field(
        default=None, description="the adapter as Dify reaches it, for flows and OpenAPI; the public one when absent"
    )
    api_keys: Words = Field(
        default=(), description="`name:key` pairs, or `name@owner:key:submit+graph+admin`; `handoff keys new` makes one"
    )
    api_keys_file: Path | None = Field(default=None, description="a file with the same, one a line")
    allow_anonymous: bool = Field(
        default=False, description="without keys: listen on other addresses than loopback, too, for everybody"
    )
    status_source: Literal["volume", "bucket"] = Field(
        default="volume", description="where jobs are read from; with `bucket` no output folder is needed"
    )
    link_secrets: Words = Field(
        default=(),
        description="what links to outputs are signed with; the first signs, all are accepted. Made of the keys when absent",
    )
    link_lifetime_s: int = Field(default=604_800, ge=60, description="how long links to outputs live")
    body_limit: int = Field(default=64 << 20, ge=1 << 16, description="the most bytes that a request may have")
    requests_per_key: int = Field(
        default=2_000, ge=1, description="the most requests of one owner at the same time, long polls among them"
    )
    jobs_per_key: int = Field(default=1_000, ge=1, description="the most unfinished jobs of one owner")
    generate_timeout_s: float = Field(default=100, gt=0, description="how long `POST /generate` waits for the picture")
    cors_origins: Words = Field(
        default=(), description="web pages that may call this API from a browser, `https://host`"
    )

    @field_validator("public_url", "dify_url")
    @classmethod
    def _check_urls(cls, value: str | None) -> str | None:
        if value is not None and not value.startswith(("http://", "https://")):
            raise ValueError("must begin with http:// or https://")
        return value.rstrip("/") if value else None

    @field_validator("listen")
    @classmethod
    def _check_listen(cls, value: str) -> str:
        host, colon, port = value.rpartition(":")
        if not (colon and host and port.isascii() and port.isdigit() and int(port) < 1 << 16):
            raise ValueError("must be host:port, such as 0.0.0.0:8080 or [::1]:8080")
        return value

    @property
    def host(self) -> str:
        return self.listen.rpartition(":")[0].strip("[]")

    @property
    def port(self) -> int:
        return int(self.listen.rpartition(":")[2])

    @property
    def base_url(self) -> str:
        """Of the links that a browser opens."""
        host = "127.0.0.1" if self.host in {"0.0.0.0", "::"} else self.host  # noqa: S104 - compared, not bound
        return self.public_url or f"http://{f'[{host}]' if ':' in host else host}:{self.port}"


PROGRAMS: tuple[type[Settings], ...] = (WatcherSettings, AdapterSettings)
"""Every program's settings: together all the names that exist."""


def name_of(field: str) -> str:
    return PREFIX + field.upper()


Program = TypeVar("Program", bound=Settings)


def load(program: type[Program], environment: Mapping[str, str] = os.environ) -> Program:
    """Raises SettingsError, which names every wrong or unknown setting."""
    written = {name: value for name, value in dotenv_values(ENV_FILE).items() if value is not None}
    for name, value in written.items():
        if name.startswith("AWS_"):  # boto3 does not read .env
            os.environ.setdefault(name, value)
    known = {name_of(field) for settings in PROGRAMS for field in settings.model_fields}
    unknown = sorted({name for name in (*environment, *written) if name.startswith(PREFIX)} - known)
    if unknown:
        raise SettingsError(
            "\n".join(f"{name}: no such setting. The nearest: {nearest(name, known)}" for name in unknown)
        )
    try:
        return program()
    except ValidationError as error:
        raise SettingsError("\n".join(_explain(line["loc"], line["msg"]) for line in error.errors())) from None


def _explain(place: tuple[int | str, ...], problem: str) -> str:
    return f"{name_of(str(place[0]))}: {problem.removeprefix('Value error, ')}"


def make_folders(settings: Settings) -> Folders:
    """Makes the default folders; those that were set must exist. Raises SettingsError with the remedy."""
    _find_mount(settings, "input_dir")
    _find_mount(settings, "output_dir")
    _make(settings, settings.folders.make)
    return settings.folders


def make_input_folders(settings: Settings) -> Folders:
    """The same of `input/` alone, for who only reads `output/`, or does not have it. Raises SettingsError."""
    _find_mount(settings, "input_dir")
    _make(settings, settings.folders.make_input)
    return settings.folders


def _find_mount(settings: Settings, field: Literal["input_dir", "output_dir"]) -> None:
    path: Path = getattr(settings, field)
    if path.is_dir():
        return
    if field in settings.model_fields_set:
        raise SettingsError(
            f"{name_of(field)}: {path} is no folder. Mount ComfyUI's {field.removesuffix('_dir')} folder there, or make it"
        )
    path.mkdir(parents=True)


def _make(settings: Settings, make: Callable[[], None]) -> None:
    folders = settings.folders
    try:
        make()
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise SettingsError(f"{error.filename} is a symbolic link: make it a folder, or mount one there") from None
        raise SettingsError(
            f"{error.filename}: {error.strerror}. The watcher's user needs to write in {folders.input} and"
            f" {folders.output}: make both group-writable (chmod g+rwxs) and give the watcher that group"
        ) from error
