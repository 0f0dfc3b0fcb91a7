"""A real S3 server for the tests: the Ceph RADOS Gateway of Debian, on loopback, with its data in memory.

It checks signatures, expiry, Content-MD5 and create-only puts, which the usual doubles do not. The `s3_server` fixture
starts one for the whole test session, shared by all xdist workers. By hand: `python -m tests.servers.rgw`.
"""

import argparse
import contextlib
import datetime as dt
import fcntl
import ipaddress
import json
import os
import random
import secrets
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, NoReturn

import pytest

from tests.servers import debian
from tests.servers.debian import NotInstalledError

# boto3, requests and cryptography are imported where they are used: every test session loads this module.
if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

PROGRAMS = ("ceph-authtool", "monmaptool", "ceph", "ceph-mon", "ceph-osd", "radosgw", "radosgw-admin")
PACKAGES = ("radosgw", "ceph-mon", "ceph-osd")
NOT_INSTALLED = 3
"""Exit status of the script when the programs are missing and cannot be installed."""

CONFIGURATION = """\
[global]
fsid = {fsid}
keyring = {folder}/keyring
mon host = [v2:127.0.0.1:{mon_v2},v1:127.0.0.1:{mon_v1}]
public addr = 127.0.0.1
cluster addr = 127.0.0.1
ms bind port min = 20000
ms bind port max = 31999
auth cluster required = cephx
auth service required = cephx
auth client required = cephx
mon allow pool size one = true
mon data avail crit = 1
mon data avail warn = 2
mon max pg per osd = 1000
# This and the next, and one placement group per pool, bring the start from 12 s to 1.5 s.
paxos propose interval = 0.02
objecter tick interval = 0.5
osd crush chooseleaf type = 0
osd pool default size = 1
osd pool default min size = 1
osd pool default pg num = 1
osd pool default pgp num = 1
osd pool default pg autoscale mode = off
osd objectstore = memstore
memstore device bytes = 4294967296
mon data = {folder}/mon
osd data = {folder}/osd
run dir = {folder}
crash dir = {folder}/log
log file = {folder}/log/$name.log
admin socket =
pid file =

[client.rgw]
rgw data = {folder}/rgw
rgw dns name = localhost
rgw enable ops log = false
rgw enable usage log = false
rgw thread pool size = 64
rgw frontends = beast endpoint=127.0.0.1:{http} ssl_endpoint=127.0.0.1:{https} ssl_certificate={folder}/server.pem ssl_private_key={folder}/server.key
"""


@dataclass(frozen=True, kw_only=True)
class S3Server:
    """How to reach the running server. It takes path-style requests."""

    endpoint: str
    https_endpoint: str
    ca_bundle: str
    access_key: str
    secret_key: str
    region: str = "us-east-1"

    def client(self) -> "S3Client":
        """A plain boto3 client that shares no code with the project's own."""
        import boto3
        from botocore.config import Config

        return boto3.session.Session().client(
            "s3",
            endpoint_url=self.endpoint,
            region_name=self.region,
            aws_access_key_id=self.access_key,
            aws_secret_access_key=self.secret_key,
            config=Config(proxies={}),
        )

    def make_bucket(self) -> str:
        """A new empty bucket; its name is in nobody else's use."""
        name = f"test-{secrets.token_hex(6)}"
        client = self.client()
        try:
            client.create_bucket(Bucket=name)
        finally:
            client.close()
        return name

    def environment(self) -> dict[str, str]:
        return {
            "AWS_ACCESS_KEY_ID": self.access_key,
            "AWS_SECRET_ACCESS_KEY": self.secret_key,
            "AWS_REGION": self.region,
            "HANDOFF_S3_ENDPOINT_URL": self.endpoint,
        }


class StartFailedError(Exception):
    """A program of the server did not come up; the text ends in its log."""


def install() -> None:
    """Raises NotInstalledError."""
    debian.install(PROGRAMS, PACKAGES)


def _installed() -> bool:
    return all(map(shutil.which, PROGRAMS))


