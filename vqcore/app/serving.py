"""Serves the dashboard with Voilà on the loopback address, to whoever has the token: every visitor has a kernel."""

import json
import os
import secrets
import shutil
import socket
import sys
import tempfile
from importlib import resources
from pathlib import Path

from vqcore import checks

NOTEBOOK = "explorers.ipynb"
SOURCE = "from vqcore.app import Dashboard\n\nDashboard()"
IDLE_SECONDS = 120  # after which the kernel of a visitor who has left without a word is ended


def add_options(parser):
    """The options of `vqcore app`."""
    parser.add_argument("--port", type=int, default=8866, help="of the loopback address (default 8866; 0 takes any)")
    parser.add_argument("--visitors", type=int, default=12, help="at most so many at a time (default 12)")
    parser.add_argument("--notebooks", type=Path, default=Path("notebooks"), help="to hand out (default notebooks)")
    parser.add_argument("--no-browser", action="store_true", help="only print the address")


def main(chosen):
    """`vqcore app`: serves until Ctrl-C; 2 if Voilà is not installed."""
    try:
        return serve(chosen.port, chosen.visitors, chosen.notebooks, browser=not chosen.no_browser)
    except ImportError as error:
        print(f"vqcore app: {error}. Install it: pip install voila", file=sys.stderr)
        return 2


def serve(port=8866, visitors=12, notebooks="notebooks", browser=True):
    """Serve the dashboard on 127.0.0.1 until Ctrl-C, to who brings the token that is printed.

    Args:
        port: 0 takes a free one.
        visitors: how many there may be at a time; each has a process of its own.
        notebooks: folder whose notebooks the page hands out; it may be missing.
        browser: whether a browser is opened.
    """
    from tornado.ioloop import IOLoop
    from voila.app import Voila

    port, visitors = checks.as_count(port, "port", 0, 65_535), checks.as_count(visitors, "visitors", 1, 1_000)
    port, token = port or _free_port(), os.environ.get("VQCORE_APP_TOKEN") or secrets.token_urlsafe(18)
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # the kernels share the machine
    with tempfile.TemporaryDirectory(prefix="vqcore-app-") as name:
        folder = Path(name)
        _prepare(folder, Path(notebooks))
        data = [str(folder / "data"), os.environ.get("JUPYTER_PATH")]
        os.environ["JUPYTER_PATH"] = os.pathsep.join(filter(None, data))
        app = Voila.instance()
        app.initialize([*_options(port, token, browser), str(folder / "served" / NOTEBOOK)])
        app.voila_configuration.prelaunch_hook = lambda visit, **_: _let_in(visit, app, visitors)
        # Said by the loop, which runs when the port is taken.
        address = f"http://127.0.0.1:{port}/?token={token}"
        IOLoop.current().add_callback(print, f"The explorers are at {address}\nCtrl-C ends them.", flush=True)
        app.start()
    return 0


def _options(port, token, browser):
    """Voilà's command line, which takes precedence over configuration files of the user."""
    return [
        "--Voila.ip=127.0.0.1", f"--port={port}", "--Voila.port_retries=0", f"--token={token}",
        f"--Voila.open_browser={browser}", "--template=vqcore", "--strip_sources=True", "--show_tracebacks=False",
        # What may be fetched as a file: the notebooks of the suite, and nothing else.
        r"--VoilaConfiguration.file_allowlist=[0-9][\w]*\.ipynb", "--VoilaConfiguration.file_denylist=explorers.*",
        # Others may fail in Voilà, and none is needed.
        "--VoilaConfiguration.extension_allowlist=@jupyter-widgets/jupyterlab-manager",
        "--VoilaConfiguration.extension_allowlist=@voila-dashboards/widgets-manager8",
        "--VoilaConfiguration.extension_allowlist=anywidget",
        f"--MappingKernelManager.cull_idle_timeout={IDLE_SECONDS}", "--MappingKernelManager.cull_interval=20",
        "--PasswordIdentityProvider.allow_password_change=False", "--Voila.log_level=WARN",
    ]  # fmt: skip


def _prepare(folder, notebooks):
    """The notebook that is served, the notebooks it hands out, and the template of its page."""
    served, template = folder / "served", folder / "data" / "voila" / "templates" / "vqcore"
    served.mkdir()
    template.mkdir(parents=True)
    empty = {"metadata": {}, "outputs": [], "execution_count": None}
    cell = {"cell_type": "code", "id": "explorers", "source": SOURCE} | empty
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    about = {"title": "Explorers", "kernelspec": kernel}
    made = {"nbformat": 4, "nbformat_minor": 5, "cells": [cell], "metadata": about}
    (served / NOTEBOOK).write_text(json.dumps(made))
    for path in sorted(notebooks.glob("[0-9]*.ipynb")):
        shutil.copy(path, served)
    (template / "conf.json").write_text('{"base_template": "lab"}')
    (template / "index.html.j2").write_text((resources.files("vqcore.app") / "page.html.j2").read_text())


def _let_in(visit, app, visitors):
    """Refuse who finds no place: a kernel for everyone who comes would end in a machine without memory."""
    from tornado.web import HTTPError

    if len(app.kernel_manager.list_kernel_ids()) >= visitors:
        raise HTTPError(503, reason=f"All {visitors} places are taken. Try again later")
    # To read it is to set the cookie without which a page that is left cannot say so, and keeps its place.
    visit.xsrf_token  # noqa: B018


def _free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
