"""Number of parameters of a row, without the count of its work that ``zoo.summarize`` makes."""

import zoo


def num_parameters(name):
    """Build an encoder or language model on the meta device and count its parameters."""
    return sum(parameter.numel() for parameter in zoo.create_model(name, device="meta").parameters())
