"""A command that names the signals it gets, one a line, after `ready`; it exits with 5 when its stdin ends.

    listener.py NAME[=CODE[/SECONDS]]...

A signal with a code ends it, after so many seconds. select() on a wake-up descriptor loses none, however early it comes.
"""

import os
import select
import signal
import sys
import time

reader, writer = os.pipe()
os.set_blocking(writer, False)
signal.set_wakeup_fd(writer)
endings = {}
for word in sys.argv[1:]:
    name, _, endings[name] = word.partition("=")
    signal.signal(signal.Signals["SIG" + name], lambda *_: None)
print("ready", flush=True)

while True:
    readable, _, _ = select.select([reader, sys.stdin], [], [])
    if reader not in readable:
        sys.exit(5)
    for number in os.read(reader, 64):
        name = signal.Signals(number).name[3:]
        print(name, flush=True)
        if endings[name]:
            code, _, seconds = endings[name].partition("/")
            time.sleep(float(seconds or 0))
            sys.exit(int(code))
