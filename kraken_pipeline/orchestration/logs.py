"""The console logger of runs, set by KRAKEN_LOG_LEVEL and KRAKEN_LOG_FORMAT, without passwords.

Dagster stores the messages of a run itself; the pipeline's messages never contain a password.
"""

import logging

import dagster as dg

from kraken_pipeline.logs import formatter
from kraken_pipeline.settings import load_settings

_FIELDS = {
    "log_level": dg.Field(str, is_required=False, description="The lowest level; KRAKEN_LOG_LEVEL if it is not set."),
    "name": dg.Field(str, default_value="kraken_pipeline.runs", description="The logger's name."),
}


@dg.logger(config_schema=_FIELDS, description="Text in colours, or one JSON object a line; without passwords.")
def console(context: dg.InitLoggerContext) -> logging.Logger:
    """The logger of every job: Dagster's own, with the pipeline's formatter."""
    settings = load_settings()
    config = {"log_level": settings.kraken_log_level.upper(), **context.logger_config}
    logger = dg.colored_console_logger.logger_fn(dg.build_init_logger_context(logger_config=config))
    assert isinstance(logger, logging.Logger)  # noqa: S101 - for the type checker
    for handler in logger.handlers:
        handler.setFormatter(formatter(settings, handler.formatter))
    return logger
