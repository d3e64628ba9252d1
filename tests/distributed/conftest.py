from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.distributed.processes import Ranks, ranks


@pytest.fixture(scope="session")
def two() -> Iterator[Ranks]:
    with ranks(2) as started:
        yield started


@pytest.fixture(scope="session")
def four() -> Iterator[Ranks]:
    with ranks(4) as started:
        yield started
