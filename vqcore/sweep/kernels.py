"""The kernel of a run: it talks through sockets in a folder of its own, and is ended by its own process group."""

import math
import time
from queue import Empty

from jupyter_client.asynchronous import AsyncKernelClient
from jupyter_client.manager import AsyncKernelManager
from jupyter_client.provisioning import LocalProvisioner


class _Client(AsyncKernelClient):
    """A client that is ready as soon as it hears the kernel say, on both channels, that it has answered.

    The usual one listens for a fifth of a second more, which would be a third of a small run.
    """

    async def wait_for_ready(self, timeout=None):
        end = time.monotonic() + (timeout or math.inf)
        while True:
            asked = self.kernel_info()
            try:
                answer = await self.get_shell_msg(timeout=1)
                idle = False
                while not idle:
                    heard = await self.get_iopub_msg(timeout=0.2)
                    idle = heard["parent_header"].get("msg_id") == asked and heard["content"].get("execution_state") == "idle"
            except Empty:
                # Not listening yet, one of us: asked again.
                pass
            else:
                self._handle_kernel_info_reply(answer)
                return
            if not await self.is_alive():
                raise RuntimeError("Kernel died before replying to kernel_info")
            if time.monotonic() > end:
                raise RuntimeError(f"Kernel didn't respond in {timeout:g} seconds")


def kernel_manager(sockets, waiting=None):
    """A class of kernel managers for one run, which nbclient makes an instance of.

    Args:
        sockets: a short path to a private folder; ports would be taken by whoever comes first.
        waiting: a `forking.Waiting` that becomes the kernel, or None to start one anew.
    """

    class Provisioner(LocalProvisioner):
        async def launch_kernel(self, cmd, **kwargs):
            if waiting is None:
                await super().launch_kernel(cmd, **kwargs)
            else:
                self.process = waiting.begin(cmd, kwargs.get("env"))
                self.pid = self.pgid = self.process.pid
            # Whoever supervises the run ends the kernel too, should this process not come to it.
            (sockets / "kernel").write_text(str(self.pgid or self.pid))
            return self.connection_info

    class Manager(AsyncKernelManager):
        def __init__(self, **kwargs):
            super().__init__(**kwargs)
            self.transport, self.ip = "ipc", str(sockets / "k")
            self.connection_file, self.client_factory = str(sockets / "kernel.json"), _Client
            # A kernel that does not answer is ended by force after this many seconds.
            self.shutdown_wait_time = 2.0
            self.provisioner = Provisioner(kernel_id="run", kernel_spec=self.kernel_spec, parent=self)

        async def _async_finish_shutdown(self, waittime=None, pollinterval=0.01, restart=False):
            # Ten times as attentive as by default, which would be a tenth of a small run.
            await super()._async_finish_shutdown(waittime, pollinterval, restart)

    return Manager
