"""What the ranks of a distributed training send each other in a sampled step: ``python -m benchmarks.reduction``.

Prints the size of a packet by kind of training, what that is for each rank and for all of them where it is reduced in a
ring, and how long a packet takes to make and to read on this machine.
"""

from __future__ import annotations

import argparse
from time import perf_counter
from unittest import mock

import numpy as np
import torch
from torch import nn

import netdoctor
from netdoctor.probes.packing import Form, pack, packed_bytes, unpack
from netdoctor.probes.readings import Sample

KINDS = {"DistributedDataParallel": (0.0, 1.0), "fully_shard": (1.0, 0.0), "tensor parallel": (0.5, 0.5)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--layers", type=int, default=1000)
    parser.add_argument("--ranks", type=int, default=1000)
    given = parser.parse_args()
    layers, ranks = given.layers, given.ranks
    parameters = 2 * layers  # a weight and a bias each
    print(f"{layers:,} layers with the inputs of half of them, {parameters:,} parameters, {ranks:,} ranks, a step:")
    for kind, (split, whole) in KINDS.items():
        size = packed_bytes(layers, layers // 2, parameters, round(split * parameters), round(whole * parameters))
        sent = 2 * size * (ranks - 1) / ranks
        print(
            f"  {kind:24} {size / 1e6:6.2f} MB a packet, {sent / 1e6:6.2f} MB sent by each rank in a ring, "
            f"{sent * ranks / 1e9:6.2f} GB in all"
        )
    packing, reading = seconds(layers)
    print(f"  a packet takes {1e3 * packing:.0f} ms to make and {1e3 * reading:.0f} ms to read on this machine")


def seconds(layers: int) -> tuple[float, float]:
    """How long packing and unpacking take, with a real sample of so many layers."""
    torch.set_num_threads(1)
    model = nn.Sequential(*(nn.Linear(8, 8) for _ in range(layers)))
    with netdoctor.watch(model, reporters=[], rules=[], every=10**6) as monitor:
        recorder = monitor._recorder
        activations, weights = recorder._activations, recorder._parameters
        activations.shared = weights.shared = True
        taken: list[Sample] = []
        with mock.patch.object(recorder._readings, "add", taken.append):
            model(torch.randn(16, 8)).square().mean().backward()
            torch.optim.SGD(model.parameters(), lr=0.0).step()
    names = tuple(facts.name for facts in weights.facts)
    sizes = np.array([float(facts.size) for facts in weights.facts])
    everywhere = tuple(range(len(names)))
    form = Form(2, np.ones(len(names), bool), (), everywhere, names, sizes)
    start = perf_counter()
    packed = pack(taken[0], {1: 1.0}, (1,), 1, form)
    middle = perf_counter()
    unpack(packed, taken[0], {1: 1.0}, (1,), form)
    return middle - start, perf_counter() - middle


if __name__ == "__main__":
    main()
