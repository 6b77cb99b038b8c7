"""The cases of faults.py in processes of their own, with an eye on time and memory."""

import json
import os
import resource
import select
import shutil
import signal
import tempfile

SECONDS, KILOBYTES = 10, 1_700_000  # beside what the process held before


class Lost(BaseException):
    """A promise was not kept. No `except Exception` swallows it."""


def peak():
    """The most memory that this process ever held. It starts with what its parent held."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def attempt(case, world, before):
    """One case in a copy of the world -> what was lost, or None."""
    def hang(*_):
        raise Lost(f"more than {SECONDS} seconds")
    signal.signal(signal.SIGALRM, hang)
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as place:
        shutil.copytree(world, place, dirs_exist_ok=True)  # with the times, so that caches hold
        os.chdir(place)
        try:
            signal.alarm(SECONDS)
            case()
        except BaseException as error:  # a traceback of any kind is a loss
            return f"{type(error).__name__}: {error}"[:500]
        finally:
            signal.alarm(0)
            os.chdir(world)
    grown = peak() - before
    return f"{grown / 1e6:.1f} GB" if grown > KILOBYTES else None


def run_cases(cases, world):
    """{name: case} -> {name: what was lost}."""
    lost, left = {}, list(cases)
    while left:
        reader, writer = os.pipe()
        pid = os.fork()
        if pid == 0:  # up to 200 of them; a new process after a loss, as memory counts by its peak
            before = peak()
            for name in left[:200]:
                lost_here = attempt(cases[name], world, before)
                os.write(writer, json.dumps(lost_here).encode() + b"\n")
            os._exit(0)
        os.close(writer)
        with os.fdopen(reader, "rb", 0) as pipe:
            for name in left[:200]:
                is_ready, _, _ = select.select([pipe], [], [], 6 * SECONDS)
                line = pipe.readline() if is_ready else b""
                problem = json.loads(line) if line else "the process died or hung"
                left.remove(name)
                if problem:
                    lost[name] = problem
                    break
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    return lost
