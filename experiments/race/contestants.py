"""The contestants of efficiency.py: one class for each implementation, all with the same four methods.

    Contestant(num_variables=512, depth=4, num_replicas=10, num_sums=10, device="cpu", seed=0)
    .train(batch)            one learning step on a batch (B, D)
    .log_likelihood(batch)   log-densities (B,)
    .parameters()            how many sum weights and leaf parameters it has: equal for all, or the race is not fair
    .remark(batch)           anything a reader of the numbers must know, measured after training

What is equal: the structure (RAT: R random binary trees of the same depth, so the same sizes layer by layer), K in
every region, Gaussian leaves with a mean and a variance for each of D x K x R, weights of every K_out x K x K einsum,
float32, batches, threads, denormals flushed to zero. What is not: `learner` and `differences`.

Rivals are not held back: Adam in its fused form, and spflow without its argument checks, which cost it a third of its
inference time.
"""

from __future__ import annotations

import math

import torch

HALF_LOG_TAU = 0.5 * math.log(2 * math.pi)


class Contestant:
    """Common ground: a `model`, and Adam on its negative log-likelihood unless a class brings its own learner."""

    learner = "Adam"
    differences = ""
    compiles = False

    model: torch.nn.Module

    def reset_learner(self) -> None:
        """Forget gradients and the optimizer's state; parameters stay."""
        self.model.zero_grad(set_to_none=True)
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=0.01, fused=True)

    def train(self, batch: torch.Tensor) -> None:
        self.optimizer.zero_grad()
        (-self.log_likelihood(batch).mean()).backward()
        self.optimizer.step()

    def log_likelihood(self, batch: torch.Tensor) -> torch.Tensor:
        raise NotImplementedError

    def parameters(self) -> dict[str, int]:
        leaves = sum(p.numel() for p in self.leaf_parameters())
        return {"sum_weights": sum(p.numel() for p in self.model.parameters()) - leaves, "leaf_parameters": leaves}

    def leaf_parameters(self) -> list[torch.Tensor]:
        raise NotImplementedError

    def mode(self, training: bool) -> None:
        self.model.train(training)

    def bytes_built_in(self) -> int:
        """What training needs and this library allocates when its model is built, so that no measured peak shows it."""
        return 0

    def remark(self, batch: torch.Tensor) -> str:
        return ""


class LibCirkit(Contestant):
    """libcirkit 0.3.1: Tucker layers, folded and optimised, evaluated eagerly."""

    differences = "softmax weights; EM is not implemented for its Tucker layer"

    def __init__(self, num_variables, depth, num_replicas, num_sums, device, seed):
        from cirkit.pipeline import PipelineContext
        from cirkit.templates.region_graph import RandomBinaryTree
        from cirkit.templates.utils import (
            Parameterization,
            name_to_input_layer_factory,
            parameterization_to_factory,
        )

        tree = RandomBinaryTree(num_variables, depth=depth, num_repetitions=num_replicas, seed=seed)
        circuit = tree.build_circuit(
            input_factory=name_to_input_layer_factory("gaussian"),
            sum_product="tucker",
            sum_weight_factory=parameterization_to_factory(Parameterization(activation="softmax")),
            num_input_units=num_sums,
            num_sum_units=num_sums,
        )
        context = PipelineContext(backend="torch", semiring="lse-sum", fold=True, optimize=True)
        self.model = context.compile(circuit).to(device)
        self.evaluate = self.model
        self.reset_learner()

    def log_likelihood(self, batch):
        return self.evaluate(batch).flatten()

    def leaf_parameters(self):
        return [p for layer in self.model.layers if "Gaussian" in type(layer).__name__ for p in layer.parameters()]

    def remark(self, batch):
        """libcirkit clamps log-densities at -708.4, and a clamped one has no gradient: count them."""
        from cirkit.backend.torch.utils import LOG_CLAMP_MIN

        clamped, total = 0, 0

        def count(_layer, _inputs, output):
            nonlocal clamped, total
            clamped += (output <= LOG_CLAMP_MIN + 1e-3).sum().item()
            total += output.numel()

        hooks = [layer.register_forward_hook(count) for layer in self.model.layers]
        with torch.no_grad():
            self.model(batch)
        for hook in hooks:
            hook.remove()
        return f"{clamped / total:.1%} of its log-densities are clamped at -708" if clamped else ""


class LibCirkitCompiled(LibCirkit):
    """The same circuit under torch.compile; compiling is not part of the times, nor of the memory."""

    differences = "as libcirkit; compiling is not counted"
    compiles = True

    def __init__(self, **settings):
        super().__init__(**settings)
        self.evaluate = torch.compile(self.model)


