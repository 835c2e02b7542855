"""One training of experiments/debd.py: from a candidate to a result on disk, and back to its model."""

from __future__ import annotations

import json
import math
import time
from dataclasses import asdict
from pathlib import Path

import torch

import einet
from einet.datasets import debd
from einet.storage.archive import read
from experiments.debd.search import PATIENCE, Candidate, Result, Size, cost
from experiments.records import say, write_whole

# Change it when a change of the code makes earlier trainings worthless.
VERSION = 1
# A training that costs more seconds than this is saved after every epoch, and looks at the clock this often.
LONG = 60.0


class OutOfTime(Exception):
    """The deadline has passed. All that was finished is on disk."""


class Search:
    """The trainings on one data set, each done once: `folder` keeps the result of each, and the models that lead."""

    def __init__(self, name: str, folder: Path, deadline: float, device: str = "cpu", seed: int = 0):
        self.name, self.folder, self.deadline = name, folder / f"v{VERSION}-seed{seed}", deadline
        self.device, self.seed = device, seed
        self.folder.mkdir(parents=True, exist_ok=True)
        self.train, self.valid = (debd(name, split).to(device) for split in ("train", "valid"))
        self.size = Size(len(self.train), len(self.valid), self.train.shape[1])
        self.results: dict[Candidate, Result] = {}

    def run(self, candidates: list[Candidate]) -> list[Result]:
        """Train those that have not been trained; all of them, best first. Only the best one's model is kept."""
        results = sorted(map(self.result_of, candidates), key=lambda result: -result.valid)
        for result in results[1:]:
            self.path(result.candidate, "safetensors").unlink(missing_ok=True)
        return results

    @property
    def seconds(self) -> float:
        return sum(result.seconds for result in self.results.values())

    def result_of(self, candidate: Candidate) -> Result:
        file = self.path(candidate, "json")
        if file.exists():
            content = json.loads(file.read_text())
            result = Result(**content | {"candidate": Candidate(**content["candidate"])})
        else:
            result = self.trained(candidate)
        self.results[candidate] = result
        return result

    def model_of(self, result: Result) -> einet.Einet:
        """The model of a result; trained again if it was dropped since, which gives the same one."""
        file = self.path(result.candidate, "safetensors")
        if not file.exists():
            self.trained(result.candidate)
        return einet.load(file).to(self.device)

    # Training

    def trained(self, candidate: Candidate) -> Result:
        if time.time() >= self.deadline:
            raise OutOfTime(self.name)
        model, history, error = self.fit(candidate)
        parameters = sum(parameter.numel() for parameter in model.parameters())
        best = max(history.valid, default=-math.inf)
        seconds = round(sum(history.seconds), 2)
        result = Result(candidate, best, history.best_epoch + 1, len(history.valid), parameters, seconds, error)
        if not error:
            einet.save(model, self.path(candidate, "safetensors"))
        write_whole(self.path(candidate, "json"), json.dumps(asdict(result)))
        self.path(candidate, "run").unlink(missing_ok=True)
        say(f"{self.name:10} {best:9.3f}  {seconds:6.0f} s (plan {cost(candidate, self.size):5.0f})  {candidate.key}")
        return result

    def fit(self, candidate: Candidate) -> tuple[einet.Einet, einet.History, str]:
        """Train in stages of about a minute; a training that was stopped goes on from its last epoch."""
        train, estimate = self.rows(candidate), cost(candidate, self.size)
        checkpoint, stage = None, candidate.epochs
        if estimate > LONG:
            checkpoint, stage = self.path(candidate, "run"), max(1, int(candidate.epochs * LONG / estimate))
        seen = epochs_seen(checkpoint)
        stops = [stop for stop in range(stage, candidate.epochs, stage) if stop > seen]
        for stop in (*stops, candidate.epochs):
            model = self.initial(candidate)
            optimizer = einet.EM(model, lr=candidate.lr, pseudocount=candidate.pseudocount)
            schedule = torch.optim.lr_scheduler.ExponentialLR(optimizer, candidate.decay)
            try:
                history = einet.fit(
                    model, train, valid=self.valid, epochs=stop, batch_size=candidate.batch_size, optimizer=optimizer,
                    scheduler=schedule, patience=PATIENCE, seed=self.seed, checkpoint=checkpoint, progress=False,
                )  # fmt: skip
            except ValueError as error:
                say(f"{self.name} {candidate.key}: {error}")
                return model, einet.History(), str(error)
            if len(history.valid) < stop:
                break  # it has stopped getting better
            if stop < candidate.epochs and time.time() >= self.deadline:
                raise OutOfTime(self.name)
        return model, history, ""

    def initial(self, candidate: Candidate) -> einet.Einet:
        depth, replicas, leaves, sums = candidate.structure
        graph = einet.random_binary_trees(self.size.variables, depth, replicas, seed=self.seed)
        # The records are of flat starts, as in the paper.
        return einet.Einet(graph, einet.Bernoulli(), sums, leaves, seed=self.seed, concentration=1.0).to(self.device)

    def rows(self, candidate: Candidate) -> torch.Tensor:
        if candidate.rows is None:
            return self.train
        order = torch.randperm(len(self.train), generator=torch.Generator().manual_seed(self.seed))
        return self.train[order[: candidate.rows].to(self.device)]

    def path(self, candidate: Candidate, ending: str) -> Path:
        return self.folder / f"{candidate.key}.{ending}"


def epochs_seen(checkpoint: Path | None) -> int:
    """How many epochs are in a checkpoint of `fit`."""
    if checkpoint is None or not checkpoint.exists():
        return 0
    return len(read(checkpoint)[0]["training"]["history"]["train"])
