"""Representations in which all inputs become one."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from netdoctor import codes, generators
from netdoctor.facts import WEIGHTED, Facts, Layer, Loss, Parameter, spoken
from netdoctor.findings import Evidence, Reading, Remedy, Severity, Skipped
from netdoctor.history import History
from netdoctor.progress import progress
from netdoctor.rules.base import rule

SCORES = ("softmax", "log_softmax")  # of classes: where these become one, the classes did


@rule(Severity.WARNING, explains=("loss-plateau", "not-learning"))
def representation_collapse(
    history: History,
    *,
    alike: float = 0.15,  # spread over the batch, of the output's size: 2 % of its energy; healthy embeddings 0.26
    varied: float = 0.3,  # the same of the input: less is a batch that is alike from the start
    fall: float = 3.0,  # × by which it must have fallen
    flat: float = 2.5,  # dimensions in which an embedding is a line, where its spread is as large as ever
    line: tuple[float, float] = (1.5, 0.25),  # dimensions and spread, where losses of angles let all sizes grow
    code: float = 0.04,  # of a code's mean against its noise: 8e-4 nats a unit; healthy codes begin at 0.05 and rise
    same: float = 0.02,  # spread of the entries that codes get over that of the codes: all get one
    restless: float = 1.0,  # way of a generator's mean to and fro, over the spread of a batch; healthy ones below 0.5
    together: float = 0.5,  # spread of a generator's batch, of its size; around the mean of the data it is near 1
    lost: float = 0.5,  # of the dimensions over attention without shortcuts; with them they grow
    samples: int = 3,  # readings that must agree
    patience: int = 40,  # steps before a code is judged
    batch: int = 8,  # samples in a batch
    learned: float = 0.5,  # of the loss: beyond, attention without shortcuts does its work
) -> Iterator[Evidence | Skipped]:
    """All inputs of a batch are mapped to one point, or to a line: the model can no longer tell them apart.

    ## What it looks at
    The standard deviation over the batch of the model's outputs against their size, where the loss has no targets that
    would ask for that (embeddings, generators), while the inputs vary. The mean of a random code against its noise:
    what a layer is given varies, but hardly with what the encoder says. Whether a layer that is given the entries of a
    codebook gets the same one for all codes. Whether what a generator makes of noise lies closer together than its mean
    goes to and fro from step to step, away from an opponent. The dimensions of the outputs over a stack of
    attention layers whose outputs are not added to their inputs.

    ## Why it matters
    Such a loss is lowest where all answers are the same: it falls, and nothing is learned. Attention averages its
    inputs: without shortcuts each layer makes them more alike.

    ## When it is wrong
    Inputs that are alike need no different answers. Codes may shrink in the first steps and come back; a strong prior
    may be wanted. Models with targets are not judged: where their outputs become one, they do not learn.

    ## References
    Chen & He 2021, SimSiam, section 4.1. Bowman et al. 2016, section 3.1, and Lucas et al. 2019 (posterior collapse).
    Goodfellow 2016, GAN tutorial, section 5.1.1. van den Oord et al. 2017, VQ-VAE. Dong et al. 2021, Attention is not
    all you need.
    """
    table = history.table("activation_signal")
    if len(table) < samples:
        yield Skipped(f"fewer than {samples} samples")
        return
    if 0 < history.facts.batch < batch:
        yield Skipped(f"batches of {history.facts.batch} may be alike by chance")
        return
    found = _outputs_alike(history, alike, varied, fall, flat, line, samples)
    if found is None and history.step >= patience:
        found = codes.unused(history, code, fall, samples)
    if found is None and history.step >= patience:
        found = codes.one_entry(history, same, samples) or generators.wandering(history, restless, together)
    if found is None:
        state = progress(history)
        if state is None or state.gain < learned:
            found = _averaged(history, lost, samples)
    if found is not None:
        yield found


def _outputs_alike(
    history: History,
    alike: float,
    varied: float,
    fall: float,
    flat: float,
    line: tuple[float, float],
    samples: int,
) -> Evidence | None:
    """Outputs that no target asks for, the same for inputs that differ."""
    facts = history.facts
    if facts.loss.targets or len(history.table("constant_loss")) or not facts.loss.nodes:
        return None
    taken = {name for layer in facts.layers for name in layer.inputs}
    ends = [layer for layer in facts.layers if layer.called and layer.kind in WEIGHTED and layer.name not in taken]
    first = next((layer for layer in facts.layers if layer.called and layer.kind in (*WEIGHTED, "embedding")), None)
    if first is None or all(layer.units < 2 for layer in ends) or any(end.nonlinearity in SCORES for end in ends):
        return None
    given = "activation" if first.kind == "embedding" else "input"
    shares = {end: _share(history, "activation", end.name)[-samples:] for end in ends}
    largest = {end: float(share.max(initial=0.0)) for end, share in shares.items()}
    ranks, now = history.first("effective_rank"), history.latest("effective_rank")
    lines = {end: now.get(end.name, np.inf) <= min(line[0], ranks.get(end.name, 0.0) / fall) for end in ends}
    if any(len(s) < samples or not largest[end] <= (line[1] if lines[end] else alike) for end, s in shares.items()):
        return None
    if not float(_share(history, given, first.name)[-samples:].min(initial=1.0)) >= varied:
        return None
    signals = history.first("activation_signal")
    for end in ends:
        start = float(_share(history, "activation", end.name)[0])
        signal = float(history.series("activation_signal", end.name)[1][-samples:].max())
        rank = now.get(end.name, np.inf)
        thin = rank <= min(flat, ranks.get(end.name, 0.0) / fall)
        if end.units < 2 or start < fall * largest[end] or (signal > 2 * signals[end.name] and not lines[end]):
            continue
        if signal > signals[end.name] / (fall + 1) and not thin:
            continue
        dimensions = f", in {rank:.2g} dimensions instead of {ranks[end.name]:.2g}" if thin else ""
        bound = line[1] if lines[end] else alike
        told = "All answers lie along a line" if largest[end] > alike else "All inputs get nearly the same answer"
        return Evidence(
            message=f"{told}: of the size of the output of {spoken(end.name)} "
            f"{largest[end]:.1%} vary over the batch, {start:.0%} at the start{dimensions}.",
            layers=(end.name,),
            readings=(Reading(f"spread over size of the output of {end.name}", largest[end], bound),),
            confidence=0.9,
            remedies=_apart(facts),
        )
    return None


def _averaged(history: History, lost: float, samples: int) -> Evidence | None:
    """Attention after attention, none with a shortcut: what goes in is averaged away."""
    table, ranks = history.table("effective_rank"), {}
    if len(table) >= samples:
        ranks = dict(zip(table.columns, table.values[:samples].mean(0).tolist(), strict=True))
    stack: list[Layer] = []
    for layer in history.facts.layers:
        if layer.called and layer.kind == "attention":
            stack = [] if layer.residual else [*stack, layer]
    if len(stack) < 3 or not stack[0].inputs:
        return None
    first, last = ranks.get(stack[0].inputs[0], 0.0), ranks.get(stack[-1].name, np.inf)
    if not last <= lost * first:
        return None
    names = tuple(layer.name for layer in stack)
    return Evidence(
        message=f"{len(stack)} attention layers in a row have no shortcut, and average what they are given: "
        f"{first:.2g} dimensions at {spoken(names[0])}, {last:.2g} after {spoken(names[-1])}.",
        layers=names,
        readings=(Reading("dimensions after the attention layers", float(last), lost * first),),
        confidence=0.85,
        remedies=(
            Remedy(
                action="Add a shortcut around each attention layer",
                code="x = x + attention(norm(x), norm(x), norm(x))[0]  # in forward",
                source="Dong et al. 2021, Attention is not all you need, section 2; He et al. 2016",
                effect="what tells the inputs apart passes each layer",
            ),
        ),
    )


def _share(history: History, side: str, layer: str) -> NDArray[np.float64]:
    """Standard deviation over the batch of a layer's output or input, of its size, in every sample."""
    spread, size = (history.series(f"{side}_{kind}", layer)[1].astype(float) for kind in ("signal", "rms"))
    return spread / np.maximum(size, 1e-30) if len(spread) == len(size) else np.zeros(0)


