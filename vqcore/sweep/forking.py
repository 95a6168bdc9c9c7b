"""A kernel that is forked, instead of started, from a process that has imported what it needs."""

import json
import os
import signal
import sys

from vqcore.sweep.ending import LOG


def fork_kernel(life):
    """Fork the process that will be the kernel; a `Waiting` for whoever called.

    In the forked process it returns None, after the kernel has come to its end.
    """
    order_read, order_write = os.pipe()
    pid = os.fork()
    if pid:
        os.close(order_read)
        return Waiting(pid, order_write)
    os.close(order_write)
    os.close(life)
    os.setsid()
    _die_with_parent()
    with open(order_read) as file:
        text = file.read()
    if text:
        _become_kernel(**json.loads(text))
    return None


class Waiting:
    """The parent's view of a forked process, which waits for the order to become a kernel; then as a Popen."""

    stdin = stdout = stderr = None

    def __init__(self, pid, order):
        self.pid, self.order, self.returncode = pid, order, None

    def begin(self, command, env):
        """Make it a kernel, with the arguments of the command that would have started one."""
        # The kernel polls whether this process, its parent, still lives.
        env = dict(env or os.environ) | {"JPY_PARENT_PID": str(os.getpid())}
        order = {"arguments": command[command.index("-f") :], "env": env, "cwd": os.getcwd()}
        with open(self.order, "w") as file:
            json.dump(order, file)
        return self

    def poll(self):
        """Its exit code, or None while it lives."""
        return self._waited(os.WNOHANG)

    def wait(self):
        """Its exit code, once it has ended."""
        return self._waited(0)

    def _waited(self, options):
        if self.returncode is None:
            try:
                pid, status = os.waitpid(self.pid, options)
            except ChildProcessError:
                # Killed and waited for with all other children.
                pid, status = self.pid, signal.SIGKILL
            if pid:
                self.returncode = os.waitstatus_to_exitcode(status)
        return self.returncode

    def send_signal(self, number):
        """A signal, unless it has ended."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self):
        """Ask it to end."""
        self.send_signal(signal.SIGTERM)

    def kill(self):
        """End it."""
        self.send_signal(signal.SIGKILL)


def _become_kernel(arguments, env, cwd):
    os.environ.clear()
    os.environ.update(env)
    os.chdir(cwd)
    log = os.open(LOG, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(log, 1)
    os.dup2(log, 2)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if "numpy.random" in sys.modules:
        # Imported once, numpy's global generator would be in the same state in every run.
        sys.modules["numpy.random"].seed()
    from ipykernel.kernelapp import IPKernelApp

    sys.argv = ["ipykernel_launcher", *arguments]
    IPKernelApp.launch_instance(argv=arguments)


def _die_with_parent():
    """On Linux, have the system end this process when its parent ends, however that comes."""
    if sys.platform == "linux":
        import ctypes

        set_death_signal = 1
        ctypes.CDLL(None).prctl(set_death_signal, signal.SIGKILL)
