"""One set of examples divided among nodes: evenly, or so that nodes differ. Every example goes to exactly one part.

The randomness is a `Key`, so a partition is the same wherever it is made. Nodes are told apart by their place: the
functions return one part for each, in order.
"""

import numpy as np

from lycia.core.keys import Key
from lycia.core.training import NodeData
from lycia.data.population import Examples
from lycia.errors import DataError


def hold_out(examples: Examples, share: float, key: Key) -> NodeData:
    """The examples with a random `share` of them held out, at least one on either side.

    Raises: DataError, if there are fewer than two examples, or `share` is not between 0 and 1.
    """
    if len(examples) < 2 or not 0 < share < 1:
        raise DataError(
            f"a share of {share} of {len(examples)} examples cannot be held out.",
            why="something must remain on either side.",
            do="give a share between 0 and 1, such as 0.2, and at least two examples.",
        )
    order = key.generator().permutation(len(examples))
    held = min(max(round(share * len(examples)), 1), len(examples) - 1)
    return NodeData(train=examples[np.sort(order[held:])], held_out=examples[np.sort(order[:held])])


def evenly(examples: Examples, nodes: int, key: Key) -> tuple[Examples, ...]:
    """Parts that differ only by chance, and in size by at most one.

    Raises: DataError, if there are fewer examples than nodes.
    """
    _check_enough(examples, nodes, 1)
    order = key.generator().permutation(len(examples))
    return tuple(examples[part] for part in np.array_split(order, nodes))


def by_label_skew(examples: Examples, nodes: int, key: Key, *, alpha: float) -> tuple[Examples, ...]:
    """Parts in which labels are unevenly spread: each node draws its own label shares from a Dirichlet distribution.

    A large `alpha` makes nodes alike, one of 0.1 leaves most of them a few labels. A label that has run out leaves
    its share to the others, so the last nodes get more of what is left.

    Guarantees: sizes differ by at most one, so every node has at least ⌊n / nodes⌋ examples.
    Raises: DataError, if there are fewer examples than nodes, or `alpha` is not positive.
    Source: Hsu et al. 2019, "Measuring the effects of non-identical data distribution for federated visual
      classification", arXiv:1909.06335, section 3, with the labels' own shares as prior.
    """
    _check_enough(examples, nodes, 1)
    if not alpha > 0:
        raise DataError(
            f"labels cannot be spread with alpha={alpha}.",
            why="a Dirichlet distribution has positive concentrations.",
            do="use, for example, alpha=0.3; nodes become alike as it grows.",
        )
    random = key.generator()
    stocks = _shuffled_by_label(examples, random)
    sizes = [len(part) for part in np.array_split(np.arange(len(examples)), nodes)]
    counts = np.array([len(stock) for stock in stocks])
    taken = np.zeros_like(counts)
    parts = []
    for size in sizes:
        drawn = _draw_counts(size, _dirichlet(alpha * counts / len(examples), random), counts - taken, random)
        places = [stock[begin : begin + count] for stock, begin, count in zip(stocks, taken, drawn, strict=True)]
        taken += drawn
        parts.append(examples[np.concatenate(places)])
    return tuple(parts)


def by_label_shards(
    examples: Examples, nodes: int, key: Key, *, shards: int = 2, mixed: float = 0.0
) -> tuple[Examples, ...]:
    """Parts in which few labels dominate: sorted by label and cut into equal runs, of which each node gets `shards`.

    Args:
      mixed: the share of the examples that is first spread evenly, so that few labels dominate and none is foreign.
    Guarantees: a node has at least shards · ⌊r / (nodes · shards)⌋ examples, of the r that are not mixed.
    Raises: DataError, if there are fewer such examples than shards in all, or no shard for a node.
    Source: McMahan et al. 2017, "Communication-efficient learning of deep networks from decentralized data",
      arXiv:1602.05629, section 3 ("pathological non-IID"), where mixed=0.
    """
    if not 0 <= mixed < 1:
        raise DataError(
            f"a share of mixed={mixed} of the examples cannot be spread evenly.",
            why="what is not mixed is what the shards are made of.",
            do="give a share from 0 to below 1, such as 0.1.",
        )
    random = key.generator()
    order = random.permutation(len(examples))
    spread, rest = np.split(order, [round(mixed * len(examples))])
    _check_enough(examples[rest], nodes, shards)
    runs = np.array_split(rest[np.argsort(examples.labels[rest], kind="stable")], nodes * shards)
    owners = random.permutation(nodes * shards).reshape(nodes, shards)
    return tuple(
        examples[np.concatenate([own, *(runs[run] for run in taken)])]
        for own, taken in zip(np.array_split(spread, nodes), owners, strict=True)
    )


def _shuffled_by_label(examples: Examples, random: np.random.Generator) -> list[np.ndarray]:
    order = random.permutation(len(examples))
    labels = examples.labels[order]
    return [order[labels == label] for label in np.unique(labels)]


def _dirichlet(concentrations: np.ndarray, random: np.random.Generator) -> np.ndarray:
    # In logarithms: with a tiny alpha all gammas would round to zero, and their shares to NaN.
    # Source: Marsaglia and Tsang 2000, section 6: Gamma(a) is Gamma(a + 1) · U^(1/a).
    logs = (
        np.log(random.standard_gamma(concentrations + 1))
        + np.log1p(-random.random(len(concentrations))) / concentrations
    )
    shares = np.exp(logs - logs.max())
    return np.asarray(shares / shares.sum())


def _draw_counts(size: int, shares: np.ndarray, stock: np.ndarray, random: np.random.Generator) -> np.ndarray:
    counts = np.zeros_like(stock)
    while (missing := size - counts.sum()) > 0:
        wanted = np.where(stock > counts, shares, 0.0)
        if not wanted.sum() > 1e-200:  # its labels have run out: it takes from the rest as they come
            wanted = (stock - counts).astype(np.float64)
        counts += np.minimum(random.multinomial(missing, wanted / wanted.sum()), stock - counts)
    return counts


def _check_enough(examples: Examples, nodes: int, shards: int) -> None:
    if nodes < 1 or shards < 1 or len(examples) < nodes * shards:
        raise DataError(
            f"{len(examples)} examples cannot be divided among {nodes} nodes with {shards} shards each.",
            why="every node gets at least one example in each of its shards.",
            do="use fewer nodes or shards, or more examples.",
        )
