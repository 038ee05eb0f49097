"""One set of examples divided among nodes: evenly, or so that nodes differ. Every example goes to exactly one part.

The randomness is a `Key`, so a partition is the same wherever it is made. Nodes are told apart by their place: the
functions return one part for each, in order. `population_of` makes the nodes of a simulation out of the parts, and
`lycia.reports.holdings.Holdings.of(parts)` draws who holds what.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from lycia.core.keys import Key
from lycia.core.training import NodeData
from lycia.data.population import Examples, Population
from lycia.data.schema import Schema
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
    held = _held_out(len(examples), share)
    return NodeData(train=examples[np.sort(order[held:])], held_out=examples[np.sort(order[:held])])


def population_of(
    parts: Sequence[Examples] | Mapping[str, Examples],
    key: Key,
    *,
    held_out: float = 0.2,
    names: Sequence[str] | None = None,
) -> Population:
    """The nodes of a simulation, one for each part, each with a share of its examples held out.

    What a node holds out depends on the key and its name only, so it stays the same when other nodes join.

    Args:
      held_out: the share; 0 holds nothing out. A part of one example holds nothing out, whatever the share.
      names: what the nodes are called, in the order of the parts; their own names, or node-0, node-1 and so on.
    Raises:
      DataError: if `held_out` is not from 0 to below 1.
      AppError: if there are no parts, or not as many different names as parts.
    Example:
      >>> parts = evenly(Examples(np.eye(10), np.arange(10) % 2), 2, Key(0))
      >>> population_of(parts, Key(0))["node-1"].held_out.labels.shape
      (1,)
    """
    if not 0 <= held_out < 1:
        raise DataError(
            f"a share of {held_out} of every node's examples cannot be held out.",
            why="something must remain to train on.",
            do="give a share from 0 to below 1, such as 0.2.",
        )
    found = list(parts.values()) if isinstance(parts, Mapping) else list(parts)
    if names is None:
        names = tuple(parts) if isinstance(parts, Mapping) else [f"node-{place}" for place in range(len(found))]
    held = dict(zip(names, found, strict=False))

    def load(name: str) -> NodeData:
        examples = held[name]
        return hold_out(examples, held_out, key.at(name)) if held_out and len(examples) > 1 else NodeData(examples)

    sizes = [len(part) - (_held_out(len(part), held_out) if held_out and len(part) > 1 else 0) for part in found]
    return Population(names, load, sizes=np.array(sizes))


def evenly(examples: Examples, nodes: int, key: Key) -> tuple[Examples, ...]:
    """Parts that differ only by chance, and in size by at most one.

    Raises: DataError, if there are fewer examples than nodes.
    """
    _check_enough(len(examples), nodes, 1)
    order = key.generator().permutation(len(examples))
    return tuple(examples[part] for part in np.array_split(order, nodes))


def by_label_skew(examples: Examples, nodes: int, key: Key, *, alpha: float) -> tuple[Examples, ...]:
    """Parts in which labels are unevenly spread: each node draws its own label shares from a Dirichlet distribution.

    A large `alpha` makes nodes alike, one of 0.1 leaves most of them a few labels. A label that has run out leaves
    its share to the others, so the last nodes get more of what is left.

    The literature knows two directions, and an alpha of one is not an alpha of the other. Here, as in Hsu et al., a
    *node* draws its shares of the labels, and nodes are of one size. In NIID-Bench (Li et al. 2022, arXiv:2102.02079)
    and in what follows it, a *label* draws its shares over the nodes, so that nodes differ in size as well.

    Guarantees: sizes differ by at most one, so every node has at least ⌊n / nodes⌋ examples.
    Raises: DataError, if there are fewer examples than nodes, or `alpha` is not positive.
    Source: Hsu et al. 2019, "Measuring the effects of non-identical data distribution for federated visual
      classification", arXiv:1909.06335, section 3, with the labels' own shares as prior.
    """
    _check_enough(len(examples), nodes, 1)
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
    random = key.generator()
    spread, rest = _mixed(len(examples), mixed, random)
    _check_enough(len(rest), nodes, shards)
    runs = np.array_split(rest[np.argsort(examples.labels[rest], kind="stable")], nodes * shards)
    owners = random.permutation(nodes * shards).reshape(nodes, shards)
    return tuple(
        examples[np.concatenate([own, *(runs[run] for run in taken)])]
        for own, taken in zip(np.array_split(spread, nodes), owners, strict=True)
    )


def by_size_skew(examples: Examples, nodes: int, key: Key, *, beta: float, least: int = 1) -> tuple[Examples, ...]:
    """Parts that differ in size, and otherwise only by chance: the nodes' shares are one Dirichlet draw.

    A large `beta` makes sizes alike, one of 0.5 leaves some nodes many times as much as others.

    Guarantees: every node has at least `least` examples; only what is left after these is unevenly spread.
    Raises: DataError, if there are fewer than `least` examples for each node, or `beta` is not positive.
    Source: Li et al. 2022, "Federated learning on non-IID data silos: an experimental study", arXiv:2102.02079
      (quantity skew). There a draw is repeated until no node has fewer than ten.
    """
    _check_enough(len(examples), nodes, least)
    if not beta > 0:
        raise DataError(
            f"sizes cannot be spread with beta={beta}.",
            why="a Dirichlet distribution has positive concentrations.",
            do="use, for example, beta=0.5; nodes become alike as it grows.",
        )
    random = key.generator()
    left = len(examples) - nodes * least
    cuts = np.rint(left * np.cumsum(_dirichlet(np.full(nodes, beta), random))).astype(np.int64)[:-1]
    order = random.permutation(len(examples))
    return tuple(examples[part] for part in np.split(order, cuts + least * np.arange(1, nodes)))


def by_feature(
    examples: Examples, nodes: int, key: Key, *, feature: str | int | np.ndarray, mixed: float = 0.0
) -> tuple[Examples, ...]:
    """Parts that see different ranges of a feature: sorted by it and cut into equal runs, the lowest at the first node.

    Args:
      feature: a column's name, its place among the features of an example, or one number for each example, such as
        the brightness of a picture.
      mixed: the share of the examples that is first spread evenly, so that ranges overlap.
    Guarantees: sizes differ by at most two; where nothing is mixed, no value of a node is below one of a former node.
    Raises: DataError, if there are fewer examples than nodes, or `feature` is not one finite number for each example.
    """
    values = _feature(examples, feature)
    random = key.generator()
    spread, rest = _mixed(len(examples), mixed, random)
    _check_enough(len(rest), nodes, 1)
    runs = np.array_split(rest[np.argsort(values[rest], kind="stable")], nodes)
    return tuple(examples[np.concatenate(places)] for places in zip(np.array_split(spread, nodes), runs, strict=True))


def by_key(examples: Examples, keys: Sequence[object] | np.ndarray, *, least: int = 1) -> dict[str, Examples]:
    """Parts that are there already: the examples of each hospital, writer or device under its name, sorted by key.

    Args:
      keys: (n,) whose example each one is.
      least: those with fewer examples are left out.
    Raises: DataError, if there is not one key for each example, or if nobody has `least` examples.
    Example:
      >>> parts = by_key(Examples(np.eye(3), [1, 0, 1]), ["west", "east", "west"])
      >>> {name: part.labels.tolist() for name, part in parts.items()}
      {'east': [0], 'west': [1, 1]}
    """
    whose, nobodys = _owners(np.asarray(keys))
    if whose.shape != (len(examples),) or nobodys.any():
        raise DataError(
            f"{len(examples)} examples have keys of shape {whose.shape}, {np.count_nonzero(nobodys)} of them empty.",
            why="every example belongs to exactly one node, which its key names.",
            do="give one key for each example, in the same order, and leave out examples that are nobody's.",
        )
    found, places = np.unique(whose, return_inverse=True)
    sorted_examples, sizes = examples[np.argsort(places, kind="stable")], np.bincount(places, minlength=len(found))
    ends = np.cumsum(sizes)
    parts = {
        str(name): sorted_examples[int(begin) : int(end)]
        for name, begin, end in zip(found, ends - sizes, ends, strict=True)
        if end - begin >= least
    }
    if not parts:
        raise DataError(
            f"none of {len(found)} nodes has {least} examples.",
            why=f"the largest has {max(sizes, default=0)}, and nodes with fewer than `least` are left out.",
            do="ask for fewer with least=…",
        )
    return parts


def with_noise(parts: Sequence[Examples], schema: Schema, key: Key, *, level: float) -> tuple[Examples, ...]:
    """The same parts, seen through worse and worse instruments: noise on the features that grows from node to node.

    The first part stays as it is. The last gets Gaussian noise with a standard deviation of `level` times each
    feature's range (`Schema.ranges`), those between get their share of it. Categories and whole numbers stay as they
    are. Held-out data should be taken from the noisy parts, as a node has no better instrument to measure with.

    Guarantees: what fitted the schema's bounds still does, as values are clipped there.
    Raises: DataError, if `level` is negative, or if the examples do not have the schema's shape.
    Source: Li et al. 2022, arXiv:2102.02079 (noise-based feature imbalance). The paper gives the
      *variance* as σ·i/N; its code, like this, has the standard deviation grow evenly from 0.
    """
    if not level >= 0:
        raise DataError(
            f"noise cannot have a level of {level}.",
            why="it is a standard deviation, as a share of each feature's range.",
            do="use, for example, level=0.1.",
        )
    spread, low, high = _noise_scales(schema)
    noisy = []
    for place, part in enumerate(parts):
        if part.features.shape[1:] != schema.shape:
            raise DataError(
                f"examples of shape {part.features.shape[1:]} cannot get noise by a schema of shape {schema.shape}.",
                why="the schema says how wide the range of each feature is.",
                do="pass the schema that the examples fit.",
            )
        scale = level * place / max(len(parts) - 1, 1)
        features = part.features if part.features.dtype.kind == "f" else part.features.astype(np.float32)
        noise = key.at(place).generator().standard_normal(features.shape, dtype=np.float32)
        blurred = np.clip(features + scale * spread * noise, low, high).astype(features.dtype)
        noisy.append(Examples(np.where(spread > 0, blurred, features), part.labels, part.columns) if scale else part)
    return tuple(noisy)


def _held_out(count: int, share: float) -> int:
    return min(max(round(share * count), 1), count - 1)


def _mixed(count: int, share: float, random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Places in random order: those that are spread evenly, and the rest."""
    if not 0 <= share < 1:
        raise DataError(
            f"a share of mixed={share} of the examples cannot be spread evenly.",
            why="what is not mixed is what tells the nodes apart.",
            do="give a share from 0 to below 1, such as 0.1.",
        )
    spread, rest = np.split(random.permutation(count), [round(share * count)])
    return spread, rest


