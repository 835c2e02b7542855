"""The contestants of gpu.py: ways to compute the same network, and other libraries on the nearest one they have.

    contestant = make("tf32x3+graph", case, device, seed)
    .train(batch)            one step on the rows of the data set that `batch` (B,) names
    .log_likelihood(x)       log-densities of x (B, D)
    .counts()                sum weights and leaf parameters
    .differences             what is not equal

All but the libraries are one einet network, with the same leaves, graph and EM, and differ in the einsum layer:

    plain        PyTorch alone: outer products in slices, by a batched product
    at-once      outer products of a whole layer in memory, and a batched product
    compiled     the same under torch.compile
    log-domain   the scheme of LibSPN and SPFlow: sums of logarithms, then log-sum-exp over K * K' of them
    ieee, tf32, tf32x3, bf16x3   the fused kernels, by their precision; `+graph` replays the step as a CUDA graph

PyJuice multiplies entry by entry (Hadamard), so a partition has K x K weights where the einsum layer has K x K x K. So
it comes twice: with the same K, and with the K at which it has as many sum weights ("pyjuice=weights").
"""

from __future__ import annotations

import torch
from torch import Tensor

import einet
from einet.data import CheckedData, graphed_step, step
from einet.layers.scaled import Scaled, fetched
from einet.layers.sums import EinsumLayer
from experiments.race.contestants import LibCirkit

FUSED = ("ieee", "tf32", "tf32x3", "bf16x3")


def make(name: str, case, device: str, seed: int, data: Tensor):
    if name == "libcirkit":
        return Cirkit(case, device, seed, data)
    if name.startswith("pyjuice"):
        return PyJuice(case, device, seed, data, equal_weights=name.endswith("=weights"))
    return OurNetwork(name, case, device, seed, data)


class OurNetwork:
    differences = ""

    def __init__(self, name: str, case, device: str, seed: int, data: Tensor):
        scheme, _, graphed = name.partition("+")
        self.model = einet.Einet(case.graph(seed), case.family(), num_sums=case.num_sums, seed=seed).to(device)
        einet.set_precision(self.model, scheme if scheme in FUSED else None)
        layers = [layer for layer in self.model.modules() if isinstance(layer, EinsumLayer)]
        for layer in layers:
            if scheme in OTHER_SCHEMES:
                layer.forward = OTHER_SCHEMES[scheme].__get__(layer)
        self.optimizer = einet.EM(self.model, lr=0.5)
        self.rows = CheckedData(self.model, data)
        self.evaluate = self.model
        if scheme == "compiled":
            self.model.compile()
        self.graph = graphed_step(self.rows, self.optimizer, case.batch) if graphed else None

    def train(self, batch: Tensor) -> None:
        step(self.rows, self.optimizer, batch) if self.graph is None else self.graph.step(batch)

    def log_likelihood(self, x: Tensor) -> Tensor:
        return self.model(x, check=False)

    def counts(self) -> dict[str, int]:
        leaves = sum(part.phi.numel() for part in self.model.leaves.parts)
        return {"sum_weights": sum(p.numel() for p in self.model.parameters()) - leaves, "leaf_parameters": leaves}


def outer_products_at_once(layer: EinsumLayer, *children) -> Scaled:
    """The plain path without slices: what a compiler may fuse."""
    (left, log_left), (right, log_right) = fetched(children)
    outer = (left[:, :, None] * right[:, None]).flatten(1, 2)  # (L, K * K', B)
    sums = torch.bmm(layer.weights, outer)
    scale = sums.detach().amax(1).clamp_min(torch.finfo(sums.dtype).tiny)
    return Scaled(sums / scale[:, None], log_left + log_right + torch.log(scale.double()))


def log_sum_exp(layer: EinsumLayer, *children) -> Scaled:
    """log S_k = log sum_p exp(log W_kp + log l_i + log r_j): K_out * K * K' exponentials a node and row."""
    (left, log_left), (right, log_right) = fetched(children)
    left, right = (torch.log(child.clamp_min(torch.finfo(child.dtype).tiny)) for child in (left, right))
    products = (left[:, :, None] + right[:, None]).flatten(1, 2)  # (L, K * K', B)
    sums = torch.logsumexp(products[:, None] + torch.log(layer.weights)[..., None], 2)  # (L, K_out, B)
    scaled = Scaled.from_log(sums, layer.weights.dtype)
    return Scaled(scaled.value, log_left + log_right + scaled.log_scale)


