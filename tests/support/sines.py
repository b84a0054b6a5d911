"""Weights of sines, with which the specifications recorded outputs of reference libraries."""

import torch


def fill(tensors):
    """0.3 sin(0.7 i + j) for element i of the tensor at place j of the sorted names, plus 1 in one-dimensional weights."""
    for place, name in enumerate(sorted(tensors)):
        tensor = tensors[name]
        values = 0.3 * torch.sin(0.7 * torch.arange(tensor.numel(), dtype=torch.float64) + place)
        tensors[name] = (values + (tensor.ndim == 1 and name.endswith("weight"))).view_as(tensor).to(tensor.dtype)
    return tensors


def sines_by_their_names(names, encoder, head=None):
    """Fill an encoder and its head by the reference's names of their tensors; returns the number of parameters.

    Args:
        names: module of ``zoo.interop.text_encoders``.
    """
    prefix = "" if head is None else f"{names.MODEL_TYPE}."
    theirs = names.from_zoo(encoder.state_dict(), prefix=prefix)
    if head is not None:
        theirs |= names.classifier_from_zoo(head.state_dict())
        drop = names.CLASSIFIER
        theirs = fill(theirs)
        head.load_state_dict(names.classifier_to_zoo(theirs))
        encoder.load_state_dict(names.to_zoo(theirs, drop=drop))
    else:
        theirs = fill(theirs)
        encoder.load_state_dict(names.to_zoo(theirs))
    return sum(tensor.numel() for tensor in theirs.values())
