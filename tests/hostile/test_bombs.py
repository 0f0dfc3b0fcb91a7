"""Small files that are meant to cost much: each is refused with a reason, in little time and memory, and the next job does not wait."""

import io
import struct
import time
import zlib
from collections.abc import Callable
from functools import cache

from PIL import Image

from tests.e2e.conftest import StartWatcher
from tests.e2e.jobs import canvas
from tests.e2e.promises import check_promises
from tests.e2e.volume import Volume
from tests.figures import Note
from tests.hostile.test_corpus import memory_mib
from tests.servers.simulator import Simulator

MOST_MIB = 700  # 100 million pixels are allowed, and decoded they take 300 to 400
DELAY_S = 20.0


def png(width: int, height: int, *chunks: tuple[bytes, bytes], data: bytes = b"") -> bytes:
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    parts = [(b"IHDR", header), *chunks, (b"IDAT", data), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body)) for kind, body in parts
    )


@cache
def zeros(mib: int) -> bytes:
    return zlib.compress(bytes(mib << 20), 1)


def huge_png() -> bytes:
    return png(200_000, 200_000, data=zeros(1))


def widest_png() -> bytes:
    return png(2**31 - 1, 2**31 - 1)


def thin_png() -> bytes:
    return png(2**31 - 1, 1, data=zeros(64))


def unpacking_png() -> bytes:
    """The pixels are few, and what unpacks to them has no end."""
    return png(8, 8, data=zeros(64))[:-20]


def text_png() -> bytes:
    return png(8, 8, (b"zTXt", b"Comment\0\0" + zeros(64)), data=b"")


def profile_png() -> bytes:
    return png(8, 8, (b"iCCP", b"icc\0\0" + zeros(64)), data=b"")


def many_texts_png() -> bytes:
    return png(8, 8, *[(b"zTXt", b"Comment\0\0" + zeros(1))] * 300)


def many_chunks_png() -> bytes:
    return png(8, 8, *[(b"tEXt", b"a\0b")] * 100_000)


def scans_jpeg() -> bytes:
    """A few bytes more for each walk over all pixels: unrefused this takes minutes."""
    file = io.BytesIO()
    Image.new("L", (5000, 5000), 128).save(file, "JPEG", progressive=True)
    data = file.getvalue()
    return data[:-2] + data[data.rindex(b"\xff\xda") : -2] * 2000 + data[-2:]


def widest_jpeg() -> bytes:
    return b"\xff\xd8\xff\xc0\x00\x11\x08\xff\xff\xff\xff\x03\x01\x11\x00\x02\x11\x01\x03\x11\x01" + b"\xff\xd9"


def frames_gif() -> bytes:
    head = b"GIF89a" + struct.pack("<HHBBB", 60_000, 60_000, 0x80, 0, 0) + b"\0\0\0\xff\xff\xff"
    frame = b"\x2c" + struct.pack("<HHHHB", 0, 0, 1, 1, 0) + b"\x02\x02\x44\x01\x00"
    return head + frame * 20_000 + b";"


def small_frames_gif() -> bytes:
    return frames_gif().replace(struct.pack("<HH", 60_000, 60_000), struct.pack("<HH", 8, 8))


def huge_webp() -> bytes:
    body = b"WEBPVP8X" + struct.pack("<I", 10) + b"\x02\0\0\0" + b"\xff\xff\xff" * 2 + b"ANIM\6\0\0\0" + bytes(6)
    return b"RIFF" + struct.pack("<I", len(body)) + body


def circular_tiff() -> bytes:
    """A directory that names itself as the next one."""
    return b"II*\0\x08\0\0\0" + struct.pack("<H", 0) + struct.pack("<I", 8)


def many_tags_tiff() -> bytes:
    entry = struct.pack("<HHII", 256, 4, 2**31, 8)
    return b"II*\0\x08\0\0\0" + struct.pack("<H", 65_535) + entry * 65_535 + bytes(4)


def packed_tiff() -> bytes:
    file = io.BytesIO()
    Image.new("1", (20_000, 20_000)).save(file, "TIFF", compression="tiff_lzw")
    return file.getvalue()


def huge_bmp() -> bytes:
    return (
        b"BM"
        + struct.pack("<IHHI", 54, 0, 0, 54)
        + struct.pack("<IiiHHIIiiII", 40, 2**31 - 1, -(2**31), 1, 24, 0, 0, 0, 0, 0, 0)
    )


def svg() -> bytes:
    lol = "".join(f'<!ENTITY l{n} "{f"&l{n - 1};" * 10}">' for n in range(1, 10))
    return f'<?xml version="1.0"?><!DOCTYPE svg [<!ENTITY l0 "ha">{lol}]><svg xmlns="http://www.w3.org/2000/svg">&l9;</svg>'.encode()


def icon() -> bytes:
    return b"\0\0\1\0\xff\xff" + bytes(16) * 1000


def postscript() -> bytes:
    return b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 99999 99999\n(/etc/passwd) (r) file\n"


def packed_zip() -> bytes:
    return b"PK\x03\x04" + zeros(64)


BOMBS: tuple[Callable[[], bytes], ...] = (
    huge_png, widest_png, thin_png, unpacking_png, text_png, profile_png, many_texts_png, many_chunks_png, scans_jpeg,
    widest_jpeg, frames_gif, small_frames_gif, huge_webp, circular_tiff, many_tags_tiff, packed_tiff, huge_bmp, svg, icon,
    postscript, packed_zip,
)  # fmt: skip


def test_a_picture_that_is_a_bomb_costs_little_and_delays_nobody(
    volume: Volume, simulator: Simulator, watch: StartWatcher, note: Note
) -> None:
    watcher = watch(simulator, settle_s=0.3, picture_wait_s=0.5)
    watcher.wait_for("comfyui_up")
    idle_mib = memory_mib(watcher.process.pid)
    for bomb in BOMBS:
        name = f"{bomb.__name__}.png"
        (volume.input / name).write_bytes(bomb())
        volume.left.add(name)
        volume.drop(f"{bomb.__name__}.json", {"workflow": "invert", "params": {"image": name}})
    made = time.monotonic()
    volume.drop("behind.json", canvas())
    volume.succeed("behind.json")
    delay = time.monotonic() - made
    reasons = {bomb.__name__: volume.reason(f"{bomb.__name__}.json")["reason"] for bomb in BOMBS}
    most = memory_mib(watcher.process.pid)
    note(bombs=len(BOMBS), next_job_waited_s=delay, most_memory_mib=most, grown_by_mib=most - idle_mib)
    assert reasons == dict.fromkeys(reasons, "bad_picture")
    assert most < MOST_MIB
    assert delay < DELAY_S
    check_promises(volume, simulator, watchers=(watcher,))
