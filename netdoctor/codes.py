"""Codes between an encoder and a decoder: random ones of mean and spread, and those that stand in a codebook."""

from __future__ import annotations

import numpy as np

from netdoctor.derived import of_facts
from netdoctor.facts import WEIGHTED, Facts, Layer, spoken
from netdoctor.findings import Evidence, Reading, Remedy
from netdoctor.history import History


def unused(history: History, bound: float, fall: float, samples: int) -> Evidence | None:
    """A random code, mean plus noise, whose mean no longer depends on the input."""
    for layer, sources in _random_codes(history.facts):
        given = history.series("input_signal", layer.name)[1]
        said = [history.series("activation_signal", source.name)[1] for source in sources]
        if any(len(each) != len(given) for each in said) or len(given) < samples:
            continue
        ratio = np.max(said, 0) / np.maximum(given, 1e-30)
        now = float(ratio[-samples:].max())
        if not 0 < now <= bound or now > float(ratio[0]) / fall:
            continue
        return Evidence(
            message=f"The code carries nothing of the input: what {spoken(sources[0].name)} says varies by "
            f"{float(said[0][-1]):.2g} over the batch, what {spoken(layer.name)} is given by {float(given[-1]):.2g}: "
            "the rest is noise.",
            layers=tuple(source.name for source in sources),
            readings=(Reading("spread of the code's mean over the spread of the code", now, bound),),
            confidence=0.85,
            remedies=(
                Remedy(
                    action="Weigh the divergence less, or let its weight rise from 0 over the first epochs",
                    code="weight = min(1.0, step / warm_up) * beta  # warm_up: some epochs; beta: below 1\n"
                    "loss = reconstruction + weight * divergence",
                    source="Bowman et al. 2016, section 3.1; Higgins et al. 2017, beta-VAE",
                    effect="the code is worth its price before the decoder learns to do without it",
                ),
                Remedy(
                    action="Leave each unit of the code some nats free",
                    code="divergence = divergence_of_each_unit.mean(0).clamp(min=0.1).sum()",
                    source="Kingma et al. 2016, Inverse autoregressive flow, appendix C.8",
                ),
            ),
        )
    return None


@of_facts
def _random_codes(facts: Facts) -> list[tuple[Layer, list[Layer]]]:
    """Layers that read a code of mean and spread, and the layers that say these, as one or as two."""
    layers, found = {layer.name: layer for layer in facts.layers if layer.called}, []
    for layer in layers.values():
        sources = [layers[name] for name in layer.inputs if name in layers]
        pair = len(sources) == 2 and sources[0].inputs == sources[1].inputs and sources[0].units == layer.fan_in
        halves = len(sources) == 1 and sources[0].units == 2 * layer.fan_in
        if layer.kind in ("linear", "conv") and (halves or (pair and sources[1].units == layer.fan_in)):
            found.append((layer, sources))
    return found


def one_entry(history: History, same: float, samples: int) -> Evidence | None:
    """Vector quantisation where all codes are nearest to one entry: gradients pass from the decoder to the code."""
    for entries, code, layer in _quantised_codes(history.facts):
        given, said = (
            history.series(*key)[1] for key in (("input_signal", layer.name), ("activation_signal", code.name))
        )
        size, entry = (history.series(*key)[1] for key in (("input_rms", layer.name), ("activation_rms", entries.name)))
        if len({len(given), len(said), len(size), len(entry)}) > 1 or len(given) < samples:
            continue
        last = slice(-samples, None)
        if (given[last] > same * said[last]).any() or (np.abs(size[last] / entry[last] - 1) > same).any():
            continue
        table = next((p for p in history.facts.parameters if p.layer == entries.name), None)
        count = table.shape[0] if table is not None else 0
        return Evidence(
            message=f"All codes get the same entry of {spoken(entries.name)}, of {count}: what {spoken(code.name)} "
            f"says varies by {float(said[-1]):.2g} over the batch, what {spoken(layer.name)} is given in its place "
            f"by {float(given[-1]):.2g}.",
            layers=(entries.name,),
            readings=(
                Reading("spread of the entries over the spread of the codes", float((given / said)[last].max()), same),
            ),
            confidence=0.9,
            remedies=_spread_out(entries.name),
        )
    return None


@of_facts
def _quantised_codes(facts: Facts) -> list[tuple[Layer, Layer, Layer]]:
    """Embeddings that may hold the entries of a codebook, layers that say as wide a code, and what these feed alone."""
    layers = {layer.name: layer for layer in facts.layers if layer.called}
    return [
        (entries, layers[layer.inputs[0]], layer)
        for entries in layers.values()
        if entries.kind == "embedding" and not entries.inputs
        for layer in layers.values()
        if len(layer.inputs) == 1 and layer.inputs[0] in layers
        if layers[layer.inputs[0]].kind in WEIGHTED and layers[layer.inputs[0]].units == entries.units
    ]


def _spread_out(entries: str) -> tuple[Remedy, ...]:
    """What brings the entries of a codebook to where codes are."""
    return (
        Remedy(
            action="Move entries that no code of a batch gets to codes of the batch, every few steps",
            code=f"codebook = model.get_submodule({entries!r}).weight\n"
            "with torch.no_grad():  # code: what the encoder says, [samples, units]\n"
            "    used = torch.cdist(code, codebook).argmin(1).bincount(minlength=len(codebook)) > 0\n"
            "    some = code[torch.randperm(len(code))[: int((~used).sum())]]\n"
            "    codebook[(~used).nonzero()[: len(some), 0]] = some",
            source="Dhariwal et al. 2020, Jukebox, section 3.1 (random restarts)",
            effect="every entry is the nearest to some code",
        ),
        Remedy(
            action="Or begin with entries as small as the codes are",
            code=f"codebook = model.get_submodule({entries!r}).weight\n"
            "nn.init.uniform_(codebook, -1 / len(codebook), 1 / len(codebook))",
            source="van den Oord et al. 2017, Neural discrete representation learning",
            effect="no entry is the nearest to all codes",
        ),
    )
