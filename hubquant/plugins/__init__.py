"""Data sources that people write themselves: classes in a file of their own, run in a process of their own."""

from hubquant.plugins.base import DataSourcePluginBase
from hubquant.plugins.process import DEFAULT_SAMPLES, PluginRequest, plugin_texts

__all__ = ["DEFAULT_SAMPLES", "DataSourcePluginBase", "PluginRequest", "plugin_texts"]