def _apart(facts: Facts) -> tuple[Remedy, ...]:
    """What keeps answers apart: an opponent that keeps up, or a loss that asks for it."""
    if generators.judged(facts):
        return generators.equal_opponent(facts)
    return (
        Remedy(
            action="Let the loss push different inputs apart: other samples of the batch as negatives",
            code="scores = F.normalize(left, dim=1) @ F.normalize(right, dim=1).T / 0.2\n"
            "loss = F.cross_entropy(scores, torch.arange(len(scores), device=scores.device))",
            source="Oord et al. 2018, InfoNCE; Chen et al. 2020, SimCLR",
            effect="one answer for all has the loss log(batch size), the worst there is",
        ),
        Remedy(
            action="Or add a term that keeps the standard deviation of each unit at 1",
            code="loss = loss + F.relu(1 - (embedding.var(0) + 1e-4).sqrt()).mean()",
            source="Bardes et al. 2022, VICReg, section 4.1",
        ),
        Remedy(
            action="Or predict a detached target through a predictor of its own",
            code="loss = -F.cosine_similarity(predictor(left), right.detach(), dim=1).mean()",
            source="Chen & He 2021, SimSiam, section 3",
        ),
    )


_EMBEDDING = Facts(
    layers=(
        Layer("0", "linear", "Linear", "", 64, 64, 64, "relu", (), called=True),
        Layer("2", "linear", "Linear", "", 64, 32, 32, "", ("0",), called=True),
    ),
    loss=Loss(nodes=("MeanBackward0", "PowBackward0", "SubBackward0")),
    batch=64,
)
_CODE = Facts(
    layers=(
        Layer("mean", "linear", "Linear", "", 64, 8, 8, "", ("0",), residual=True, called=True),
        Layer("spread", "linear", "Linear", "", 64, 8, 8, "", ("0",), residual=True, called=True),
        Layer("decoder", "linear", "Linear", "", 8, 64, 64, "", ("mean", "spread"), called=True),
    ),
    batch=64,
)
_ATTENTION = tuple(
    Layer(
        str(i), "attention", "MultiheadAttention", "", 32, 32, 32, "", (str(i - 1),) if i else ("embed",), called=True
    )
    for i in range(4)
)


