"""The config of jobs, as the launchpad and `dagster job launch` know it: types, defaults and descriptions.

Options of a job's own are a `dg.Config`. Those of a `RunSpec` are fields made from it, because a `dg.Config` cannot
express a list that may also be comma-separated text, or a time that is text or a number. `RunSpec` alone checks the
values.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import dagster as dg

from kraken_pipeline.settings import load_settings
from kraken_pipeline.workflow.run_spec import RunSpec, run_spec

_TYPES: Mapping[str, Any] = {
    "tier": str,  # in capitals or small letters, which an enumeration would not allow
    "intervals": dg.ScalarUnion(str, [int]),
    "pairs": dg.ScalarUnion(str, [str]),
    "start": dg.Any,  # text, or a number of seconds: Dagster has no type for either
    "end": dg.Any,
    "archive_dirs": [str],
    "api_backfill": bool,
    "complete": bool,
    "accept_unknown_pairs": bool,
    "dry_run": bool,
    "lookback_days": int,
    "max_gaps_per_asset": int,
    "budget": int,
}
_SHAPES: Mapping[str, str] = {
    "intervals": "A list of minutes, or text: 60,1440 or 1h,1d.",
    "pairs": "A list of names, or text: XBTUSD,ETHUSD.",
    "start": "An ISO date or time, UTC: 2023-07-01; or seconds since 1970-01-01 UTC.",
    "end": "An ISO date or time, UTC: 2023-10-01; or seconds since 1970-01-01 UTC.",
}


def spec_fields(names: Iterable[str] = tuple(RunSpec.model_fields)) -> dict[str, dg.Field]:
    """Return the fields of some options of a `RunSpec`; null counts as not given.

    `intervals` has no default: to name all ten intervals is not the same as to name none.
    """
    return {name: _field(name) for name in names}


def _field(name: str) -> dg.Field:
    of_spec = RunSpec.model_fields[name]
    return dg.Field(
        dg.Noneable(_TYPES[name]),
        is_required=False,
        default_value=None if name == "intervals" else RunSpec().model_dump(mode="json")[name],
        description=" ".join(filter(None, [of_spec.description, _SHAPES.get(name)])),
    )


def mapping(
    op: str, fields: Mapping[str, dg.Field], checked: Callable[[Mapping[str, Any]], dict[str, Any]]
) -> dg.ConfigMapping:
    """Return a config mapping that validates a run's config before the run exists, and passes it to an op.

    Args:
        op: The name of the op.
        fields: The fields of the config.
        checked: Validates the config, and returns the config of the op.
    """

    def mapped(values: Mapping[str, Any]) -> dict[str, Any]:
        return {
            "ops": {op: {"config": checked(values)}},
            "loggers": {"console": {"config": {"log_level": load_settings().kraken_log_level.upper()}}},
        }

    return dg.ConfigMapping(config_fn=mapped, config_schema=dict(fields))


def spec_mapping(op: str) -> dg.ConfigMapping:
    """Return the config mapping of a run whose config is a `RunSpec`."""
    return mapping(op, spec_fields(), lambda values: run_spec(values).as_config())
