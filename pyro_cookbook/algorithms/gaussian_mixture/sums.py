"""One pass over the rows of a mixture, in chunks: what EM and variational Bayes share."""

import math
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

from pyro_cookbook.programs.state.isolation import one_thread_each

# Scalars in the largest array of a chunk: on a processor it stays in the cache, on an accelerator
# it is large enough that starting its kernels costs nothing.
CHUNK_SCALARS = {"cpu": 2**19, "cuda": 2**25}
# Chunks of a block. A thread sums a block; blocks are added in their order, so that the sums do not
# depend on how many threads there are.
_BLOCK = 8
# Where a block has fewer scalars, torch uses one thread anyway.
_SMALL = 2**15
# exp of less is no normal number: it is hundreds of times slower, and no row would notice.
_LOWEST = {torch.float64: -700.0, torch.float32: -80.0}


@dataclass(frozen=True)
class SufficientStatistics:
    """Sums over rows that an M step needs; additive over chunks.

    Attributes
    ----------
    count : Tensor
        Σ_n r_nk, shape (K,).
    first : Tensor
        Σ_n r_nk v_n, shape (K, D).
    second : Tensor
        Σ_n r_nk v_n v_nᵀ, shape (K, D, D).
    """

    count: Tensor
    first: Tensor
    second: Tensor

    def __add__(self, other: "SufficientStatistics") -> "SufficientStatistics":
        """Add the sums of two chunks."""
        return SufficientStatistics(
            self.count + other.count, self.first + other.first, self.second + other.second
        )

    def interpolate(self, other: "SufficientStatistics", weight: float) -> "SufficientStatistics":
        """(1 − weight) · self + weight · other."""
        return SufficientStatistics(
            torch.lerp(self.count, other.count, weight),
            torch.lerp(self.first, other.first, weight),
            torch.lerp(self.second, other.second, weight),
        )


def statistics(weight: Tensor, v: Tensor) -> SufficientStatistics:
    """Weighted sums of the rows, with weights of shape (n, K)."""
    second = torch.stack([(column[:, None] * v).mT @ v for column in weight.mT])
    return SufficientStatistics(weight.sum(0), weight.mT @ v, second)


@dataclass(frozen=True)
class Components:
    """log joint_k(v) = constant_k − ½ |root_k (v − loc_k)|², in nats.

    Attributes
    ----------
    constant : Tensor
        Shape (K,).
    root : Tensor
        Shape (K, D, D), with root_kᵀ root_k the precision.
    loc : Tensor
        Shape (K, D).
    """

    constant: Tensor
    root: Tensor
    loc: Tensor


def expected_sums(
    components: Components, v: Tensor, origin: Tensor | None = None
) -> tuple[SufficientStatistics, Tensor]:
    """Sum expected statistics and log norms over the rows, and keep neither rows nor shares.

    Parameters
    ----------
    components : Components
        Means relative to `origin`.
    v : Tensor
        Rows, shape (n, D), in double or single precision.
    origin : Tensor, optional
        Shape (D,), taken from every row. Default: 0. Second moments lose digits far from it.

    Returns
    -------
    sums : SufficientStatistics
        With r_nk = exp(log joint_k(v_n) − norm_n), of rows relative to `origin`; in double
        precision whatever that of the rows.
    norm : Tensor
        Σ_n norm_n with norm_n = log Σ_k exp log joint_k(v_n), in nats, shape (), in double
        precision.

    Raises
    ------
    ValueError
        Without rows.

    Notes
    -----
    A chunk has its rows as columns. Then one product whitens them for all components, another makes
    all second moments of the D (D + 1) / 2 products of features, and sums over components or
    features run along memory.
    """
    if not len(v):
        raise ValueError("v: got no rows")
    sweep = _Sweep(components, v, origin)
    blocks = _in_threads(sweep, v.split(_BLOCK * sweep.num_rows))
    total = next(blocks)
    for found in blocks:
        for sums, more in zip(total, found, strict=True):
            sums.add_(more)
    count, first, products, norm = total
    second = products[:, _places(v.shape[1])].view(*first.shape, -1)
    return SufficientStatistics(count, first, second), norm


