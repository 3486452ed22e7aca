"""What one more seed of a study costs, by the times of the models that are there."""

from __future__ import annotations

from pipeline.errors import InputError
from pipeline.files import read_json
from pipeline.study import Study

__all__ = ["seed_cost"]


def seed_cost(study: Study) -> str:
    """Say how long one more seed of all variants trains and is evaluated; nothing where a variant has no results yet.

    The times are means over the seeds that are there, one piece of work after another.
    """
    training, evaluation = 0.0, 0.0
    for variant in study.params.variants:
        seeds = study.params.train.seeds
        try:
            for seed in seeds:
                model = read_json(study.train(variant) / f"seed-{seed}" / "model.json", "seconds")
                seconds = read_json(study.evaluation_time(variant, seed))
                training += float(model["seconds"]) / len(seeds)
                evaluation += float(seconds) / len(seeds)
        except (InputError, TypeError, ValueError):
            return ""
    searches = study.params.sweep.searches
    search = ", and another search of each variant, if it is to have its own" if searches > 1 else ""
    return (
        f"one more seed of all variants costs about {training + evaluation:.3g} s of one worker, as the last run was:"
        f" {training:.3g} s of training, {evaluation:.3g} s of evaluation{search}"
    )