class Cluster:
    """One monitor, one memory-backed storage daemon and one gateway, as children of this process.

    They run in the foreground with a parent-death signal: kill -9 of this process ends them too.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.daemons: dict[str, subprocess.Popen[bytes]] = {}
        mon_v2, mon_v1, self.http, self.https = _free_ports(4)
        for name in ("log", "mon", "osd", "rgw"):
            (folder / name).mkdir(parents=True, exist_ok=True)
        self.configuration = folder / "ceph.conf"
        self.fsid = str(uuid.uuid4())
        self.mon_address = f"[v2:127.0.0.1:{mon_v2},v1:127.0.0.1:{mon_v1}]"
        self.configuration.write_text(
            CONFIGURATION.format(
                folder=folder, fsid=self.fsid, mon_v2=mon_v2, mon_v1=mon_v1, http=self.http, https=self.https
            )
        )

    def start(self) -> S3Server:
        """Returns when both ports answer as S3. Raises StartFailedError; call `stop` then too."""
        _write_certificate(self.folder)
        self._make_keys()
        monmap = str(self.folder / "monmap")
        self._run("monmaptool", "--create", "--fsid", self.fsid, "--addv", "a", self.mon_address, monmap)
        self._run("ceph-mon", "--mkfs", "-i", "a", "--monmap", monmap, "--keyring", str(self.folder / "keyring"))
        self._spawn("ceph-mon", "-i", "a")
        osd = str(uuid.uuid4())
        self._run("ceph", "osd", "new", osd)
        self._run("ceph-osd", "-i", "0", "--mkfs", "--osd-uuid", osd)
        self._spawn("ceph-osd", "-i", "0")
        server = S3Server(
            endpoint=f"http://127.0.0.1:{self.http}",
            https_endpoint=f"https://127.0.0.1:{self.https}",
            ca_bundle=str(self.folder / "server.pem"),
            access_key=secrets.token_hex(10).upper(),
            secret_key=secrets.token_hex(20),
        )
        user = ("--uid=tests", "--display-name=tests", "--access-key", server.access_key, "--secret", server.secret_key)
        self._run("radosgw-admin", "-n", "client.rgw", "user", "create", *user)
        self._spawn("radosgw", "-n", "client.rgw")
        self._wait_until_ready(server)
        return server

    def stop(self) -> None:
        """Kills at once: the data is in memory and meant to be lost. The logs stay."""
        for daemon in self.daemons.values():
            daemon.kill()
        for daemon in self.daemons.values():
            daemon.wait()
        for name in ("mon", "osd", "rgw"):
            shutil.rmtree(self.folder / name, ignore_errors=True)

    def failure(self, name: str, happened: str) -> StartFailedError:
        logs = [self.folder / "log" / f"{name}.out", *sorted((self.folder / "log").glob("*.log"))]
        tails = [f"--- {log.name}\n" + "\n".join(_tail(log)) for log in logs if log.exists()]
        return StartFailedError(f"{name} {happened}\n" + "\n".join(tails))

    def _make_keys(self) -> None:
        keyring = str(self.folder / "keyring")
        everything = ("--cap", "mon", "allow *", "--cap", "osd", "allow *")
        self._run("ceph-authtool", "-C", keyring, "-g", "-n", "mon.", "--cap", "mon", "allow *")
        for name in ("client.admin", "client.rgw"):
            self._run("ceph-authtool", keyring, "-g", "-n", name, *everything)
        self._run("ceph-authtool", keyring, "-g", "-n", "osd.0", "--cap", "mon", "allow profile osd", *everything[3:])

    def _run(self, program: str, *arguments: str) -> None:
        command = [program, "-c", str(self.configuration), *arguments]
        if program in {"ceph-authtool", "monmaptool"}:
            command = [program, *arguments]
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60, errors="replace"
        )
        if done.returncode:
            raise self.failure(program, f"ended with {done.returncode}: {done.stdout[-500:]}{done.stderr[-1500:]}")

    def _spawn(self, program: str, *arguments: str) -> None:
        with (self.folder / "log" / f"{program}.out").open("wb") as out:
            self.daemons[program] = subprocess.Popen(
                ["setpriv", "--pdeathsig", "KILL", program, "-f", "-c", str(self.configuration), *arguments],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                start_new_session=True,
            )

    def _wait_until_ready(self, server: S3Server) -> None:
        import requests

        end = time.monotonic() + 90
        with requests.Session() as session:
            session.trust_env = False
            session.verify = server.ca_bundle
            for url in (server.endpoint, server.https_endpoint):
                while True:
                    with contextlib.suppress(requests.RequestException):
                        if "ListAllMyBucketsResult" in session.get(url, timeout=5).text:
                            break
                    for name, daemon in self.daemons.items():
                        if daemon.poll() is not None:
                            raise self.failure(name, f"ended with {daemon.returncode} while starting")
                    if time.monotonic() > end:
                        raise self.failure("radosgw", f"did not answer at {url}")
                    time.sleep(0.05)


def _tail(log: Path) -> list[str]:
    return log.read_text(errors="replace").splitlines()[-30:]


def _free_ports(count: int) -> list[int]:
    """Below the range from which the kernel gives ports to connections, so that none is taken before its daemon starts."""
    with contextlib.ExitStack() as probes:
        ports: list[int] = []
        for port in random.sample(range(20000, 32000), 1000):
            probe = probes.enter_context(socket.socket())
            with contextlib.suppress(OSError):
                probe.bind(("127.0.0.1", port))
                ports.append(port)
            if len(ports) == count:
                return ports
    raise StartFailedError("no free ports between 20000 and 32000")


def _write_certificate(folder: Path) -> None:
    """server.pem and server.key for 127.0.0.1 and localhost, valid for a day, and its own authority."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import NameOID

    now = dt.datetime.now(dt.UTC)
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "S3 server of the tests")])
    addresses = [x509.IPAddress(ipaddress.ip_address("127.0.0.1")), x509.DNSName("localhost")]
    usage = x509.KeyUsage(
        digital_signature=True, content_commitment=False, key_encipherment=False, data_encipherment=False,
        key_agreement=False, key_cert_sign=True, crl_sign=False, encipher_only=False, decipher_only=False,
    )  # fmt: skip
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(hours=1))
        .not_valid_after(now + dt.timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(x509.SubjectAlternativeName(addresses), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    (folder / "server.pem").write_bytes(certificate.public_bytes(pem))
    (folder / "server.key").write_bytes(
        key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )


# --- as a script: one process that owns the daemons ---


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.servers.rgw", description=__doc__)
    parser.add_argument("--folder", type=Path, help="where to run (default: a temporary folder)")
    parser.add_argument("--while-pid", type=int, help="stop when this process has ended")
    chosen = parser.parse_args()
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _leave)
    with tempfile.TemporaryDirectory(prefix="rgw-") as temporary, contextlib.suppress(KeyboardInterrupt):
        try:
            return _serve(chosen.folder or Path(temporary), chosen.while_pid)
        except NotInstalledError as error:
            print(error, file=sys.stderr)
            return NOT_INSTALLED
        except StartFailedError as error:
            print(error, file=sys.stderr)
            return 1
    return 0


def _leave(number: int, _frame: FrameType | None) -> NoReturn:
    sys.exit(128 + number)


def _serve(folder: Path, while_pid: int | None) -> int:
    session = [os.pidfd_open(while_pid)] if while_pid else []
    install()
    cluster = Cluster(folder.absolute())
    try:
        server = cluster.start()
        bucket = server.make_bucket()
        for name, value in (server.environment() | {"HANDOFF_BUCKET": bucket}).items():
            print(f"export {name}={value}", flush=True)
        print(f"# also {server.https_endpoint} with AWS_CA_BUNDLE={server.ca_bundle}; Ctrl-C stops it", flush=True)
        _publish(folder / "server.json", asdict(server))
        daemons = {os.pidfd_open(daemon.pid): name for name, daemon in cluster.daemons.items()}
        ended, _, _ = select.select([*session, *daemons], [], [])
        for fd in ended:
            if fd in daemons:
                raise cluster.failure(daemons[fd], "ended while in use")
        return 0
    finally:
        cluster.stop()


def _publish(path: Path, document: Mapping[str, str]) -> None:
    temporary = path.with_suffix(".part")
    temporary.write_text(json.dumps(document))
    temporary.rename(path)


# --- as a pytest plugin ---


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The first of these tests waits for apt-get and the start."""
    if not _installed():
        for item in items:
            if "s3_server" in getattr(item, "fixturenames", ()):
                item.add_marker(pytest.mark.timeout(1200))


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """The session's one server. Whichever worker asks first starts it; it ends with the session, however that ends."""
    worker = "PYTEST_XDIST_WORKER" in os.environ
    shared = tmp_path_factory.getbasetemp()
    folder = (shared.parent if worker else shared) / "rgw"
    folder.mkdir(exist_ok=True)
    pid = None
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / "server.json").exists() and not (folder / "exit").exists():
            pid = _start_process(folder, session=os.getppid() if worker else os.getpid())
            status = _wait_for_process(folder, pid)
            if status is not None:
                (folder / "exit").write_text(str(status))
    if (folder / "exit").exists():
        said = (folder / "process.out").read_text(errors="replace")
        if int((folder / "exit").read_text()) == NOT_INSTALLED and not os.environ.get("CI"):
            pytest.skip(said)
        pytest.fail(said, pytrace=False)
    yield S3Server(**json.loads((folder / "server.json").read_text()))
    if pid and not worker:
        os.kill(pid, signal.SIGTERM)
        os.waitpid(pid, 0)


def _start_process(folder: Path, *, session: int) -> int:
    """A process of its own, not a child object: it outlives the worker that starts it and ends with the session."""
    command = [sys.executable, "-m", "tests.servers.rgw", "--folder", str(folder), "--while-pid", str(session)]
    root = Path(__file__).resolve().parents[2]
    paths = os.pathsep.join(filter(None, [str(root), os.environ.get("PYTHONPATH")]))
    out = os.open(folder / "process.out", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    try:
        return os.posix_spawn(
            sys.executable,
            command,
            os.environ | {"PYTHONPATH": paths},
            file_actions=[(os.POSIX_SPAWN_DUP2, out, 1), (os.POSIX_SPAWN_DUP2, out, 2)],
            setsid=True,
        )
    finally:
        os.close(out)


def _wait_for_process(folder: Path, pid: int) -> int | None:
    """None when it serves, else its exit status."""
    while not (folder / "server.json").exists():
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.05)
    return None


if __name__ == "__main__":
    sys.exit(main())
