"""References of every kind become one published file, or say why not; real folders, real pictures, real decoding."""

import base64
import errno
import hashlib
import io
import os
import shutil
import socket
import struct
import threading
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from handoff.failures import Failure, Permanent, Reason, Transient, Unavailable
from handoff.pictures import MAX_FRAMES, Limits, NotYet, Picture, Pictures, shown


def draw(kind: str, size: tuple[int, int] = (48, 32), mode: str = "RGB", **options: Any) -> bytes:
    """A picture with enough texture that no format shrinks it to nothing."""
    image = Image.effect_noise(size, 80).convert(mode)
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def animate(kind: str, frames: int = 3, size: tuple[int, int] = (48, 32)) -> bytes:
    images = [Image.effect_noise(size, 80).convert("RGB") for _ in range(frames)]
    buffer = io.BytesIO()
    images[0].save(buffer, kind, save_all=True, append_images=images[1:])
    return buffer.getvalue()


def chunk(name: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


def bomb(width: int, height: int) -> bytes:
    """A PNG whose header claims a huge picture, and whose data could fill a part of it."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    data = zlib.compress(bytes(10_000_000), 9)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


FORMATS = [("PNG", "png", "image/png"), ("JPEG", "jpg", "image/jpeg"), ("WEBP", "webp", "image/webp"), ("GIF", "gif", "image/gif"), ("BMP", "bmp", "image/bmp"), ("TIFF", "tiff", "image/tiff")]  # fmt: skip
PNG = draw("PNG")


class Place:
    """An input folder as a watcher has it."""

    def __init__(self, root: Path) -> None:
        self.input = root / "input"
        self.uploads = self.input / "uploads"
        self.scratch = self.input / ".handoff" / "w-0123456789abcdef"
        self.uploads.mkdir(parents=True)
        self.scratch.mkdir(parents=True)

    def pictures(self, **options: Any) -> Pictures:
        return Pictures(self.input, self.scratch, **options)

    def resolve(self, reference: str, **options: Any) -> Picture:
        """Resolves and checks what must hold after every success: the file, its name, its bytes, and no litter."""
        picture = self.pictures(**options).resolve(reference)
        stored = (self.input / picture.name).read_bytes()
        assert picture.name.startswith(f"uploads/{picture.sha256}.")
        assert hashlib.sha256(stored).hexdigest() == picture.sha256
        assert list(self.scratch.iterdir()) == []
        return picture

    def stored(self) -> list[str]:
        return sorted(os.listdir(self.uploads))

    def refuse(self, reference: str, **options: Any) -> Failure:
        before = self.stored()
        with pytest.raises(Failure) as caught:
            self.pictures(**options).resolve(reference)
        assert self.stored() == before
        assert list(self.scratch.iterdir()) == []
        return caught.value

    def not_yet(self, reference: str) -> NotYet:
        before = self.stored()
        with pytest.raises(NotYet) as caught:
            self.pictures().resolve(reference)
        assert self.stored() == before
        assert list(self.scratch.iterdir()) == []
        return caught.value


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


@pytest.mark.parametrize(("kind", "extension", "media_type"), FORMATS)
def test_each_format_is_published_unchanged_under_its_hash(
    kind: str, extension: str, media_type: str, place: Place
) -> None:
    content = draw(kind)
    (place.input / "any name.dat").write_bytes(content)
    digest = hashlib.sha256(content).hexdigest()
    assert place.resolve("any name.dat") == Picture(
        name=f"uploads/{digest}.{extension}", sha256=digest, media_type=media_type, width=48, height=32
    )
    assert (place.input / f"uploads/{digest}.{extension}").read_bytes() == content
    assert (place.input / "any name.dat").read_bytes() == content


@pytest.mark.parametrize(
    ("mode", "kind"),
    [("L", "PNG"), ("1", "PNG"), ("I;16", "PNG"), ("P", "PNG"), ("RGBA", "PNG"), ("L", "JPEG"), ("CMYK", "JPEG"), ("RGBA", "WEBP"), ("1", "TIFF"), ("L", "BMP")],
)  # fmt: skip
def test_tiny_pictures_of_other_modes_stay_as_they_are(mode: str, kind: str, place: Place) -> None:
    content = draw(kind, (8, 6), mode)
    (place.input / "tiny").write_bytes(content)
    picture = place.resolve("tiny")
    assert (picture.width, picture.height) == (8, 6)
    assert (place.input / picture.name).read_bytes() == content


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG", "TIFF"])
def test_pictures_with_several_frames(kind: str, place: Place) -> None:
    (place.input / "moving").write_bytes(animate(kind))
    assert place.resolve("moving").width == 48
    limits = Limits(pixels=48 * 32 * 2)
    assert "more than 3072 pixels" in str(place.refuse("moving", limits=limits))


def test_a_photo_with_a_second_picture_is_a_jpeg(place: Place) -> None:
    (place.input / "phone.jpg").write_bytes(animate("MPO", 2))
    picture = place.resolve("phone.jpg", limits=Limits(pixels=48 * 32))  # the second one counts for nobody
    assert (picture.media_type, picture.name[-4:]) == ("image/jpeg", ".jpg")


@pytest.mark.parametrize("name", ["cat.png", "uploads/cat.png", " cat.png\n", "猫 1.png", "Bild\u202f1.png", "a:b.png", "job.json"])  # fmt: skip
def test_names_in_both_folders(name: str, place: Place) -> None:
    (place.input / name.strip()).write_bytes(PNG)
    assert place.resolve(name).sha256 == hashlib.sha256(PNG).hexdigest()


def test_the_same_content_is_stored_once(place: Place) -> None:
    (place.input / "a.png").write_bytes(PNG)
    (place.input / "b.png").write_bytes(PNG)
    first = place.resolve("a.png")
    inode = (place.input / first.name).stat().st_ino
    data_url = "data:image/png;base64," + base64.b64encode(PNG).decode()
    assert [place.resolve(other) for other in ("b.png", first.name, data_url)] == [first] * 3
    assert place.stored() == [Path(first.name).name]
    assert (place.input / first.name).stat().st_ino == inode


def test_whoever_comes_second_makes_the_first_one_s_rename_durable(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    (place.input / "a.png").write_bytes(PNG)
    place.resolve("a.png")
    synced: list[int] = []
    real = os.fsync

    def fsync(descriptor: int) -> None:
        synced.append(os.fstat(descriptor).st_ino)
        real(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    place.resolve("a.png")
    assert synced == [place.uploads.stat().st_ino]


def test_a_deleted_original_does_no_harm(place: Place) -> None:
    (place.input / "a.png").write_bytes(PNG)
    picture = place.resolve("a.png")
    (place.input / "a.png").unlink()
    assert place.resolve(picture.name) == picture


def test_an_upload_under_a_false_hash_is_copied_to_the_true_one(place: Place) -> None:
    false = f"uploads/{'0' * 64}.png"
    (place.input / false).write_bytes(PNG)
    assert place.resolve(false).sha256 == hashlib.sha256(PNG).hexdigest()


def test_a_torn_or_foreign_file_under_the_true_hash_is_replaced(place: Place, tmp_path: Path) -> None:
    digest = hashlib.sha256(PNG).hexdigest()
    target = place.uploads / f"{digest}.png"
    (place.input / "a.png").write_bytes(PNG)
    target.write_bytes(PNG[:-1])
    place.resolve("a.png")
    target.unlink()
    small = draw("PNG", (20, 20))
    (place.input / "small.png").write_bytes(small)
    link = place.uploads / f"{hashlib.sha256(small).hexdigest()}.png"
    link.symlink_to(f"{tmp_path}/victim".rjust(len(small), "/"))  # as a link it has the picture's size
    assert link.lstat().st_size == len(small)
    place.resolve("small.png")
    assert not link.is_symlink()


def test_uploads_are_readable_for_comfyui_s_user(place: Place) -> None:
    before = os.umask(0o002)
    try:
        (place.input / "a.png").write_bytes(PNG)
        (place.input / "a.png").chmod(0o600)
        assert (place.input / place.resolve("a.png").name).stat().st_mode & 0o777 == 0o664
    finally:
        os.umask(before)


def test_many_at_once_share_one_file(place: Place) -> None:
    (place.input / "a.png").write_bytes(PNG)
    watchers = [place.pictures() for _ in range(3)]
    with ThreadPoolExecutor(12) as pool:
        found = set(pool.map(lambda turn: watchers[turn % 3].resolve("a.png"), range(60)))
    assert len(found) == 1
    assert place.stored() == [f"{hashlib.sha256(PNG).hexdigest()}.png"]


@pytest.mark.parametrize(
    "name",
    [
        *["", ".", "..", "/", "/etc/passwd", "../secret.png", "uploads/../secret.png", "uploads/../../secret.png"],
        *["./cat.png", "uploads//cat.png", "uploads/", ".handoff/cat.png", ".hidden.png", "uploads/.hidden.png"],
        *["rejected/cat.png", "sub/cat.png", "uploads/sub/cat.png", "input/cat.png", "Uploads/cat.png"],
        *["..\\secret.png", "uploads\\cat.png", "C:\\cat.png", "cat\0.png", "cat\n.png", "\udcff.png", "x" * 256],
    ],
)
def test_names_lead_nowhere_else(name: str, place: Place) -> None:
    for file in (
        "sub/cat.png",
        "uploads/sub/cat.png",
        ".hidden.png",
        "../secret.png",
        "uploads/.hidden.png",
        "input/cat.png",
    ):
        (place.input / file).parent.mkdir(exist_ok=True)
        (place.input / file).write_bytes(PNG)
    with pytest.raises(Failure) as caught:
        place.pictures().resolve(name)
    assert caught.value.reason is Reason.BAD_PICTURE
    str(caught.value.details["picture"]).encode()


@given(st.text(min_size=1))
def test_any_name_is_refused_or_missing(tmp_path_factory: pytest.TempPathFactory, name: str) -> None:
    place = Place(tmp_path_factory.mktemp("place"))
    with pytest.raises((Failure, NotYet)):
        place.pictures().resolve(name)
    shown(name).encode()


def link(place: Place, path: Path) -> None:
    (place.input.parent / "secret.png").write_bytes(PNG)
    path.symlink_to(place.input.parent / "secret.png")


def bind(_: Place, path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))


@pytest.mark.parametrize(
    ("make", "problem"),
    [
        (link, "it is a link"),
        (lambda _, path: path.symlink_to("/dev/zero"), "it is a link"),
        (lambda _, path: path.symlink_to("nowhere"), "it is a link"),
        (lambda _, path: os.mkfifo(path), "not a regular file"),
        (lambda _, path: path.mkdir(), "not a regular file"),
        (bind, "not a regular file"),
    ],
    ids=["link", "device link", "dead link", "pipe", "folder", "socket"],
)
@pytest.mark.parametrize("name", ["x.png", "uploads/x.png"])
def test_only_regular_files_are_opened(
    make: Callable[[Place, Path], None], problem: str, name: str, place: Place
) -> None:
    make(place, place.input / name)
    before = len(os.listdir("/proc/self/fd"))
    failure = place.refuse(name)
    assert failure.reason is Reason.BAD_PICTURE
    assert problem in str(failure)
    assert len(os.listdir("/proc/self/fd")) == before


def test_uploads_itself_may_not_be_a_link(place: Place, tmp_path: Path) -> None:
    place.uploads.rmdir()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "x.png").write_bytes(PNG)
    place.uploads.symlink_to(tmp_path / "elsewhere")
    assert "it is a link" in str(place.refuse("uploads/x.png"))


def test_a_missing_picture_is_waited_for(place: Place) -> None:
    not_yet = place.not_yet("cat.png")
    failure = not_yet.failure(60)
    assert (not_yet.picture, failure.reason) == ("cat.png", Reason.MISSING_PICTURE)
    assert failure.details == {"picture": "cat.png", "seconds": 60}
    (place.input / "cat.png").write_bytes(PNG)
    place.resolve("cat.png")


MANY = [*((kind, draw(kind)) for kind, _, _ in FORMATS), *((f"{kind} animation", animate(kind)) for kind in ("GIF", "WEBP", "PNG"))]  # fmt: skip


@pytest.mark.parametrize(("kind", "content"), MANY, ids=[kind for kind, _ in MANY])
def test_a_growing_picture_is_not_taken_before_its_end(kind: str, content: bytes, place: Place) -> None:
    path = place.input / "growing"
    early = {"PNG": 1, "JPEG": 1, "GIF": 1}.get(kind.split(maxsplit=1)[0], 2)
    for size in sorted({0, 1, 7, 15, 16, 40, len(content) // 3, len(content) // 2, len(content) - early}):
        path.write_bytes(content[:size])
        failure = place.not_yet("growing").failure(60)
        assert failure.reason is Reason.BAD_PICTURE
    path.write_bytes(content)
    place.resolve("growing")


@pytest.mark.parametrize(("kind", "content"), [row for row in MANY if row[0] not in ("BMP", "TIFF")])
def test_a_file_that_got_its_size_before_its_content_is_waited_for(kind: str, content: bytes, place: Place) -> None:
    path = place.input / "filling"
    for part in (0, len(content) // 3, len(content) * 9 // 10):
        path.write_bytes(content[:part] + bytes(len(content) - part))
        assert place.not_yet("filling").problem, kind
    path.write_bytes(content)
    place.resolve("filling")


def test_a_picture_that_changes_while_it_is_read_is_waited_for(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    path = place.input / "cat.png"
    path.write_bytes(PNG)
    real = os.read

    def read_and_touch(descriptor: int, size: int) -> bytes:
        part = real(descriptor, size)
        if not part:
            os.utime(path, ns=(1, 1))
        return part

    monkeypatch.setattr(os, "read", read_and_touch)
    assert place.not_yet("cat.png").problem == "it is still being written"


def test_a_picture_that_may_not_be_read_is_waited_for(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.open

    def open_unless_cat(path: Any, *arguments: Any, **options: Any) -> int:
        if path == "cat.png":
            raise PermissionError(errno.EACCES, "Permission denied")
        return real(path, *arguments, **options)

    monkeypatch.setattr(os, "open", open_unless_cat)
    assert "chmod g+r" in str(place.not_yet("cat.png").failure(60))


@pytest.mark.parametrize("content", [b'{"prompt": "a cat", "width": 768}', b"<svg xmlns='http://www.w3.org/2000/svg'/>", b"GARBAGE" * 99, b"%PDF-1.7 ........................"])  # fmt: skip
def test_what_is_no_picture_is_refused_at_once(content: bytes, place: Place) -> None:
    (place.input / "cat.png").write_bytes(content)
    failure = place.refuse("cat.png")
    assert failure.reason is Reason.BAD_PICTURE
    assert "not a PNG" in str(failure)


def test_formats_that_pillow_knows_and_comfyui_need_not(place: Place) -> None:
    (place.input / "x").write_bytes(draw("PPM"))
    assert "not a PNG" in str(place.refuse("x"))


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")  # as the module does outside of tests
@pytest.mark.parametrize(("width", "height"), [(50_000, 50_000), (10_001, 10_000), (2_000_000_000, 1)])
def test_bombs_are_refused_before_they_are_decoded(width: int, height: int, place: Place) -> None:
    (place.input / "bomb.png").write_bytes(bomb(width, height))
    failure = place.refuse("bomb.png")
    assert failure.reason is Reason.BAD_PICTURE
    assert "more than 100000000 pixels" in str(failure)


def test_a_gif_frame_larger_than_its_screen_counts(place: Place) -> None:
    content = bytearray(draw("GIF", (4, 4)))
    frame = content.rindex(b",\0\0\0\0")
    content[frame + 5 : frame + 9] = struct.pack("<HH", 60_000, 60_000)
    (place.input / "bomb.gif").write_bytes(bytes(content))
    assert "more than 100000000 pixels" in str(place.refuse("bomb.gif"))


def test_too_many_frames(place: Place) -> None:
    (place.input / "long.gif").write_bytes(animate("GIF", MAX_FRAMES + 1, (4, 4)))
    assert f"more than {MAX_FRAMES} frames" in str(place.refuse("long.gif"))


def test_too_many_bytes(place: Place) -> None:
    (place.input / "a.png").write_bytes(PNG)
    data_url = "data:;base64," + base64.b64encode(PNG).decode()
    for reference in ("a.png", data_url):
        failure = place.refuse(reference, limits=Limits(bytes=len(PNG) - 1))
        assert failure.reason is Reason.BAD_PICTURE
        assert f"larger than {len(PNG) - 1} bytes" in str(failure)
        place.resolve(reference, limits=Limits(bytes=len(PNG)))


@given(st.binary(max_size=200), st.sampled_from([draw(kind) for kind, _, _ in FORMATS]), st.integers(0, 400))
def test_damaged_pictures_never_stop_the_service(
    tmp_path_factory: pytest.TempPathFactory, noise: bytes, content: bytes, at: int
) -> None:
    place = Place(tmp_path_factory.mktemp("place"))
    data = content[:at] + noise + content[at + len(noise) :]
    try:
        place.resolve("data:image/png;base64," + base64.b64encode(data).decode())
    except Failure as failure:
        assert failure.reason is Reason.BAD_PICTURE  # noqa: PT017 - most damage is refused, some cannot be seen


BASE64 = base64.b64encode(draw("PNG", (5, 5))).decode()


@pytest.mark.parametrize(
    "reference",
    [
        f"data:image/png;base64,{BASE64}",
        f"data:;base64,{BASE64}",
        f"data:text/plain;charset=utf-8;base64,{BASE64}",
        f"DATA:image/png;BASE64,{BASE64}",
        f"  data:image/png;base64,{BASE64}\n",
        f"data:image/png;base64,{BASE64.rstrip('=')}",
        "data:image/png;base64," + "\r\n".join(BASE64[i : i + 76] for i in range(0, len(BASE64), 76)),
        "data:image/png;base64," + BASE64.replace("+", "%2B").replace("/", "%2F").replace("=", "%3D"),
    ],
)
def test_data_urls(reference: str, place: Place) -> None:
    assert place.resolve(reference).width == 5


@pytest.mark.parametrize(
    "reference",
    [
        *["data:", "data:,", "data:image/png,%89PNG", f"data:image/png;{BASE64}", f"data:{'x' * 500};base64,{BASE64}"],
        *["data:;base64,", "data:;base64,!!!!", f"data:;base64,{BASE64}!", f"data:;base64,{BASE64}\ud800"],
        *["data:;base64,AAAAA", f"data:;base64,{BASE64[:60]}", f"data:;base64,{'猫' * 40}", "data:;base64,%"],
    ],
)
def test_bad_data_urls(reference: str, place: Place) -> None:
    failure = place.refuse(reference)
    assert failure.reason is Reason.BAD_PICTURE
    assert len(str(failure)) < 300


@pytest.fixture
def server() -> Iterator[tuple[str, dict[str, bytes]]]:
    """A real web server: its origin, and the files it has."""
    files: dict[str, bytes] = {}

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            content = files.get(self.path.partition("?")[0])
            self.send_response(404 if content is None else 200)
            self.send_header("Content-Length", str(len(content or b"")))
            self.end_headers()
            self.wfile.write(content or b"")

        def log_message(self, *_: Any) -> None:
            return

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as listening:
        thread = threading.Thread(target=listening.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{listening.server_port}", files
        listening.shutdown()
        thread.join()


def test_urls(place: Place, server: tuple[str, dict[str, bytes]]) -> None:
    origin, files = server
    files.update({"/cat.png": PNG, "/torn.png": PNG[:-30], "/page": b"<html>404 in disguise</html>"})
    assert (
        place.resolve(f"{origin}/cat.png?sign=secret\n", url_allow=[origin]).sha256 == hashlib.sha256(PNG).hexdigest()
    )
    for path, reason in {
        "/torn.png": Reason.BAD_PICTURE,
        "/page": Reason.BAD_PICTURE,
        "/gone.png": Reason.PICTURE_NOT_FETCHED,
    }.items():
        failure = place.refuse(f"{origin}{path}?sign=secret", url_allow=[origin])
        assert failure.reason is reason
        assert f"{origin}{path}" in str(failure)
        assert "secret" not in str(failure)
    assert place.refuse(f"{origin}/cat.png").reason is Reason.FORBIDDEN_URL
    failure = place.refuse(f"{origin}/cat.png", url_allow=[origin], limits=Limits(bytes=10))
    assert failure.reason is Reason.BAD_PICTURE


@pytest.mark.parametrize(
    "reference", ["file:///etc/passwd", "ftp://example.com/a.png", "http://169.254.169.254/", "x://"]
)
def test_other_urls_are_forbidden(reference: str, place: Place) -> None:
    assert place.refuse(reference).reason is Reason.FORBIDDEN_URL


def test_a_list_that_cannot_be_read_is_found_at_the_start(place: Place) -> None:
    with pytest.raises(ValueError, match="write http://10"):
        place.pictures(url_allow=["10.0.0.5"])


class Bucket:
    """What `download` promises, over a dictionary; any error can be put in the place of an object."""

    def __init__(self, objects: dict[str, bytes | Exception]) -> None:
        self.objects = objects
        self.asked: list[str] = []

    def download(self, bucket: str, key: str, path: Path, limit: int) -> None:
        assert limit == Limits().bytes
        self.asked.append(f"{bucket}/{key}")
        found = self.objects[f"{bucket}/{key}"]
        if isinstance(found, Exception):
            raise found
        path.write_bytes(found)


@pytest.mark.parametrize("prefix", ["photos/in", "photos/in/", "s3://photos/in", "photos", "photos/in/猫?#.png"])
def test_objects_below_an_allowed_prefix(prefix: str, place: Place) -> None:
    bucket = Bucket({"photos/in/猫?#.png": PNG})
    place.resolve("s3://photos/in/猫?#.png", s3_prefixes=["other", prefix], download=bucket.download)
    assert bucket.asked == ["photos/in/猫?#.png"]


@pytest.mark.parametrize(
    "reference",
    [
        *[
            "s3://photos/input/a.png",
            "s3://photos/in/",
            "s3://photos/in/../a.png",
            "s3://photos//in/a",
        ],
        *["s3://photos/in/./a.png", "s3://photos/in//a.png", "s3://photosx/in/a.png", "s3://photos/In/a.png", "s3://x"],
        *["s3://photos@evil/in/a.png", "s3:///photos/in/a.png", "s3://photos/in/a\0.png", "s3://photos/in/\ud800"],
    ],
)
def test_other_objects_are_forbidden(reference: str, place: Place) -> None:
    bucket = Bucket({})
    failure = place.refuse(reference, s3_prefixes=["photos/in", ""], download=bucket.download)
    assert failure.reason is Reason.FORBIDDEN_URL
    assert bucket.asked == []


def test_trouble_with_the_bucket(place: Place) -> None:
    bucket = Bucket({"b00/1": Permanent("no such key"), "b00/2": Transient("reset"), "b00/3": Unavailable("away"), "b00/4": PNG[:50]})  # fmt: skip
    for key, reason in {
        "1": Reason.PICTURE_NOT_FETCHED,
        "2": Reason.PICTURE_NOT_FETCHED,
        "4": Reason.BAD_PICTURE,
    }.items():
        assert place.refuse(f"s3://b00/{key}", s3_prefixes=["b00"], download=bucket.download).reason is reason
    with pytest.raises(Unavailable, match="away"):
        place.pictures(s3_prefixes=["b00"], download=bucket.download).resolve("s3://b00/3")
    assert place.refuse("s3://b00/4", s3_prefixes=["b00"]).reason is Reason.FORBIDDEN_URL
    assert place.refuse("s3://b00/4", download=bucket.download).reason is Reason.FORBIDDEN_URL


def test_a_fenced_watcher_publishes_nothing(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    (place.input / "a.png").write_bytes(PNG)
    real = hashlib.sha256

    def fence(*arguments: Any) -> Any:
        shutil.rmtree(place.scratch)
        return real(*arguments)

    monkeypatch.setattr(hashlib, "sha256", fence)
    with pytest.raises(FileNotFoundError):
        place.pictures().resolve("a.png")
    with pytest.raises(FileNotFoundError):
        place.pictures().resolve("a.png")
    assert place.stored() == []


@pytest.mark.parametrize("call", ["fsync", "rename"])
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EIO])
def test_a_full_or_failing_disk_is_not_the_job_s_fault(
    call: str, number: int, place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    (place.input / "a.png").write_bytes(PNG)

    def fail(*_: Any) -> None:
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patch:
        patch.setattr(os, call, fail)
        with pytest.raises(Unavailable):
            place.pictures().resolve("a.png")
    assert place.stored() == []
    assert list(place.scratch.iterdir()) == []
    place.resolve("a.png")


@pytest.mark.parametrize(
    ("reference", "visible"),
    [
        ("cat.png", "cat.png"),
        ("http://u:secret@h.example/a?secret", "http://h.example/a"),
        ("data:image/png;base64,secret", "data:image/png;base64,…"),
        ("data:" + "x" * 500, "data:" + "x" * 55 + ",…"),
        ("s3://photos/in/a.png", "s3://photos/in/a.png"),
        ("\x1b[31m\ud800", "�[31m�"),
        ("x" * 500, "x" * 200),
    ],
)
def test_shown_references(reference: str, visible: str) -> None:
    assert shown(reference) == visible
