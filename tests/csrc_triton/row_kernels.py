"""The kernels that write the gradient of rows, called by themselves, without a bias to where the rows lie."""

import torch
from torch import Tensor

from csrc_triton import gtw_cross_entropy, vocab_parallel, vocab_pieces
from csrc_triton.options import LossOptions

_WANTED = {"want_correct": True, "ignore_index": -100}


def row_gradient(logits: Tensor, gradient: Tensor, labels: Tensor) -> Tensor:
    """Fills and returns `gradient` (R, V): of the sum of the losses of rows whose label is not -100."""
    weights = (labels >= 0).float()
    gtw_cross_entropy.gtw_cross_entropy_forward(
        logits, labels, weights, None, LossOptions(), gradient=gradient, **_WANTED
    )
    return gradient


def piece_gradient(logits: Tensor, gradient: Tensor, labels: Tensor) -> Tensor:
    """The same by the kernels of a piece, which is the whole vocabulary."""
    weights, n_cols = (labels >= 0).float(), logits.shape[1]
    piece, options = vocab_pieces.Piece(0, n_cols, n_cols), LossOptions()
    label_x = vocab_pieces.label_logits(logits, labels, piece, torch.float32)
    told = vocab_parallel.piece_statistics(logits, labels, label_x, weights, piece, options, **_WANTED)
    whole = torch.cat([told, label_x[None]])
    vocab_parallel.piece_losses(
        logits, labels, whole, weights, None, piece, options, gradient=gradient, **_WANTED
    )
    return gradient
