from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from tests.twins import nothing_left


@pytest.fixture(autouse=True)
def clean() -> Iterator[None]:
    torch.manual_seed(0)
    with nothing_left():
        yield
