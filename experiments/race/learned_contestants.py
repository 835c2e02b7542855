"""The contestants of learned.py: hidden Chow-Liu trees, one class for each implementation.

    Contestant(data="accidents", num_sums=16, device="cpu", seed=0)      the methods are those of contestants.py

What is equal: the rows, the tree over their columns (that of `einet.chow_liu`, handed to libcirkit and spflow; sparc-pc
learns its own, from the same information), K, a K x K sum for each inner variable, float32, batches, threads. Columns
are binary, or have 256 values. What is not: `learner` and `differences`.
"""

from __future__ import annotations

import torch

from experiments.race.contestants import Contestant

PIXELS, VALUES = (28, 28), 256


def rows_of(data: str, count: int, seed: int = 0) -> torch.Tensor:
    """(count, D) integers: the first training rows of a binary set, or "pixels".

    A set with fewer rows begins again with its first. Pixels are smooth random fields of 256 values, whose trees are as
    deep as those of photographs.
    """
    import einet.datasets

    if data != "pixels":
        rows = einet.datasets.debd(data, "train").long()
        return rows[torch.arange(count) % len(rows)]
    noise = torch.randn(count, 1, *PIXELS, generator=torch.Generator().manual_seed(seed))
    for _ in range(4):
        noise = torch.nn.functional.avg_pool2d(noise, 3, stride=1, padding=1)
    fields = noise / noise.std() * VALUES / 6 + VALUES / 2
    return fields.flatten(1).round().long().clamp(0, VALUES - 1)


def tree_of(graph) -> list[int]:
    """The variable above each variable, -1 above the root: the first child of a partition is its variable's leaf."""
    parent, variable_of = [-1] * graph.num_variables, {}
    for region, own in enumerate(graph.partitions_of):
        leaf = own[0].children[0] if own else region
        (variable_of[region],) = graph.regions[leaf].scope
    for region, _, *others in graph.partitions:
        for child in others:
            parent[variable_of[child]] = variable_of[region]
    return parent


class LearnedContestant(Contestant):
    """Common ground: the rows, from which the structure is learned, and how many values a column has."""

    def __init__(self, data: str, num_sums: int, device: str, seed: int):
        import einet

        self.data, self.num_sums, self.device, self.seed = data, num_sums, device, seed
        rows = rows_of(data, 2000)
        self.values = VALUES if data == "pixels" else 2
        self.shape = PIXELS if data == "pixels" else None
        self.graph = einet.chow_liu(rows, shape=self.shape)
        self.make()
        self.reset_learner()

    def make(self) -> None:
        raise NotImplementedError


class EinetThin(LearnedContestant):
    """This package: thin layers, trained by stochastic EM."""

    learner = "EM"

    def make(self):
        import einet

        leaf = einet.Bernoulli() if self.values == 2 else einet.Categorical(categories=self.values)
        self.model = einet.Einet(self.graph, leaf, num_sums=self.num_sums, seed=self.seed, sum_product="cp")
        self.model.to(self.device)

    def reset_learner(self):
        import einet

        self.model.zero_grad(set_to_none=True)
        self.optimizer = einet.EM(self.model, lr=0.5, pseudocount=0.1)

    def train(self, batch):
        self.optimizer.zero_grad()
        self.model(batch).sum().backward()
        self.optimizer.step()

    def log_likelihood(self, batch):
        return self.model(batch)

    def leaf_parameters(self):
        return list(self.model.leaves.parameters())


