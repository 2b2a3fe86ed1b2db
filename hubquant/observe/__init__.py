"""Passes over a model, in memory or streamed, that add up what flows into its weights."""

from hubquant.observe.collection import OUTPUT, Collection, CollectionRequest, SnapshotPlace, collected_names
from hubquant.observe.collector import collect

__all__ = ["OUTPUT", "Collection", "CollectionRequest", "SnapshotPlace", "collect", "collected_names"]
