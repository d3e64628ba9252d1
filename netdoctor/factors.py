"""Products of embeddings, as in a factorisation: how far apart the first ones lie, against what they are to say."""

from __future__ import annotations

import math
from collections.abc import Iterator

from netdoctor import remedies
from netdoctor.facts import WEIGHTED, Parameter
from netdoctor.findings import Evidence, Reading
from netdoctor.history import History

VALUES = ("mse", "l1", "smooth-l1")


def too_large(history: History, oversized: float, sure: float) -> Iterator[Evidence]:
    """Embeddings whose products, with nothing behind them that could scale these, are far larger than the targets.

    Args:
        history: Of the run.
        oversized: Times the spread of the targets that the first products may have.
        sure: Times ln 2 that the first loss may be, where the products are logits of a yes or no.
    """
    facts, sizes = history.facts, history.first("weight_rms")
    if any(layer.called and layer.kind in WEIGHTED for layer in facts.layers):
        return
    tables = [p for p in facts.parameters if p.role == "embedding" and p.trainable and p.connected]
    widths = {p.shape[-1] for p in tables if p.shape[-1] > 1}
    held = [p for p in tables if p.shape[-1] > 1]
    if len(held) < 2 or len(widths) > 1:
        return
    first, second = sorted((sizes.get(p.name, 0.0) for p in held), reverse=True)[:2]
    width = widths.pop()
    products = math.sqrt(width) * first * second
    if facts.loss.kind in VALUES:
        low, high, least, largest, std = (
            history.first(name).get("", math.nan)
            for name in ("output_low", "output_high", "target_low", "target_high", "target_std")
        )
        if products > oversized * std and high - low > oversized * (largest - least) > 0:
            told = f"the first outputs lie between {low:.3g} and {high:.3g}, the targets between {least:.3g} and "
            yield _evidence(held, width, products, std, f"{told}{largest:.3g}", oversized)
    elif facts.loss.kind == "binary-cross-entropy-with-logits":
        loss, uninformed = (history.first(name).get("", math.nan) for name in ("loss", "uninformed_loss"))
        if products > oversized and loss > sure * uninformed > 0:
            told = f"the first loss is {loss:.3g}, that of logits of 0 {uninformed:.3g}"
            yield _evidence(held, width, products, 1.0, told, oversized)


def _evidence(
    tables: list[Parameter], width: int, products: float, scale: float, told: str, oversized: float
) -> Evidence:
    layers = tuple(p.layer for p in tables)
    factor = math.sqrt(0.1 * scale / products)
    return Evidence(
        message=f"Products of embeddings of width {width} start with a std of {products:.3g}, √{width} times those of "
        f"the two tables: {told}",
        layers=layers,
        readings=(Reading("std of the first products", products, oversized * scale, "y", (1, 1)),),
        confidence=0.9,
        remedies=(
            remedies.scale_weights(
                dict.fromkeys(layers, factor),
                f"Start the embeddings {1 / factor:.2g} times smaller: nn.Embedding draws from N(0, 1)",
                "Koren et al. 2009, Matrix factorization techniques for recommender systems; Mikolov et al.'s word2vec "
                "draws from ±0.5/width",
                "the first answers are those of a model that knows nothing; entries that are rarely seen do no harm",
            ),
        ),
    )
