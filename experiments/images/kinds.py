"""What the components of a mixture of images are about: the classes of the training images that each explains.

Nobody told the mixture of classes. A component explains an image as far as its posterior probability goes, so all
images together share out their classes among the components. A component is named after its most frequent classes, as
many as make up `MOST` of what it explains.

Source: not in the paper
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

import einet

MOST = 2 / 3  # of the images that a component explains are of the classes in its name
ROWS = 500  # of a pass


@torch.no_grad()
def explained(mixture: einet.Mixture, x: Tensor, labels: Tensor, num_classes: int) -> Tensor:
    """How many images of each class each component explains, (components, classes), float64."""
    counts = torch.zeros(len(mixture.components), num_classes, dtype=torch.float64)
    device = mixture.weights.device
    for rows, own in zip(x.split(ROWS), labels.split(ROWS), strict=True):
        posterior = mixture.log_joint(rows.to(device)).softmax(1).double().cpu()
        counts.index_add_(1, own, posterior.T.contiguous())
    return counts


def kinds(counts: Tensor, classes: Sequence[str]) -> list[dict]:
    """Of each component its name, how many images it explains, and the shares of the classes that it is named after."""
    found = []
    for own in counts:
        shares, order = (own / own.sum()).sort(descending=True)
        number = int((shares.cumsum(0) < MOST).sum()) + 1
        named = {
            classes[i]: round(share, 3) for i, share in zip(order[:number].tolist(), shares.tolist(), strict=False)
        }
        found.append({"name": name_of(list(named)), "images": round(own.sum().item()), "shares": named})
    return found


def name_of(classes: list[str]) -> str:
    """ "mostly coat", "mostly coat or shirt", "mostly coat, shirt or dress"."""
    *first, last = classes
    return f"mostly {', '.join(first)} or {last}" if first else f"mostly {last}"
