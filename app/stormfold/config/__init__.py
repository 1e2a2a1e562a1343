"""The configuration: the YAML file that gives alerts their meaning, checked and typed."""

from stormfold.config.dump import document, dump
from stormfold.config.loading import ConfigError, load, loads
from stormfold.config.model import Config
from stormfold.config.reloadable import LoadedConfig, ReloadableConfig
from stormfold.config.schema import ALL_LABELS

__all__ = [
    "ALL_LABELS",
    "Config",
    "ConfigError",
    "LoadedConfig",
    "ReloadableConfig",
    "document",
    "dump",
    "load",
    "loads",
]