class LibCirkitTree(LearnedContestant):
    """libcirkit 0.3.1: cp-t layers over the region graph of the tree, folded and optimised, evaluated eagerly."""

    differences = "softmax weights and categorical leaves: two logits where a Bernoulli leaf has one probability"

    def make(self):
        import numpy as np
        from cirkit.pipeline import PipelineContext
        from cirkit.templates.region_graph.algorithms.utils import tree2rg
        from cirkit.templates.utils import (
            Parameterization,
            name_to_input_layer_factory,
            parameterization_to_factory,
        )

        circuit = tree2rg(np.array(tree_of(self.graph))).build_circuit(
            input_factory=name_to_input_layer_factory("categorical", num_categories=self.values),
            sum_product="cp-t",
            sum_weight_factory=parameterization_to_factory(Parameterization(activation="softmax")),
            num_input_units=self.num_sums,
            num_sum_units=self.num_sums,
        )
        context = PipelineContext(backend="torch", semiring="lse-sum", fold=True, optimize=True)
        self.model = context.compile(circuit).to(self.device)
        self.evaluate = self.model

    def log_likelihood(self, batch):
        return self.evaluate(batch).flatten()

    def leaf_parameters(self):
        return [p for layer in self.model.layers if "Categorical" in type(layer).__name__ for p in layer.parameters()]


class LibCirkitTreeCompiled(LibCirkitTree):
    """The same circuit under torch.compile; compiling is not part of the times, nor of the memory."""

    differences = "as libcirkit; compiling is not counted"
    compiles = True

    def make(self):
        super().make()
        self.evaluate = torch.compile(self.model)


class SPFlowHCLT(LearnedContestant):
    """spflow 1.1.0: the builder of its `zoo.hclt`, on the same edges, which it roots at the first variable."""

    differences = "softmax weights, equal at the start; rooted at the first variable; a transition for leaves, too"

    def make(self):
        from spflow.meta import Scope
        from spflow.modules.leaves import Bernoulli, Categorical
        from spflow.zoo.hclt.learn import _build_hclt_from_tree

        def emission(variable):
            own = {"scope": Scope([variable]), "out_channels": self.num_sums, "validate_args": False}
            return Bernoulli(**own) if self.values == 2 else Categorical(**own, K=self.values)

        edges = [(child, parent) for child, parent in enumerate(tree_of(self.graph)) if parent >= 0]
        self.model = _build_hclt_from_tree(
            num_features=self.graph.num_variables,
            edges=edges,
            num_hidden_cats=self.num_sums,
            emission_factory=emission,
            init="uniform",  # with "random" its sums have one entry each
            device=None,
            dtype=None,
        ).to(self.device)

    def log_likelihood(self, batch):
        return self.model.log_likelihood(batch.float()).flatten()

    def leaf_parameters(self):
        return [
            p for m in self.model.modules() if type(m).__name__ in ("Bernoulli", "Categorical") for p in m.parameters()
        ]


class SparC(LearnedContestant):
    """sparc-pc 0.8.2: a circuit of single nodes in C++, on the tree that it learns from the same rows."""

    learner = "projected gradient"
    differences = "nodes one by one, in float64; a transition for each variable, leaves included; its own tree"

    def make(self):
        import numpy as np
        from sparc.structures import HCLT
        from sparc.structures.distributions import Bernoulli, Categorical

        dist = Bernoulli() if self.values == 2 else Categorical(self.values)
        rows = rows_of("pixels" if self.values > 2 else self.data, 2000).numpy().astype(np.int32)
        self.circuit = HCLT(rows, self.num_sums, num_bins=min(self.values, 32), input_dist=dist, seed=self.seed)

    def reset_learner(self):
        from sparc.optim import MLETrainer

        self.trainer, self.compiled = MLETrainer(self.circuit, lr=0.01), None

    def train(self, batch):
        self.trainer.step(batch.numpy().astype("int32"))
        self.compiled = None  # parameters have changed

    def log_likelihood(self, batch):
        self.compiled = self.compiled or self.circuit.compile()
        return torch.as_tensor(self.compiled.log_likelihood(batch.numpy().astype("int32")))

    def mode(self, training):
        """It has none."""

    def parameters(self):
        return {"sum_weights": None, "leaf_parameters": None}


LEARNED: dict[str, type[LearnedContestant]] = {
    "einet": EinetThin,
    "libcirkit": LibCirkitTree,
    "libcirkit-compiled": LibCirkitTreeCompiled,
    "spflow": SPFlowHCLT,
    "sparc-pc": SparC,
}
