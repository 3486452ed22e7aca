"""What the name of a metric says: which term it is, of which level, in which unit."""

from __future__ import annotations

import re

__all__ = ["level", "term", "unit"]

UNITS = {
    "active": "units",
    "informative": "units",
    "bias_unmeasured": "terms",
    "bpd": "bits/dim",
    "seconds": "s",
}  # of the metrics that are not in nats
UNITS |= dict.fromkeys(("probe", "mig", "dci_disentanglement", "dci_completeness", "dci_informativeness"), "score")
UNITS |= {
    "acceptance": "share",
    "high": "share",
    "saturated": "share",
    "ess": "draws",
    "khat": "shape",
    "reliable": "0 or 1",
}
UNITS |= {"from_posterior": "share", "outlier_auroc": "share", "temperatures": "count"}
LEVEL = re.compile(r"/(z\d+)(?=/|$)")


def term(metric: str) -> str:
    """Return the name without its level.

    >>> term("mutual_information/z2/lower"), term("iwae/50")
    ('mutual_information/lower', 'iwae/50')
    """
    return LEVEL.sub("", metric)


def level(metric: str) -> str:
    """Return the level, z0 being the image, or an empty text where a metric is of all levels.

    >>> level("mutual_information/z2/lower"), level("elbo")
    ('z2', '')
    """
    match = LEVEL.search(metric)
    return match[1] if match else ""


def unit(metric: str) -> str:
    """Return the unit; shares and scores have none, a score lies between about 0 and 1.

    >>> unit("rate/z1"), unit("bpd"), unit("ais/acceptance"), unit("ess/median")
    ('nats', 'bits/dim', 'share', 'draws')
    """
    parts = metric.split("/")
    return UNITS.get(parts[-1]) or UNITS.get(parts[0], "nats")
