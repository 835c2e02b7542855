"""What pictures look like, in numbers: how rough samples are, and how good halves of images that were hidden.

Source: not in the paper
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

import einet
from experiments.images.recipes import LEVELS, Images, Recipe, inputs, outputs

SAMPLES = 1000
HIDDEN_ROWS, PART = 1000, 1000  # test images, and how many are asked about at once

Density = einet.Einet | einet.Mixture


def roughness(images: Tensor) -> float:
    """The mean absolute difference of neighbouring pixels of (n, H, W) or (n, H, W, C), in bytes."""
    images = images.float()
    across, down = (images.diff(dim=axis).abs() for axis in (1, 2))
    return ((across.sum() + down.sum()) / (across.numel() + down.numel())).item()


def looks(model: Density, data: Images, recipe: Recipe, seed: int) -> dict[str, float]:
    """The roughness of samples over that of test images; and of the samples' leaves, at their means."""
    real, ratios = roughness(data.test), {}
    for name, noise in (("samples", True), ("without_noise", False)):
        generator = torch.Generator(next(model.parameters()).device).manual_seed(seed)
        drawn = einet.sample(model, SAMPLES, generator, noise=noise).cpu()
        ratios[name] = round(roughness(outputs(drawn, recipe, data.train.shape[1:])) / real, 4)
    return ratios


# Halves that are hidden


def covers(shape: tuple[int, int], seed: int = 0) -> dict[str, Tensor]:
    """Which pixels (H, W) are visible where a half is hidden: three halves in one piece, and single pixels."""
    row, column = torch.meshgrid(*map(torch.arange, shape), indexing="ij")
    scattered = torch.randperm(row.numel(), generator=torch.Generator().manual_seed(seed)).view(shape)
    return {
        "lower half": row < shape[0] // 2,
        "upper half": row >= shape[0] // 2,
        "right half": column < shape[1] // 2,
        "every other pixel, at random": scattered < row.numel() // 2,
    }


def hidden_halves(model: Density, data: Images, recipe: Recipe, seed: int) -> dict[str, dict[str, float]]:
    """For each cover what the model, and two baselines, make of the hidden halves of test images.

    nats          log-density of the hidden half given the visible one, a hidden value; of bytes, for all leaves
    mean, draw    root of the mean squared difference, in bytes, of the conditional mean, and of one draw
    nearest       the same of the training image whose visible half is nearest
    class_mean    the same of the mean image of its class, which the model is not told
    """
    images, labels, train = data.test[:HIDDEN_ROWS], data.test_labels[:HIDDEN_ROWS], data.train
    x = inputs(images, recipe, seed + 2)
    means = torch.stack([train[data.labels == label].float().mean(0) for label in data.labels.unique()])
    generator = torch.Generator().manual_seed(seed)
    whole = einet.log_density(model, x, batch_size=PART)
    bound = LEVELS if recipe.leaves == "Normal" else 1
    found = {}
    for name, visible in covers(data.shape).items():
        observed, hidden = visible.flatten(), ~visible
        seen = einet.log_density(model, x, observed.expand(len(x), -1), batch_size=PART)
        parts = [part for part in x.split(PART)]
        mean = torch.cat([einet.conditional_mean(model, part, observed) for part in parts])
        draw = torch.cat([einet.sample_conditional(model, part, observed, 1, generator)[0] for part in parts])
        scale = LEVELS if recipe.leaves == "Normal" else 1
        answers = {
            "mean": mean.view(images.shape) * scale - (0.5 if scale > 1 else 0),
            "draw": outputs(draw, recipe, images.shape[1:]),
            "nearest": train[nearest(images[:, visible], train[:, visible])],
            "class_mean": means[labels.long()],
        }
        errors = {who: (answer.float() - images)[:, hidden].square().mean().sqrt() for who, answer in answers.items()}
        nats = (whole - seen).double().mean() / hidden.sum() - math.log(bound)
        found[name] = {who: round(value.item(), 4) for who, value in {"nats": nats, **errors}.items()}
    return found


def nearest(some: Tensor, others: Tensor) -> Tensor:
    """For each of some images (n, ...) the index of the nearest of others, by the Euclidean distance of bytes."""
    some, best, index = some.flatten(1).float(), [], []
    for part in others.flatten(1).split(PART):
        distance, place = torch.cdist(some, part.float()).min(1)
        best.append(distance)
        index.append(place + PART * len(index))
    part = torch.stack(best).argmin(0)
    return torch.stack(index)[part, torch.arange(len(some))]