@cache
def _places(num_features: int) -> Tensor:
    """Where v_i v_j stands among the products of pairs, shape (D · D,)."""
    i = torch.arange(num_features)
    ahead = (i - i[:, None]) % num_features  # of i, j is so far; of j, i is D less that
    place = torch.where(ahead <= num_features // 2, ahead * num_features + i[:, None], -1)
    return torch.where(place >= 0, place, place.mT).flatten()


def _in_threads(sweep: "_Sweep", blocks: Sequence[Tensor]) -> Iterator[tuple[Tensor, ...]]:
    """Sum each block, in order, in as many threads as torch has."""
    if len(blocks[0]) * sweep.size < _SMALL:
        yield from map(sweep, blocks)
        return
    with one_thread_each() as threads:
        if min(threads, len(blocks)) == 1 or blocks[0].is_cuda:
            yield from map(sweep, blocks)
            return
        with ThreadPoolExecutor(min(threads, len(blocks))) as pool:
            yield from pool.map(sweep, blocks)


class _Sweep:
    """Sums over blocks of rows, under given components."""

    def __init__(self, components: Components, v: Tensor, origin: Tensor | None) -> None:
        self.num_components, self.num_features = components.loc.shape
        root = components.root.detach() * math.sqrt(0.5)
        shift = root @ components.loc.detach()[:, :, None]
        self.root = root.reshape(-1, self.num_features).to(v)
        self.shift = shift.reshape(-1, 1).to(v)
        self.constant = components.constant.detach()[:, None].to(v)
        origin = v.new_zeros(self.num_features) if origin is None else origin
        self.origin = origin.detach()[:, None].to(v)
        # Products v_i v_j of all pairs: rows i beside rows i + s modulo D, for s up to D / 2.
        self.num_products = (self.num_features // 2 + 1) * self.num_features
        self.size = max(len(self.root), self.num_products)
        scalars = CHUNK_SCALARS.get(v.device.type, CHUNK_SCALARS["cuda"])
        self.num_rows = max(scalars // self.size, 512)

    @torch.no_grad()
    def __call__(self, block: Tensor) -> tuple[Tensor, ...]:
        """Σ r, Σ r v, Σ r v_i v_(i + s) as (K, s · i), and Σ norm, all in double precision."""
        K, D = self.num_components, self.num_features
        total: tuple[Tensor, ...] = ()
        twice = work = r = block.new_empty(0)
        for rows in block.split(self.num_rows):
            if (n := len(rows)) != r.shape[-1]:  # the first chunk, or a shorter last one
                twice, work, r = (block.new_empty(size, n) for size in (2 * D, self.size, K))
            v = torch.sub(rows.mT, self.origin, out=twice[:D])
            twice[D:] = v
            white = torch.addmm(self.shift, self.root, v, beta=-1, out=work[: K * D])
            torch.sum(white.square_().view(K, D, n), 1, out=r)
            norm = self._share(r)
            ahead = twice.as_strided((D // 2 + 1, D, n), (n, n, 1))
            products = torch.mul(v, ahead, out=work[: self.num_products].view(ahead.shape))
            found = r.sum(1), r @ v.mT, r @ products.view(-1, n).mT, norm
            if not total:
                total = tuple(sums.double() for sums in found)
                continue
            for sums, more in zip(total, found, strict=True):
                sums.add_(more)
        return total

    def _share(self, r: Tensor) -> Tensor:
        """Turn ½ |root (v − loc)|² into r, in place, and sum the log norms."""
        torch.sub(self.constant, r, out=r)
        top = r.amax(0)
        r.sub_(top).clamp_min_(_LOWEST[r.dtype]).exp_()
        sums = r.sum(0)
        r.div_(sums)
        return (top + sums.log()).sum(dtype=torch.float64)
