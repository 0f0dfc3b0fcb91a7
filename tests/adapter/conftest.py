"""A house with ComfyUI, a watcher and an adapter in it, shared by the tests that need no other."""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from tests.e2e.conftest import House, make_root, open_house
from tests.e2e.volume import Volume
from tests.servers.adapter import Adapter, start_adapter

KEYS = "shop:hk_0123456789abcdef artist:hk_graphs_0123456789:submit+graph ops:hk_admin_0123456789:admin viewer@shop:hk_reader_0123456789:read"


@dataclass
class Studio:
    """`house` has a watcher at work."""

    house: House
    adapter: Adapter

    @property
    def volume(self) -> Volume:
        return self.house.volume


@pytest.fixture(scope="session")
def studio() -> Iterator[Studio]:
    with open_house() as house, start_adapter(house.volume.root, api_keys=KEYS) as adapter:
        yield Studio(house, adapter)


@dataclass
class Counter:
    """An adapter at a volume on which nobody works: jobs stay queued."""

    volume: Volume
    adapter: Adapter


@contextlib.contextmanager
def open_counter(**settings: Any) -> Iterator[Counter]:
    with make_root() as root:
        volume = Volume.make(root / "volume")
        with start_adapter(volume.root, **{"api_keys": KEYS, **settings}) as adapter:
            yield Counter(volume, adapter)


@pytest.fixture(scope="session")
def counter() -> Iterator[Counter]:
    with open_counter() as counter:
        yield counter
