"""Normal densities of vectors with missing entries: the linear algebra of `joint_normal`, all of it in float64.

L regions have K densities each, of s variables: means mu (L, K, s), and Cholesky factors F (L, K, s, s) of covariances.
For what is seen of a row, W (s, s) *whitens*: W' W is the inverse of the covariance of what is seen, filled with zeros.

    log p(x_seen) = -|W (x - mu)|^2 / 2 + log det W - n / 2 log 2 pi       n seen variables, det W of their block
    E[x | x_seen] = mu + F F' W' W (x - mu)

Rows with the same variables seen in a region share a W: a *cell* is a region and a row, and cells of one pattern stand
together, in blocks of equally many.

Source: not in the paper; the usual formulas of conditional normal densities
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from einet.layers.derivatives import differentiable
from einet.layers.scratch import CHUNK_NUMEL, slices

LOG_2_PI = math.log(2 * math.pi)
# Eigenvalues of correlations are not smaller: float64 could hardly tell them from 0.
RELATIVE_FLOOR = 1e-12
# In place of a standard deviation of 0.
TINY = 1e-150
# Numbers that the backward pass finds where they are; of more, it makes them again.
KEPT_NUMEL = 2**19
# Bits of one integer that variables are packed in, to find the rows with the same ones.
BITS = 31


def whitening(factor: Tensor, seen: Tensor | None) -> Tensor:
    """W for factors (n, K, s, s) and what is seen (n, s), or None for all."""
    eye = torch.eye(factor.shape[-1], dtype=factor.dtype, device=factor.device)
    if seen is None:
        return torch.linalg.solve_triangular(factor, eye, upper=False)
    both = (seen[:, None] & seen[:, :, None])[:, None]
    covariance = torch.where(both, factor @ factor.mT, eye)  # of a missing variable 1, and apart
    whitens = torch.linalg.solve_triangular(torch.linalg.cholesky_ex(covariance)[0], eye, upper=False)
    return torch.where(both, whitens, 0)


def log_normalizers(whitens: Tensor, seen: Tensor | None) -> Tensor:
    """log det W - n / 2 log 2 pi, (n, K)."""
    scales = torch.log(whitens.diagonal(dim1=-2, dim2=-1)) - LOG_2_PI / 2
    return (scales if seen is None else torch.where(seen[:, None], scales, 0)).sum(-1)


def factored(covariance: Tensor) -> Tensor:
    """Cholesky factors (..., s, s), of the nearest covariance where there is none, which may be singular."""
    factor, failed = torch.linalg.cholesky_ex(covariance)
    wrong = (failed > 0).nonzero(as_tuple=True)
    if not len(wrong[0]):
        return factor
    values, vectors = torch.linalg.eigh(covariance[wrong])
    return factor.index_put(wrong, _triangular(vectors, values.clamp_min(0).sqrt()))


def floored(factor: Tensor, min_variance: float) -> Tensor:
    """The factors (..., s, s) of the nearest covariances with no eigenvalue below `min_variance`.

    Nor is one of their correlations below RELATIVE_FLOOR, whatever the variables' units are.
    """
    deviations = factor.square().sum(-1, keepdim=True).sqrt().clamp_min(TINY)
    return _floored(deviations * _floored(factor / deviations, RELATIVE_FLOOR), min_variance)


def _floored(factor: Tensor, floor: float) -> Tensor:
    covariance = factor @ factor.mT
    covariance.diagonal(dim1=-2, dim2=-1).sub_(floor)
    below = (torch.linalg.cholesky_ex(covariance)[1] > 0).nonzero(as_tuple=True)
    if not len(below[0]):
        return factor
    vectors, roots, _ = torch.linalg.svd(factor[below])  # of small eigenvalues, the covariance would have no digit
    return factor.index_put(below, _triangular(vectors, roots.clamp_min(math.sqrt(floor))))


def _triangular(vectors: Tensor, roots: Tensor) -> Tensor:
    """Lower triangular factors of covariances (n, s, s) of these eigenvectors, and roots of eigenvalues (n, s)."""
    upper = torch.linalg.qr(roots[..., None] * vectors.mT)[1]
    signs = torch.where(upper.diagonal(dim1=-2, dim2=-1) < 0, -1.0, 1.0).to(upper.dtype)
    return (signs[..., None] * upper).mT


# Cells, by what is seen of them


class Cells(NamedTuple):
    """The cells of a group, number region * B + row, in blocks of w with one pattern.

    Attributes:
        region: of each pattern, (U,).
        seen: in each pattern, (U, s); None if everything is.
        pattern: of each block, ascending, (N,).
        cell: (N, w), filled up with any.
        own: (N, w), False for what fills up; None if nothing does.
    """

    region: Tensor
    seen: Tensor | None
    pattern: Tensor
    cell: Tensor
    own: Tensor | None

    def taken(self, values: Tensor, blocks: slice) -> Tensor:
        """values (cells, n) -> those of some blocks, (blocks, n, w)."""
        return values[self.cell[blocks]].transpose(1, 2)

    def put(self, result: Tensor, blocks: slice, values: Tensor) -> None:
        """Write the values (blocks, n, w) of some blocks into `result` (cells, n)."""
        values, own = values.transpose(1, 2), None if self.own is None else self.own[blocks]
        if own is None:
            result[self.cell[blocks].flatten()] = values.flatten(0, 1)
        else:
            result[self.cell[blocks][own]] = values[own]

    def numel_of_block(self, mean: Tensor) -> int:
        """What a block of densities of means (L, K, s) needs: W, and W times its rows."""
        return mean[0].numel() * max(mean.shape[2], self.cell.shape[1])

    def chunks(self, numel: int) -> Iterator[tuple[slice, slice, Tensor]]:
        """(blocks, their patterns, the pattern's place in these of each block), `numel` being what a block needs."""
        for blocks in slices(len(self.pattern), CHUNK_NUMEL // numel):
            own = self.pattern[blocks]
            first = int(own[0])
            yield blocks, slice(first, int(own[-1]) + 1), own - first


def cells_of(seen: Tensor | None, num_regions: int, num_rows: int, numel: int, device: torch.device) -> Cells:
    """The cells of L regions and B rows, of which `seen` (L, s, B) or (L, s, 1), or everything, is seen.

    `numel` is what a cell needs for its temporaries: a block has no more cells than fit a bounded memory.
    """
    widest = max(1, CHUNK_NUMEL // numel)
    regions = torch.arange(num_regions, device=device)
    if seen is not None and seen.shape[2] > 1:
        by_cell = seen.transpose(1, 2).flatten(0, 1)  # (cells, s)
        pattern = codes(by_cell, regions.repeat_interleave(num_rows))
        order, counts = pattern.argsort(), pattern.bincount()
        first = order[counts.cumsum(0) - counts]  # a cell of each
        width = min(widest, math.ceil(len(order) / len(counts)))
        region, seen = first // num_rows, by_cell[first]
    else:
        order, counts = torch.arange(num_regions * num_rows, device=device), torch.full_like(regions, num_rows)
        width = math.ceil(num_rows / math.ceil(num_rows / widest))
        region, seen = regions, None if seen is None else seen[..., 0]
    blocks = (counts + width - 1) // width
    of_block = torch.arange(len(counts), device=device).repeat_interleave(blocks)
    number = torch.arange(len(of_block), device=device) - (blocks.cumsum(0) - blocks)[of_block]
    place = (number * width)[:, None] + torch.arange(width, device=device)  # within the pattern
    own = place < counts[of_block, None]
    cell = order[torch.where(own, place + (counts.cumsum(0) - counts)[of_block, None], 0)]
    return Cells(region, seen, of_block, cell, None if own.all() else own)


def codes(seen: Tensor, start: Tensor) -> Tensor:
    """Numbers 0, 1, ... of the distinct pairs of a row of `seen` (n, s) and of `start` (n,), whole numbers: (n,)."""
    code = start
    for some in seen.split(BITS, 1):
        bits = (some.long() << torch.arange(some.shape[1], device=seen.device)).sum(1)
        code = torch.unique((code << BITS) | bits, return_inverse=True)[1]
    return code


# Densities


def log_densities(mean: Tensor, factor: Tensor, x: Tensor, seen: Tensor | None) -> Tensor:
    """log p of what is seen (L, s, B or 1) of x (L, s, B), finite everywhere: (L, K, B), by plain operations.

    One covariance for each row and region where rows differ: for small inputs, and derivatives of derivatives.
    """
    covariance, difference = factor @ factor.mT, (x[:, None] - mean[..., None]).mT  # (L, K, s, s), (L, K, B, s)
    if seen is None:
        seen = torch.ones_like(x[..., :1], dtype=torch.bool)
    eye = torch.eye(x.shape[1], dtype=x.dtype, device=x.device)
    seen = seen.mT[:, None]  # (L, 1, B or 1, s)
    covariance = torch.where(seen[..., None] & seen[..., None, :], covariance[:, :, None], eye)
    lower = torch.linalg.cholesky(covariance)  # (L, K, B or 1, s, s)
    whitened = torch.linalg.solve_triangular(lower, torch.where(seen, difference, 0)[..., None], upper=False)[..., 0]
    log_det = torch.log(lower.diagonal(dim1=-2, dim2=-1)) + seen.to(x.dtype) * (LOG_2_PI / 2)
    return -0.5 * whitened.square().sum(-1) - log_det.sum(-1)


class LogDensities(torch.autograd.Function):
    """`log_densities` of the cells of a group, in bounded memory: mean, factor, x (L, s, B), seen, cells -> (L, K, B).

    With weights c of the rows, z = W (x - mu) and n = sum c, the gradients are

        mu: sum c W' z          F: the lower triangle of  W' (sum c z z' - n) W F
    """

    @staticmethod
    def forward(ctx, mean, factor, x, seen, cells):
        (num_regions, entries, _), num_rows = mean.shape, x.shape[2]
        logs = x.new_empty(num_regions * num_rows, entries)
        chunks = _whitened(mean, factor, x, cells)
        small = len(cells.pattern) * cells.numel_of_block(mean) <= KEPT_NUMEL
        ctx.kept = kept = list(chunks) if small else None
        for blocks, patterns, place, whitens, z in kept or chunks:
            constants = log_normalizers(whitens, None if cells.seen is None else cells.seen[patterns])
            cells.put(logs, blocks, constants[place][..., None] - 0.5 * z.square().sum(2))
        ctx.save_for_backward(mean, factor, x, seen)
        ctx.cells = cells
        return logs.view(num_regions, num_rows, entries).transpose(1, 2).contiguous()

    @staticmethod
    def backward(ctx, gradient):
        mean, factor, x, seen = ctx.saved_tensors
        if torch.is_grad_enabled():

            def plain(mean: Tensor, factor: Tensor, x: Tensor) -> Tensor:
                return log_densities(mean, factor, x, seen)

            return *differentiable(plain, (mean, factor, x), gradient), None, None
        cells, of_cells = ctx.cells, gradient.transpose(1, 2).flatten(0, 1)
        grad_mean, grad_inner = torch.zeros_like(mean), torch.zeros_like(factor)
        grad_x = x.new_zeros(of_cells.shape[0], x.shape[1]) if ctx.needs_input_grad[2] else None
        for blocks, patterns, place, whitens, z in ctx.kept or _whitened(mean, factor, x, cells):
            counts = cells.taken(of_cells, blocks)  # (n, K, w)
            if cells.own is not None:
                counts = torch.where(cells.own[blocks, None], counts, 0)
            weighted, region = z * counts[:, :, None], cells.region[cells.pattern[blocks]]
            scatter = weighted @ z.mT
            missing = counts.sum(-1)[..., None]  # of each seen variable's E[z^2], its variance 1
            if cells.seen is not None:
                missing = missing * cells.seen[patterns][place][:, None]
            scatter.diagonal(dim1=-2, dim2=-1).sub_(missing)
            of_blocks = whitens[place]
            back = of_blocks.mT @ torch.cat((scatter, weighted.sum(-1, keepdim=True)), -1)  # (n, K, s, s + 1)
            grad_mean.index_add_(0, region, back[..., -1])
            grad_inner.index_add_(0, region, back[..., :-1] @ of_blocks)
            if grad_x is not None:
                cells.put(grad_x, blocks, -(of_blocks.mT @ weighted).sum(1))
        if grad_x is not None:
            grad_x = grad_x.view(len(x), -1, x.shape[1]).transpose(1, 2)
        return grad_mean, torch.tril(grad_inner @ factor), grad_x, None, None


def _whitened(
    mean: Tensor, factor: Tensor, x: Tensor, cells: Cells
) -> Iterator[tuple[slice, slice, Tensor, Tensor, Tensor]]:
    """(blocks, patterns, place, W (patterns, K, s, s), W (x - mu) (blocks, K, s, w)) of chunks of the cells."""
    entries, size = mean.shape[1:]
    centre = mean.mean(1)  # numbers are small from there
    by_cell = (x - centre[..., None]).transpose(1, 2).flatten(0, 1)
    mean = mean - centre[:, None]
    for blocks, patterns, place in cells.chunks(cells.numel_of_block(mean)):
        region = cells.region[patterns]
        whitens = whitening(factor[region], None if cells.seen is None else cells.seen[patterns])
        offset = whitens @ mean[region][..., None]  # (patterns, K, s, 1)
        z = whitens.flatten(1, 2)[place] @ cells.taken(by_cell, blocks)  # (blocks, K s, w)
        yield blocks, patterns, place, whitens, z.unflatten(1, (entries, size)) - offset[place]


# Conditional densities


def conditionals(mean: Tensor, factor: Tensor, x: Tensor, cells: Cells) -> Iterator[tuple[slice, Tensor, Tensor]]:
    """(blocks, E[x_d | seen] (n, K, s, w), Var[x_d | seen] (n, K, s)) of chunks; of a seen variable, x and 0."""
    for blocks, patterns, place, whitens, z in _whitened(mean, factor, x, cells):
        region = cells.region[patterns]
        covariance = factor[region] @ factor[region].mT
        explains = covariance @ whitens.mT  # (patterns, K, s, s)
        variance = covariance.diagonal(dim1=-2, dim2=-1) - explains.square().sum(-1)
        if cells.seen is not None:
            variance = torch.where(cells.seen[patterns, None], 0, variance.clamp_min(0))
        else:
            variance = torch.zeros_like(variance)
        yield blocks, mean[region][place][..., None] + explains[place] @ z, variance[place]


def rests(mean: Tensor, factor: Tensor, x: Tensor, cells: Cells) -> Iterator[tuple[slice, Tensor]]:
    """(blocks, log p(x_d | all else that is seen) (n, K, s, w)) of chunks; of a missing variable, anything.

    With P = W' W, the inverse of the covariance of what is seen, x_d has the variance 1 / P_dd and the deviation
    (P (x - mu))_d / P_dd from its mean.
    """
    for blocks, _, place, whitens, z in _whitened(mean, factor, x, cells):
        precision = whitens.square().sum(-2)[..., None]  # the diagonal of P, (patterns, K, s, 1)
        precision = torch.where(precision > 0, precision, 1)[place]
        shift = whitens.mT[place] @ z
        yield blocks, 0.5 * (torch.log(precision) - LOG_2_PI - shift.square() / precision)


def completed(start: Tensor, factor: Tensor, x: Tensor, seen: Tensor, entry: Tensor) -> Tensor:
    """start + F F' W' W (x - start) for starts (n, s), factors (n, s, s) and what is seen (n, s) of x (n, s).

    From the mean it is the conditional mean, and from a draw a conditional draw. Rows with equal numbers `entry` (n,)
    have equal factors.
    """
    code = codes(seen, entry)
    order = code.argsort()
    counts = code.bincount()
    first = order[counts.cumsum(0) - counts]
    whitens = whitening(factor[first, None], seen[first])[code, 0]
    z = whitens @ torch.where(seen, x - start, 0)[..., None]
    return start + (factor @ (factor.mT @ (whitens.mT @ z)))[..., 0]
