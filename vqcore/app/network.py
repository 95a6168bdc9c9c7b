"""A small network that reads digits, and what is left of it when its weights are codes: for an exhibit."""

import copy
from collections import OrderedDict

import numpy as np

from vqcore.data import digits

N_SEEN = 1_200  # digits shown in training; the others ask how much was learnt


def compressed(seed=0, block_sizes=(1, 2, 4), numbers=(4, 16, 64)):
    """What NetworkExplorer shows: (n_bytes, accuracy, weights) before, and of all block sizes and numbers of codewords.

    A network (64, 128, 10) is trained for 300 batches; after compression its codebooks are trained for 40 more.
    """
    from vqcore import compress

    task = _Task(seed)
    trained = task.train(task.network(), 300)
    before, coded = task.measured(trained), {}
    for size in block_sizes:
        for number in numbers:
            small = copy.deepcopy(trained)
            compress.quantize(small, {"first": (size, number), "out": (size, min(number, 16))}, seed=seed)
            coded[size, number, False] = task.measured(small)
            coded[size, number, True] = task.measured(task.train(small, 40))
    return before, coded


class _Task:
    """The digits in an order drawn at random, and what a network does with them."""

    def __init__(self, seed):
        import torch

        self.seed = seed
        points, labels = digits()
        order = np.random.default_rng(seed).permutation(len(points))
        self.images, self.labels = torch.from_numpy(points[order]), torch.from_numpy(labels[order])

    def network(self):
        import torch
        from torch import nn

        layers = [("first", nn.Linear(64, 128)), ("bend", nn.ReLU()), ("out", nn.Linear(128, 10))]
        model, rng = nn.Sequential(OrderedDict(layers)).double(), np.random.default_rng(self.seed)
        for value in model.parameters():
            scale = (2 / value.shape[-1]) ** 0.5 if value.ndim == 2 else 0.0
            value.data = torch.from_numpy(rng.normal(0, scale, value.shape))
        return model

    def train(self, model, n_steps):
        import torch

        rng, optimizer = np.random.default_rng(self.seed), torch.optim.Adam(model.parameters(), lr=2e-3)
        for _ in range(n_steps):
            ids = torch.from_numpy(rng.choice(N_SEEN, 64, replace=False))
            loss = torch.nn.functional.cross_entropy(model(self.images[ids]), self.labels[ids])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        return model

    def measured(self, model):
        """Bytes as float32, the share of unseen digits that are named correctly, and some of the first weights."""
        import torch

        from vqcore import compress

        with torch.no_grad():
            right = model(self.images[N_SEEN:]).argmax(1) == self.labels[N_SEEN:]
        n_bytes = compress.ledger(copy.deepcopy(model).float()).n_bytes
        return n_bytes, right.double().mean().item(), np.array(model.first.weight[:24, :48].tolist())
