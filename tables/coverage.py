"""Which paths a set of entries covers."""

from __future__ import annotations

from collections.abc import Collection, Iterable

from bpnas.profiler.backbone import Backbone, Site
from bpnas.profiler.paths import PathPart, all_paths


def paths_at(site: Site, channel_shuffle: bool, keys: Collection[str]) -> tuple[str, ...]:
    """Names of the paths that have an entry at this site, in the order of `all_paths`.

    Args:
        keys: of the entries; a set, or something else that is quick to look into.
    """
    return tuple(str(path) for path in all_paths() if PathPart(path, site, channel_shuffle).key in keys)


def paths_everywhere(backbones: Iterable[Backbone], keys: Collection[str]) -> tuple[str, ...]:
    """Names of the paths that have an entry at every site of all these backbones, in the order of `all_paths`."""
    places = {(site, backbone.channel_shuffle) for backbone in backbones for site in backbone.sites}
    everywhere = set.intersection(*(set(paths_at(site, shuffle, keys)) for site, shuffle in places))
    return tuple(name for name in map(str, all_paths()) if name in everywhere)