class SPFlow(Contestant):
    """spflow 1.1.0: the Einet of its zoo, with its einsum layers."""

    differences = "softmax weights; its own minibatch EM is slower and gave NaN on this data"

    def __init__(self, num_variables, depth, num_replicas, num_sums, device, seed):
        from spflow.meta import Scope
        from spflow.modules.leaves import Normal
        from spflow.zoo.einet import Einet

        leaves = Normal(
            scope=Scope(list(range(num_variables))),
            out_channels=num_sums,
            num_repetitions=num_replicas,
            validate_args=False,
        )
        self.model = Einet(
            [leaves],
            num_sums=num_sums,
            num_leaves=num_sums,
            depth=depth,
            num_repetitions=num_replicas,
            layer_type="einsum",
        ).to(device)
        self.reset_learner()

    def log_likelihood(self, batch):
        return self.model.log_likelihood(batch).flatten()

    def leaf_parameters(self):
        return list(self.model.leaf_modules.parameters())


class LibSPNKeras(Contestant):
    """libspn-keras 0.6.0 of 2021, on the last TensorFlow whose Keras it knows: outer sums, exp, matrix product, log.

    The structure is layered by its own classes; a permutation a replica takes the place of the random trees.
    """

    differences = "a TensorFlow graph, traced before the clock starts; weights normalised after each step, no softmax"

    def __init__(self, num_variables, depth, num_replicas, num_sums, device, seed):
        import tensorflow as tf

        if device != "cpu":
            raise ValueError(f"this TensorFlow is raced on the CPU alone, got {device!r}")
        if tf.config.threading.get_intra_op_parallelism_threads() != torch.get_num_threads():
            tf.config.threading.set_intra_op_parallelism_threads(torch.get_num_threads())
        tf.keras.utils.set_random_seed(seed)
        self.tf, self.model = tf, libspn_network(tf.keras, num_variables, depth, num_replicas, num_sums)
        self.evaluate = tf.function(self.model)
        self.reset_learner()

    def reset_learner(self):
        self.optimizer = self.tf.keras.optimizers.Adam(0.01)
        self.optimizer.build(self.model.trainable_variables)
        self.step = self.tf.function(self._step)
        self.step.get_concrete_function(self.tf.TensorSpec((None, self.model.input_shape[1]), self.tf.float32))

    def _step(self, batch):
        with self.tf.GradientTape() as tape:
            loss = -self.tf.reduce_mean(self.model(batch))
        variables = self.model.trainable_variables
        self.optimizer.apply_gradients(zip(tape.gradient(loss, variables), variables, strict=True))

    def train(self, batch):
        self.step(self.tf.constant(batch.numpy()))

    def log_likelihood(self, batch):
        return torch.from_numpy(self.evaluate(self.tf.constant(batch.numpy())).numpy()).flatten()

    def parameters(self):
        leaves, *sums = (sum(int(self.tf.size(v)) for v in layer.trainable_variables) for layer in self._with_weights())
        return {"sum_weights": sum(sums), "leaf_parameters": leaves}

    def _with_weights(self):
        return [layer for layer in self.model.layers if layer.trainable_variables]

    def mode(self, training):
        """Keras asks in the call, and none of these layers would answer differently."""

    def bytes_built_in(self):
        return sum(variable.dtype.size * int(self.tf.size(variable)) for variable in self.optimizer.variables)


