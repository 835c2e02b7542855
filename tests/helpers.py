"""What several test files do with a model."""

from einet import EM


def log_likelihood(model, x, observed=None, labels=None):
    log_density = model(x, observed)
    return (log_density if labels is None else log_density.gather(1, labels[:, None])).sum()


def em_step(model, x, observed=None, labels=None, **arguments):
    """One step in place, from fresh gradients; returns the model."""
    model.zero_grad()
    log_likelihood(model, x, observed, labels).backward()
    EM(model, **arguments).step()
    return model
