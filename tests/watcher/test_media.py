"""What bytes are, and whether they are all there: every format that was recorded or can be made, whole and damaged."""

import base64
import errno
import io
import struct
import zlib
from typing import Any

import pytest
from PIL import Image

from tests.watcher.recorded import LISTINGS
from watcher.media import ENDS, Broken, Media, examine, fitting_extension


def png(width: int = 3, height: int = 2, *, format_: str = "PNG", **options: Any) -> bytes:
    data = io.BytesIO()
    Image.new("RGB", (width, height), "red").save(data, format_, **options)
    return data.getvalue()


def examined(name: str, data: bytes) -> Media:
    return examine(io.BytesIO(data), name, head=data[:ENDS], tail=data[-ENDS:], size=len(data))


def problem_of(name: str, data: bytes) -> str:
    with pytest.raises(Broken) as caught:
        examined(name, data)
    return str(caught.value)


MP4 = base64.b64decode(LISTINGS["11"]["files"]["case11_00001_.mp4"])
WEBP = base64.b64decode(LISTINGS["09"]["files"]["case09_00001_.webp"])
WAV = b"RIFF" + struct.pack("<I", 40) + b"WAVEfmt " + bytes(32)
WHOLE = {
    "x.png": png(),
    "x.jpg": png(format_="JPEG"),
    "x.gif": png(format_="GIF"),
    "x.webp": WEBP,
    "lossy.webp": png(format_="WEBP"),
    "lossless.webp": png(format_="WEBP", lossless=True),
    "x.mp4": MP4,
    "x.wav": WAV,
}


@pytest.mark.parametrize("name", WHOLE)
def test_a_cut_file_is_found_wherever_it_was_cut(name: str) -> None:
    data = WHOLE[name]
    made = examined(name, data)
    assert (made.width, made.height) in ((3, 2), (64, 64), (None, None))
    for length in sorted({0, 1, 4, 11, len(data) // 3, len(data) // 2, len(data) - 13, len(data) - 1}):
        assert problem_of(name, data[:length]), length


@pytest.mark.parametrize("name", WHOLE)
def test_zeros_after_a_power_loss_are_found(name: str) -> None:
    assert problem_of(name, bytes(len(WHOLE[name])))


def test_a_changed_byte_in_a_png_is_found() -> None:
    data = bytearray(png(200, 200))
    data[len(data) // 2] ^= 1
    assert problem_of("x.png", bytes(data)).startswith("it is damaged")


@pytest.mark.parametrize("rest", [b"\0", b"\0\0", b"\0\0\0", bytes(7), b"\0\0\0\1mdat\x09", b"\0\0\0\1mdat" + bytes(7)])
def test_an_mp4_that_ends_within_the_header_of_a_box_is_cut(rest: bytes) -> None:
    whole = b"\0\0\0\x14ftypisom\0\0\0\0isom\0\0\0\x08moov"
    assert examined("x.mp4", whole).media_type == "video/mp4"
    assert problem_of("x.mp4", whole + rest) == "its end is missing"


class FailingDisk(io.BytesIO):
    """Gives what the head holds; then the disk fails."""

    def read(self, size: int | None = -1, /) -> bytes:
        if self.tell() >= 16:
            raise OSError(errno.EIO, "Input/output error")
        return super().read(size)


@pytest.mark.parametrize("name", ["x.png", "x.jpg", "x.mp4"])
def test_a_disk_that_fails_is_not_the_files_fault(name: str) -> None:
    data = WHOLE[name]
    with pytest.raises(OSError, match="Input/output error"):
        examine(FailingDisk(data), name, head=data[:ENDS], tail=data[-ENDS:], size=len(data))


def test_streamed_wav_is_whole() -> None:
    assert examined("x.wav", b"RIFF\xff\xff\xff\xffWAVEfmt " + bytes(32)).media_type == "audio/wav"


@pytest.mark.timeout(10)
def test_a_picture_too_large_to_decode_is_only_measured() -> None:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 100_000, 100_000, 8, 2, 0, 0, 0))
    made = examined("x.png", b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", b"x") + chunk(b"IEND", b""))
    assert (made.width, made.height) == (100_000, 100_000)


@pytest.mark.parametrize(
    ("name", "data", "expected"),
    [
        ("x.jpg", png(), ("png", "image", "image/png")),
        ("x.PNG", png(), ("png", "image", "image/png")),
        ("x.JPEG", png(format_="JPEG"), ("jpeg", "image", "image/jpeg")),
        ("x", png(), ("png", "image", "image/png")),
        ("x.png;rm", png(), ("png", "image", "image/png")),
        ("x.txt", b"hello", ("txt", "text", "text/plain")),
        ("x.txt", b"ID3 tags are read", ("txt", "text", "text/plain")),
        ("x.txt", b"RIFF", ("txt", "text", "text/plain")),
        ("x.txt", b"RIFF 1 of 3: WAVEform", ("txt", "text", "text/plain")),
        ("x.md", b"%PDF- is how a PDF begins", ("md", "text", "text/markdown")),
        ("x.md", b"GIF89a " + "海".encode() * 30, ("md", "text", "text/markdown")),
        ("x.json", b"GIF89a", ("json", "text", "application/json")),
        ("x.csv", b"the ftyp,box", ("csv", "text", "text/csv")),
        ("x.log", b"RIFFs and other music", ("log", "file", "application/octet-stream")),
        ("x.txt", b"ID3\4\0\0\0\0\0\x10", ("mp3", "audio", "audio/mpeg")),
        ("x.txt", b"%PDF-1.7\n%\xe2\xe3\xcf\xd3", ("pdf", "file", "application/pdf")),
        ("x.txt", b"\0\1", ("txt", "file", "application/octet-stream")),
        ("x.json", b"{}", ("json", "text", "application/json")),
        ("x.svg", b"<svg/>", ("svg", "image", "image/svg+xml")),
        ("x.html", b"<p>", ("html", "file", "application/octet-stream")),
        ("x.海报", b"x", ("bin", "file", "application/octet-stream")),
        ("x", b"x", ("bin", "file", "application/octet-stream")),
        ("x.glb", b"glTF\2\0\0\0", ("glb", "model", "model/gltf-binary")),
        ("x.safetensors", b"\x08\0\0\0\0\0\0\0{}", ("safetensors", "model", "application/octet-stream")),
        ("x.mov", b"\0\0\0\x14ftypqt  \0\0\0\0qt  \0\0\0\x08moov", ("mov", "video", "video/quicktime")),
        ("x.usdz", b"PK\x03\x04", ("usdz", "model", "model/vnd.usdz+zip")),
        ("x.zip", b"PK\x03\x04", ("zip", "file", "application/zip")),
        ("x.tar.gz", b"\x1f\x8b", ("gz", "file", "application/octet-stream")),
    ],
)
def test_the_bytes_say_what_it_is_and_then_the_name(name: str, data: bytes, expected: tuple[str, str, str]) -> None:
    made = examined(name, data)
    assert (fitting_extension(name, made.media_type), made.kind, made.media_type) == expected
