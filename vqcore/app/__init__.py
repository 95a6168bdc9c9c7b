"""The explorers of the suite as a dashboard in the browser: `vqcore app`, or `make app`."""

__all__ = ["Dashboard", "serve"]


def __getattr__(name):
    # The command line asks for `serve` alone, and a kernel for the dashboard alone.
    from importlib import import_module

    if name in __all__:
        return getattr(import_module({"Dashboard": "vqcore.app.page", "serve": "vqcore.app.serving"}[name]), name)
    raise AttributeError(f"module 'vqcore.app' has no attribute {name!r}")