def libspn_network(keras, num_variables: int, depth: int, num_replicas: int, num_sums: int):
    """The layers of libspn-keras that make R trees over shuffled variables, (B, D) -> (B, 1)."""
    from libspn_keras import layers

    factors = [num_variables // 2**depth] + depth * [2]
    stack = [
        keras.Input((num_variables,)),
        layers.FlatToRegions(num_decomps=num_replicas),
        layers.NormalLeaf(num_components=num_sums, scale_trainable=True),
        layers.PermuteAndPadScopesRandom(factors=factors if factors[0] > 1 else factors[1:]),
    ]
    if factors[0] > 1:
        stack.append(layers.ReduceProduct(num_factors=factors[0]))
    first = {"accumulator_initializer": keras.initializers.RandomUniform(0.1, 1.0)}  # the default wants K > 1
    for level in range(depth):
        stack += [layers.DenseProduct(num_factors=2), layers.DenseSum(num_sums if level < depth - 1 else 1, **first)]
    return keras.Sequential([*stack, layers.RootSum(return_weighted_child_logits=False, **first)])


class LogDomain(Contestant):
    """The scheme of LibSPN and SPFlow as Section 3.2 of the paper describes it: products first, then log-sum-exp.

    `LogDomainNetwork` below is a plain but decent version of it: batch last, one call a layer.
    """

    differences = "softmax weights; products held in memory"

    def __init__(self, num_variables, depth, num_replicas, num_sums, device, seed):
        import einet

        graph = einet.random_binary_trees(num_variables, depth, num_replicas, seed=seed)
        self.model = LogDomainNetwork(graph, num_sums).to(device)
        self.reset_learner()

    def log_likelihood(self, batch):
        return self.model(batch)

    def leaf_parameters(self):
        return [self.model.mean, self.model.log_std]


class EinetEM(Contestant):
    """This package: fused einsum layers, trained by stochastic EM."""

    learner = "EM"

    def __init__(self, num_variables, depth, num_replicas, num_sums, device, seed):
        import einet

        graph = einet.random_binary_trees(num_variables, depth, num_replicas, seed=seed)
        self.model = einet.Einet(graph, einet.Normal(), num_sums=num_sums, seed=seed).to(device)
        self.reset_learner()

    def reset_learner(self):
        import einet

        self.model.zero_grad(set_to_none=True)
        self.optimizer = einet.EM(self.model, lr=0.5)

    def train(self, batch):
        self.optimizer.zero_grad()
        self.model(batch).sum().backward()
        self.optimizer.step()

    def log_likelihood(self, batch):
        return self.model(batch)

    def leaf_parameters(self):
        return list(self.model.leaves.parameters())


class LogDomainNetwork(torch.nn.Module):
    """A circuit over `graph` whose products are kept as log-densities, K x K for each partition.

    Leaves fill a tensor of D x R x K x B log-densities, which is then summed over the scopes of the leaf regions.
    A partition's products are the outer sum of its children, and each of its K sums is a log-sum-exp over those K x K,
    so that K^3 exponentials are taken where the einsum layer takes 2K.

    For balanced trees: all children of a layer lie in the layer below, and only the root has more than one partition.
    """

    def __init__(self, graph, num_sums: int):
        super().__init__()
        leaves, *layers = graph.topological_layers()
        size = (graph.num_variables, graph.num_replicas, num_sums, 1)  # (D, R, K, 1)
        self.mean = torch.nn.Parameter(torch.randn(size))
        self.log_std = torch.nn.Parameter(torch.zeros(size))
        self.num_leaves = len(leaves)
        self.register_buffer("leaf_of", leaf_of_variable(graph))

        self.logits = torch.nn.ParameterList()
        below = leaves
        for depth, layer in enumerate(layers, start=1):
            num_outputs = 1 if depth == len(layers) else num_sums
            partitions = [partition for region in layer for partition in graph.partitions_of[region]]
            if depth < len(layers) and len(partitions) > len(layer):
                raise ValueError("only the root may have several partitions here")
            position = {region: index for index, region in enumerate(below)}
            children = [[position[p.left] for p in partitions], [position[p.right] for p in partitions]]
            self.register_buffer(f"children_{depth}", torch.tensor(children))
            self.logits.append(torch.nn.Parameter(torch.randn(len(partitions), num_outputs, num_sums**2)))
            below = layer
        self.mixing_logits = torch.nn.Parameter(torch.randn(len(partitions)))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        vectors = self.leaf_vectors(x.T)  # (L, K, B)
        for depth, logits in enumerate(self.logits, start=1):
            left, right = (vectors[index] for index in getattr(self, f"children_{depth}"))
            products = left.unsqueeze(2) + right.unsqueeze(1)  # (L, K, K, B)
            log_weights = torch.log_softmax(logits, dim=2).unsqueeze(3)  # (L, K_out, K*K, 1)
            vectors = torch.logsumexp(products.flatten(1, 2).unsqueeze(1) + log_weights, dim=2)
        log_mixing = torch.log_softmax(self.mixing_logits, dim=0)
        return torch.logsumexp(vectors[:, 0] + log_mixing[:, None], dim=0)  # (B,)

    def leaf_vectors(self, x: torch.Tensor) -> torch.Tensor:
        x = x[:, None, None, :]  # (D, 1, 1, B)
        precision = torch.exp(-2 * self.log_std)
        log_normalizer = 0.5 * precision * self.mean**2 + self.log_std + HALF_LOG_TAU
        # theta . T(x) - A, as two fused multiply-adds over the whole tensor
        densities = torch.addcmul(-log_normalizer, precision * self.mean, x)
        densities = torch.addcmul(densities, -0.5 * precision, x * x)  # (D, R, K, B)
        densities = densities.flatten(0, 1)
        vectors = densities.new_zeros(self.num_leaves, *densities.shape[1:])
        return vectors.index_add(0, self.leaf_of, densities)


def leaf_of_variable(graph) -> torch.Tensor:
    """For variable d and replica r, at position d * R + r: the leaf region that they belong to."""
    leaf_of = torch.empty(graph.num_variables, graph.num_replicas, dtype=torch.long)
    for index, leaf in enumerate(graph.leaves):
        leaf_of[list(graph.regions[leaf].scope), graph.replica_of[leaf]] = index
    return leaf_of.flatten()


CONTESTANTS: dict[str, type[Contestant]] = {
    "einet": EinetEM,
    "libcirkit": LibCirkit,
    "libcirkit-compiled": LibCirkitCompiled,
    "spflow": SPFlow,
    "libspn-keras": LibSPNKeras,
    "log-domain": LogDomain,
}