def _embedding(
    shares: list[float], facts: Facts = _EMBEDDING, size: float = 1.0, rank: tuple[float, float] = (9.0, 9.0)
) -> History:
    """``size`` and ``rank`` at the end."""
    count = len(shares)
    sizes = np.linspace(1.0, size, count).tolist()
    signals = {"0": [1.0] * count, "2": (np.array(shares) * sizes).tolist()}
    ranks = {"0": [9.0] * count, "2": np.linspace(*rank, count).tolist()}
    rms = {"0": [1.0] * count, "2": sizes}
    return History.of(
        facts, activation_signal=signals, activation_rms=rms, input_signal=rms, input_rms=rms, effective_rank=ranks
    )


def _coded(means: list[float]) -> History:
    ones = [1.0] * len(means)
    signals = {"mean": means, "spread": means, "decoder": ones}
    return History.of(
        _CODE, range(20, 20 + 5 * len(means), 5), activation_signal=signals, input_signal={"decoder": ones}
    )


_QUANTISED = Facts(
    layers=(
        Layer("encoder", "linear", "Linear", "", 64, 8, 8, "", called=True),
        Layer("entries", "embedding", "Embedding", "", 0, 0, 8, "", called=True),
        Layer("decoder", "linear", "Linear", "", 8, 64, 64, "", ("encoder",), called=True),
    ),
    parameters=(Parameter("entries.weight", "entries", (32, 8), "embedding"),),
    batch=64,
)


def _quantised(spread: float, size: float) -> History:
    """``spread`` and ``size`` of what the decoder is given."""
    names = [layer.name for layer in _QUANTISED.layers]
    return History.of(
        _QUANTISED,
        range(20, 60, 5),
        activation_signal={name: [0.4] * 8 for name in names},
        activation_rms={name: [0.7] * 8 for name in names},
        input_signal={"decoder": [spread] * 8},
        input_rms={"decoder": [size] * 8},
    )


