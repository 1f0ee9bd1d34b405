"""A monotone spline: the one-dimensional normalising flow."""

from typing import Any

import torch
from torch import Tensor
from torch.distributions import Transform, constraints


class MonotoneSpline(Transform):
    """Monotone rational-quadratic spline between equally spaced knots, and lines beyond them.

    Between two knots a width w apart, with rise g, mean slope s = g/w, slopes a and b at its ends
    and ξ ∈ [0, 1] the place between them,

        y = y₀ + g (s ξ² + a ξ(1−ξ)) / (s + (a + b − 2s) ξ(1−ξ)).

    It is smooth, increasing and inverted by a quadratic equation. Each column has its own spline.

    Parameters
    ----------
    bound : float
        The knots lie from −bound to bound.
    loc : Tensor
        Midpoint of the knots' images, shape (D,), real.
    heights : Tensor
        Rise from knot to knot, shape (D, bins), positive.
    slopes : Tensor
        Derivative at the knots, shape (D, bins + 1), positive; the outer two continue as lines.

    References
    ----------
    Durkan, Bekasov, Murray and Papamakarios (2019), *Neural spline flows*, NeurIPS 32, section 3.1.
    Gregory and Delbourgo (1982), doi:10.1093/imanum/2.2.123.
    """

    domain = constraints.real
    codomain = constraints.real
    bijective = True
    sign = +1

    def __init__(self, bound: float, loc: Tensor, heights: Tensor, slopes: Tensor) -> None:
        super().__init__(cache_size=1)
        self.bound, self.slopes, self.heights = bound, slopes, heights
        num_bins = heights.shape[-1]
        self.width = 2 * bound / num_bins
        self.knots = self.width * torch.arange(num_bins + 1).to(heights) - bound
        rise = torch.nn.functional.pad(heights.cumsum(-1), (1, 0))
        self.images = loc[..., None] + rise - rise[..., -1:] / 2

    def _bin(self, value: Tensor, edges: Tensor) -> tuple[Tensor, ...]:
        """Look up, of the bin of each value: left knot, its image, rise, and both slopes."""
        index = (value[..., None] >= edges[..., 1:-1]).sum(-1, keepdim=True)

        def at(table: Tensor, k: Tensor) -> Tensor:
            return table.expand(*value.shape, table.shape[-1]).gather(-1, k)[..., 0]

        pieces = ((self.knots, index), (self.images, index), (self.heights, index))
        slopes = ((self.slopes, index), (self.slopes, index + 1))
        return tuple(at(*piece) for piece in (*pieces, *slopes))

    def _call(self, x: Tensor) -> Tensor:
        inside = x.clamp(-self.bound, self.bound)
        left, image, rise, a, b = self._bin(inside, self.knots)
        s, xi = rise / self.width, (inside - left) / self.width
        bump = xi * (1 - xi)
        y = image + rise * (s * xi.square() + a * bump) / (s + (a + b - 2 * s) * bump)
        below, above = (x + self.bound).clamp(max=0), (x - self.bound).clamp(min=0)
        return y + self.slopes[..., 0] * below + self.slopes[..., -1] * above

    def _inverse(self, y: Tensor) -> Tensor:
        low, high = self.images[..., 0], self.images[..., -1]
        inside = torch.minimum(torch.maximum(y, low), high)
        left, image, rise, a, b = self._bin(inside, self.images)
        s, step = rise / self.width, inside - image
        bend = step * (a + b - 2 * s)
        linear = rise * a - bend
        root = (linear.square() + 4 * (bend + rise * (s - a)) * s * step).clamp(min=0).sqrt()
        x = left + self.width * 2 * s * step / (linear + root)
        below = (y - low).clamp(max=0) / self.slopes[..., 0]
        return x + below + (y - high).clamp(min=0) / self.slopes[..., -1]

    def log_abs_det_jacobian(self, x: Tensor, y: Tensor) -> Tensor:
        """log dy/dx, element by element."""
        inside = x.clamp(-self.bound, self.bound)
        left, _, rise, a, b = self._bin(inside, self.knots)
        s, xi = rise / self.width, (inside - left) / self.width
        bump = xi * (1 - xi)
        top = b * xi.square() + 2 * s * bump + a * (1 - xi).square()
        return 2 * s.log() + top.log() - 2 * (s + (a + b - 2 * s) * bump).log()

    def with_cache(self, cache_size: int = 1) -> Any:
        """Return itself: it always remembers its last pair, so a draw needs no inverse."""
        return self