OTHER_SCHEMES = {"at-once": outer_products_at_once, "compiled": outer_products_at_once, "log-domain": log_sum_exp}


class Cirkit:
    """libcirkit on random binary trees, as in efficiency.py, by Adam."""

    def __init__(self, case, device: str, seed: int, data: Tensor):
        if case.trees is None:
            raise NotImplementedError("libcirkit is raced on random binary trees alone")
        self.inner = LibCirkit(case.num_variables, *case.trees, case.num_sums, device, seed)
        self.data, self.differences, self.counts = data, LibCirkit.differences, self.inner.parameters
        self.log_likelihood = self.inner.log_likelihood

    def train(self, batch: Tensor) -> None:
        self.inner.train(self.data[batch])


class PyJuice:
    """PyJuice on the same region graph, by its own EM, its passes recorded as CUDA graphs."""

    def __init__(self, case, device: str, seed: int, data: Tensor, equal_weights: bool):
        import pyjuice

        torch.manual_seed(seed)
        graph = case.graph(seed)
        self.num_sums = equal_weights_of(graph, case.num_sums) if equal_weights else case.num_sums
        root = pyjuice_circuit(pyjuice, graph, self.num_sums, case.channels)
        self.model = pyjuice.compile(root).to(device)
        self.data = data.flatten(1)
        nodes = self.num_sums * len(graph.leaves)
        self.differences = f"entry-by-entry products, K={self.num_sums}, {nodes} leaf entries; its own precision"
        self.sum_weights = weights_of(graph, self.num_sums)
        pairs = sum(len(graph.regions[leaf].scope) for leaf in graph.leaves)
        self.leaf_parameters = 2 * self.num_sums * case.channels * pairs

    def train(self, batch: Tensor) -> None:
        x = self.data[batch]
        with torch.no_grad():
            self.model(x, record_cudagraph=True)
            self.model.backward(x, flows_memory=0.0, record_cudagraph=True, logspace_flows=True)
            self.model.mini_batch_em(step_size=0.5, pseudocount=1e-6)

    def log_likelihood(self, x: Tensor) -> Tensor:
        return self.model(x.flatten(1), record_cudagraph=True)

    def counts(self) -> dict[str, int]:
        return {"sum_weights": self.sum_weights, "leaf_parameters": self.leaf_parameters}


def weights_of(graph, num_sums: int) -> int:
    """Sum weights of a circuit with entry-by-entry products: a region of P partitions has K sums over P K products."""
    inner = [region for region, partitions in enumerate(graph.partitions_of) if partitions]
    outputs = {region: 1 if region == graph.root else num_sums for region in inner}
    return sum(outputs[region] * num_sums * len(graph.partitions_of[region]) for region in inner)


def equal_weights_of(graph, num_sums: int) -> int:
    """The K, a multiple of 16 where it is that large, at which PyJuice's sum weights come closest to einet's."""
    inner = [(region, len(partitions)) for region, partitions in enumerate(graph.partitions_of) if partitions]
    wanted = sum(count * num_sums**2 * (1 if region == graph.root else num_sums) for region, count in inner)
    candidates = [*range(1, 16), *range(16, 2048, 16)]
    return min(candidates, key=lambda candidate: abs(weights_of(graph, candidate) - wanted))


def pyjuice_circuit(pyjuice, graph, num_sums: int, channels: int):
    """The graph in PyJuice's terms: leaves are products of Gaussians, one vector for each variable of each leaf."""
    block = max(size for size in (1, 2, 4, 8, 16, 32) if num_sums % size == 0)
    blocks = num_sums // block
    made: dict[int, list] = {}  # the factors of a region: its inputs, or its vector of sums
    with pyjuice.set_block_size(block):
        for layer in graph.topological_layers():
            for region in layer:
                if not graph.partitions_of[region]:
                    variables = [d * channels + c for d in graph.regions[region].scope for c in range(channels)]
                    gaussian = [pyjuice.distributions.Gaussian(mu=0.0, sigma=1.0, min_sigma=1e-3) for _ in variables]
                    made[region] = [
                        pyjuice.inputs(variable, num_node_blocks=blocks, dist=dist)
                        for variable, dist in zip(variables, gaussian, strict=True)
                    ]
                    continue
                partitions = graph.partitions_of[region]
                products = [pyjuice.multiply(*made[p.left], *made[p.right]) for p in partitions]
                if region == graph.root:
                    return pyjuice.summate(*products, num_node_blocks=1, block_size=1)
                made[region] = [pyjuice.summate(*products, num_node_blocks=blocks)]
