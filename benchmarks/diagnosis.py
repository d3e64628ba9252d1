"""Milliseconds of a diagnosis by all rules, for a model of 200 layers with full histories, as after each sample.

python benchmarks/diagnosis.py
"""

from __future__ import annotations

import argparse
from statistics import median
from time import perf_counter

import torch
from torch import nn

import netdoctor
from netdoctor import History
from netdoctor.diagnose import diagnose
from netdoctor.rules import ALL

STEPS = 600  # with a sample in each: more than the tables have rows for
ROUNDS = 21


def recorded(layers: int) -> History:
    """What a real training of so many layers leaves, with a validation pass now and then."""
    torch.manual_seed(0)
    parts: list[nn.Module] = []
    for _ in range(layers // 2 - 1):
        parts += [nn.Linear(64, 64), nn.ReLU()]
    model = nn.Sequential(*parts, nn.Linear(64, 10))
    for part in model:
        if isinstance(part, nn.Linear):
            nn.init.kaiming_normal_(part.weight)
            nn.init.zeros_(part.bias)
    inputs, targets, loss_fn = torch.randn(512, 64), torch.randint(0, 10, (512,)), nn.CrossEntropyLoss()
    optimizer = torch.optim.SGD(model.parameters(), 1e-4)
    with netdoctor.watch(model, reporters=[], every=1) as monitor:
        for step in range(STEPS):
            batch = torch.randint(0, len(inputs), (32,))
            optimizer.zero_grad()
            loss_fn(model(inputs[batch]), targets[batch]).backward()
            optimizer.step()
            if step % 50 == 0:
                model.eval()
                with torch.no_grad():
                    loss_fn(model(inputs), targets)
                model.train()
    return monitor.history


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--layers", type=int, default=200, help="of the model (default 200)")
    torch.set_num_threads(1)
    history = recorded(parser.parse_args().layers)
    tables = {name: history.table(name) for name in history.statistics}
    each = {name: table for name, table in tables.items() if table.steps[-1] == history.step}  # not the thorough ones

    def sampled() -> None:
        """The next step's sample, with the readings of an earlier one."""
        step, row = history.step + 1, history.step % STEPS
        for name, table in each.items():
            history.record(step, name, table.values[row % len(table)].copy(), table.columns)

    def seconds(rules: object) -> float:
        sampled()  # something new: what is remembered of this counts no more
        start = perf_counter()
        diagnose(history, rules)  # type: ignore[arg-type]
        return perf_counter() - start

    every = 1e3 * median(seconds(ALL) for _ in range(ROUNDS))
    single = sorted(((1e3 * median(seconds((rule,)) for _ in range(5)), rule.slug) for rule in ALL), reverse=True)
    print(f"{len(history.facts.layers)} layers, {len(ALL)} rules: {every:.2f} ms a diagnosis (bar 2)")
    print("alone, the slowest: " + ", ".join(f"{slug} {time:.2f}" for time, slug in single[:5]))


if __name__ == "__main__":
    main()
