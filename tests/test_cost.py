"""What one more seed costs."""

from __future__ import annotations

from pathlib import Path

from pipeline.files import write_json
from pipeline.report.cost import seed_cost
from tests.workshop import make_study


def test_one_more_seed_costs_what_one_did_of_every_variant(tmp_path: Path) -> None:
    """The means over seeds are added over variants; where a variant lacks a time, nothing is said."""
    study = make_study(tmp_path, variants={"a": {}, "b": {}})  # with seeds 0 and 1
    for variant, seed, seconds in (("a", 0, 1.0), ("a", 1, 2.0), ("b", 0, 10.0)):
        write_json(study.train(variant) / f"seed-{seed}" / "model.json", {"seconds": seconds})
        write_json(study.evaluation_time(variant, seed), 10 * seconds)
    assert seed_cost(study) == ""
    write_json(study.train("b") / "seed-1" / "model.json", {"seconds": 11.0})
    write_json(study.evaluation_time("b", 1), 90.0)
    assert seed_cost(study) == (
        "one more seed of all variants costs about 122 s of one worker, as the last run was:"
        " 12 s of training, 110 s of evaluation"
    )
