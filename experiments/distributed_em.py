"""EM on several processes, each with rows of its own, as if on one: statistics are gradients, and gradients add up.

    torchrun --nproc-per-node 2 experiments/distributed_em.py --shares 700 300 --save model.safetensors

DistributedDataParallel (NCCL on GPUs, gloo elsewhere) averages gradients over the processes; EM wants the sum, or its
pseudocount would count once for every process. So each log-likelihood is multiplied by their number. A process that
has run out of rows goes along, with a row of weight 0, until the others are through.
"""

import argparse
import os

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

from einet import EM, Bernoulli, Einet, log_density, random_binary_trees, save


def train(model, shard, epochs, batch_size, lr, pseudocount):
    """EM in place, on all processes alike: a step takes the next `batch_size` rows of every shard."""
    parallel, device, world = DistributedDataParallel(model), next(model.parameters()).device, dist.get_world_size()
    em = EM(parallel, lr, pseudocount)
    steps = torch.tensor(-(-len(shard) // batch_size), device=device)
    dist.all_reduce(steps, dist.ReduceOp.MAX)
    for epoch in range(epochs):
        order = torch.randperm(len(shard), generator=torch.Generator().manual_seed(epoch))
        for step in range(steps.item()):
            batch = shard[order[step * batch_size : (step + 1) * batch_size]]
            weight = world if len(batch) else 0
            batch = batch if len(batch) else shard.new_zeros(1, *shard.shape[1:])
            em.zero_grad()
            (weight * parallel(batch.to(device)).double().sum()).backward()
            em.step()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shares", type=int, nargs="+", required=True, help="rows of each process")
    parser.add_argument("--save", required=True, help="where the first process writes the model")
    arguments = parser.parse_args()
    dist.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
    rank, device = dist.get_rank(), "cpu"
    if torch.cuda.is_available():
        device = f"cuda:{os.environ['LOCAL_RANK']}"
        torch.cuda.set_device(device)

    x = (torch.rand(sum(arguments.shares), 16, generator=torch.Generator().manual_seed(0)) < 0.3).float()
    x[:, 8:] = x[:, :8]  # something to learn
    shard = x.split(arguments.shares)[rank]
    model = Einet(random_binary_trees(16, 2, 5, seed=0), Bernoulli(), num_sums=5, seed=0).to(device)
    train(model, shard, epochs=5, batch_size=100, lr=0.3, pseudocount=0.1)
    if rank == 0:
        save(model, arguments.save)
        print(f"mean log-density of all rows: {log_density(model, x).mean():.3f} nats")
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