def _owners(keys: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The keys as whole numbers or text, and which of them are empty."""
    if keys.dtype.kind in "biu":
        return keys, np.zeros(keys.shape, dtype=bool)
    if keys.dtype.kind == "f":  # whole numbers may have become so on the way
        return keys.astype(np.int64) if (keys == np.rint(keys)).all() else keys, np.isnan(keys)
    texts = keys.astype(str)
    return texts, np.isin(texts, ("", "None", "nan", "<NA>") if keys.dtype.kind == "O" else ("",))


def _feature(examples: Examples, feature: str | int | np.ndarray) -> np.ndarray:
    """One number for each example."""
    if isinstance(feature, np.ndarray):
        values = feature
    else:
        flat = examples.features.reshape(len(examples), -1)
        known = examples.columns or ()
        place = known.index(feature) if feature in known else feature
        if not isinstance(place, (int, np.integer)) or not -flat.shape[1] <= place < flat.shape[1]:
            raise DataError(
                f"the examples have no feature {feature!r}.",
                why=f"they have {flat.shape[1]} features"
                + (f": {', '.join(known)}." if known else ", and their columns have no names."),
                do="name one of the columns, or give its place, or one number for each example.",
            )
        values = flat[:, place]
    if values.shape != (len(examples),) or values.dtype.kind not in "biuf" or not np.isfinite(values).all():
        raise DataError(
            f"{len(examples)} examples cannot be sorted by values of shape {values.shape} and type {values.dtype}.",
            why="it takes one finite number for each example.",
            do="give a column without gaps, or an array of as many numbers as there are examples.",
        )
    return values


def _noise_scales(schema: Schema) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The width of each feature's range, 0 where it gets no noise, and its bounds; each broadcasts to the features."""
    low, high = schema.ranges().reshape(2, *schema.shape)
    is_number = np.array([column.kind == "number" for column in schema.columns] or True)
    bounds = [column.bounds for column in schema.columns] or [schema.bounds]
    least, most = (
        np.array([end if end is not None else open_end for end in ends], dtype=np.float32)
        for ends, open_end in zip(zip(*bounds, strict=True), (-np.inf, np.inf), strict=True)
    )
    return np.where(is_number, high - low, 0).astype(np.float32), least, most


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


def _check_enough(examples: int, nodes: int, shards: int) -> None:
    if nodes < 1 or shards < 1 or examples < nodes * shards:
        raise DataError(
            f"{examples} examples cannot be divided among {nodes} nodes{f', {shards} for each' * (shards != 1)}.",
            why="every node gets at least one example, and where it is to have several shards, one in each.",
            do="use fewer nodes or shards, or more examples.",
        )
