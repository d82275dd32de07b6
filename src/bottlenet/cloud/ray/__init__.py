"""Replicas of the server on Ray Serve: `serve run bottlenet.cloud.ray:app`, or a Serve config file that names it.

`app` is imported when it is first used: `haproxy` runs without Ray.
"""

import importlib


def __getattr__(name: str) -> object:
    if name != "app":
        raise AttributeError(f"module 'bottlenet.cloud.ray' has no attribute {name!r}")
    return importlib.import_module("bottlenet.cloud.ray.replica").app
