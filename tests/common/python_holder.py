"""What the Python zk-flock does on its lock node, without the command: make the app node, make the lock node, wait for its
deletion if it is there, try again; leave by closing the session.

    python_holder.py PORT APP NAME WAIT [HOLD]

It prints one word a line, each followed by the time: `held`; `busy`, each time the node was there already; `deleted`, when the watch has
said so; `woken`, when the watch has said anything else; `gave-up`, when WAIT seconds are over; `released`. It holds for HOLD seconds, or
until its stdin ends.
The protocol is written here once more, so that it is not ours that speaks to ours.
"""

import select
import socket
import struct
import sys
import time
import uuid

CREATE, GET_DATA, CLOSE = 1, 4, -11
NO_NODE, NODE_EXISTS = -101, -110
WATCH_EVENT, DELETED = -1, 2


def string(value):
    return struct.pack(">i", len(value)) + value


class Session:
    def __init__(self, port):
        self.socket = socket.create_connection(("127.0.0.1", port))
        self.xid = 0
        self.send(struct.pack(">iqiq", 0, 0, 30000, 0) + string(bytes(16)))
        self.receive()

    def send(self, message):
        self.socket.sendall(struct.pack(">i", len(message)) + message)

    def receive(self):
        (length,) = struct.unpack(">i", self.take(4))
        return self.take(length)

    def take(self, count):
        taken = b""
        while len(taken) < count:
            more = self.socket.recv(count - len(taken))
            if not more:
                sys.exit("the server has hung up")
            taken += more
        return taken

    def request(self, operation, body=b""):
        """The error code of the reply. Events that come before it are not awaited by anybody and are dropped."""
        self.xid += 1
        self.send(struct.pack(">ii", self.xid, operation) + body)
        while True:
            xid, _, error = struct.unpack(">iqi", self.receive()[:16])
            if xid == self.xid:
                return error

    def create(self, path, data, flags):
        acl = struct.pack(">ii", 1, 31) + string(b"world") + string(b"anyone")
        return self.request(CREATE, string(path) + string(data) + acl + struct.pack(">i", flags))

    def watch(self, path):
        return self.request(GET_DATA, string(path) + b"\x01")

    def event(self, deadline):
        """The kind of the next watch event, None at the deadline."""
        readable, _, _ = select.select([self.socket], [], [], max(0, deadline - time.time()))
        if not readable:
            return None
        message = self.receive()
        (xid,) = struct.unpack(">i", message[:4])
        return struct.unpack(">i", message[16:20])[0] if xid == WATCH_EVENT else self.event(deadline)


def say(what):
    print(what, "%.6f" % time.time(), flush=True)


def acquire(session, path, deadline):
    data = (socket.gethostname() + str(uuid.uuid4())).encode()
    while True:
        error = session.create(path, data, 1)
        if error == 0:
            return True
        if error != NODE_EXISTS:
            sys.exit("create: error %d" % error)
        say("busy")
        if session.watch(path) == NO_NODE:
            continue
        event = session.event(deadline)
        if event is None:
            return False
        say("deleted" if event == DELETED else "woken")


def main():
    port, app, name, wait, *hold = sys.argv[1:]
    session = Session(int(port))
    session.create(b"/" + app.encode(), b"Rootnode", 0)
    if acquire(session, ("/%s/%s" % (app, name)).encode(), time.time() + float(wait)):
        say("held")
        time.sleep(float(hold[0])) if hold else sys.stdin.read()
        say("released")
    else:
        say("gave-up")
    session.request(CLOSE)


main()
