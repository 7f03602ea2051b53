"""Values that had another name. The schema lets them through, so that the chart can say what they are now."""

from __future__ import annotations

REMOVED = {
    "commonLabels": "global.labels",
    "migrations.enabled": "migrations.mode, with `none` for false",
    "workers.defaults.scratchSize": "workers.defaults.scratch.size",
    "workers.pools.*.scratchSize": "workers.pools.*.scratch.size",
}
"""Path of the old value, with * for any name, and what to use now; templates/_removed.tpl has the same table."""
