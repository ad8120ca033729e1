"""A recipe of kazoo as a program that does what lockex does: takes it, runs a command of the shell, gives it back.

    kazoo_lock.py ADDRESS PATH RECIPE run COMMAND    exits with the command's code
    kazoo_lock.py ADDRESS PATH RECIPE try            says whether it was to be had at once: True or False
    kazoo_lock.py ADDRESS PATH RECIPE who            says who contends for it, or holds a lease of it, one a line

RECIPE is Lock, ReadLock or WriteLock; or a number, of the leases of a Semaphore. Others see us as `kazoo:PID`.
TIMEOUT in the environment is that of the session, in seconds.
"""

import os
import subprocess
import sys
import types

try:
    from kazoo.client import KazooClient
except SyntaxError:
    # kazoo 2.2.1 calls arguments `async`, a keyword since Python 3.7, in two recipes that are no locks: something stands in for these.
    for module, classes in ("partitioner", ["SetPartitioner"]), ("watchers", ["ChildrenWatch", "DataWatch"]):
        stand_in = types.ModuleType("kazoo.recipe." + module)
        stand_in.__dict__.update((name, object) for name in classes)
        sys.modules[stand_in.__name__] = stand_in
    from kazoo.client import KazooClient


def main():
    address, path, recipe, verb = sys.argv[1:5]
    client = KazooClient(hosts=address, timeout=float(os.environ.get("TIMEOUT", 15)))
    client.start()
    identity = "kazoo:%d" % os.getpid()
    if recipe.isdigit():
        lock = client.Semaphore(path, identity, max_leases=int(recipe))
    else:
        lock = getattr(client, recipe)(path, identity)
    code = 0
    if verb == "run":
        with lock:
            code = subprocess.call(sys.argv[5], shell=True)
    elif verb == "try":
        print(lock.acquire(blocking=False))
    else:
        print("\n".join(lock.lease_holders() if recipe.isdigit() else lock.contenders()))
    client.stop()
    sys.exit(code)


main()