_JUDGED = Facts(
    layers=(
        Layer("0", "linear", "Linear", "", 8, 48, 48, called=True),
        Layer("2", "linear", "Linear", "", 48, 2, 2, "", ("0",), called=True),
    ),
    parameters=tuple(Parameter(f"{name}.weight", name, (48, 48), "weight", group=0) for name in "02"),
    loss=Loss(nodes=("MeanBackward0", "AddmmBackward0")),
    batch=64,
)


def _generated(means: NDArray[np.float64], width: float, noise: float = 1.0) -> History:
    count = len(means)
    return History.of(
        _JUDGED,
        range(5, 5 + 5 * count, 5),
        activation_mean={"0": [0.0] * count, "2": means.tolist()},
        activation_signal={"0": [1.0] * count, "2": [width] * count},
        activation_rms={"0": [1.0] * count, "2": np.hypot(np.abs(means) + 0.2, width).tolist()},
        input_mean={"0": [0.01] * count},
        input_std={"0": [noise] * count},
        input_signal={"0": [noise] * count},
        input_rms={"0": [noise] * count},
        effective_rank={"0": [8.0] * count, "2": [1.5] * count},
    )


_TO_AND_FRO = np.sin(np.arange(60) / 2)


def _attended(residual: bool, rank: float) -> History:
    layers = tuple(Layer(**{**vars(layer), "residual": residual}) for layer in _ATTENTION)
    ranks = {"embed": [5.0] * 5, **{layer.name: [rank] * 5 for layer in layers}}
    facts = Facts(layers=(Layer("embed", "linear", called=True), *layers), batch=32)
    return History.of(facts, activation_signal=dict.fromkeys(ranks, [1.0] * 5), effective_rank=ranks)


def fires() -> tuple[History, ...]:
    """Histories with this disease."""
    return (
        _embedding([0.6, 0.3, 0.1, 0.05, 0.04, 0.03, 0.02]),
        _embedding([0.6, 0.5, 0.4, 0.2, 0.19, 0.18, 0.17], size=10.0, rank=(9.0, 1.1)),
        _coded([0.15, 0.1, 0.06, 0.02, 0.02, 0.01, 0.01, 0.01]),
        _attended(residual=False, rank=1.3),
        _quantised(0.0, 0.7),
        _generated(_TO_AND_FRO, 0.1),
    )


def quiet() -> tuple[History, ...]:
    """Histories without it, though they resemble it."""
    return (
        _embedding([0.6] * 7),  # healthy
        _embedding([0.3, 0.1, 0.09, 0.09, 0.2, 0.4, 0.5]),  # for a while only
        _embedding([0.05] * 7),  # from the start: an offset
        _embedding([0.6, 0.05]),  # too early
        _embedding([0.6, 0.5, 0.4, 0.2, 0.19, 0.18, 0.17], size=10.0, rank=(9.0, 4.0)),
        _embedding(
            [0.6, 0.3, 0.1, 0.05, 0.04, 0.03, 0.02],
            _EMBEDDING.with_changes(loss=Loss("mse", ("Mse",), targets=(64, 32))),
        ),
        _embedding([0.6, 0.3, 0.1, 0.05, 0.04, 0.03, 0.02], _EMBEDDING.with_changes(batch=4)),
        _coded([0.15, 0.1, 0.2, 0.6, 0.9, 0.9, 0.9, 0.9]),
        _coded([0.15, 0.02, 0.02, 0.02]),  # too early
        _coded([0.05, 0.03, 0.03, 0.03, 0.03, 0.03]),  # small from the start
        _attended(residual=True, rank=1.3),
        _generated(_TO_AND_FRO, 1.0),  # points all around
        _generated(_TO_AND_FRO[:24], 0.1),  # too early
        _generated(_TO_AND_FRO, 0.1, noise=0.5),  # a policy that is given states
        _generated(np.linspace(0, 2, 60) ** 2, 0.1),  # on its way to data that lie far off
        _quantised(0.1, 0.7),  # a few entries
        _quantised(0.0, 0.4),  # the decoder is given something else
        _attended(residual=False, rank=4.0),
        History(),
    )
