"""One step's gradient: of any model by torch (`Plain`), of the common ones by hand (`Chain`); both are the same."""

from __future__ import annotations

from pipeline.models import HierarchicalVAE
from pipeline.objectives import STOPPED
from pipeline.params import TrainParams
from pipeline.training.gradients.chain import Chain
from pipeline.training.gradients.plain import Loss, Plain

__all__ = ["Chain", "Loss", "Plain", "gradient"]


def gradient(model: HierarchicalVAE, params: TrainParams) -> Chain | Plain:
    """Return what computes a batch's terms and leaves its gradient in the weights, in the fastest form there is."""
    form = Chain if Chain.fits(model) and params.objective not in STOPPED else Plain
    return form(model, Loss(params))
