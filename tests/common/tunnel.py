"""Connects stdin and stdout to a TCP port, as `nc HOST PORT` does, and ends when the server hangs up."""
import os
import select
import socket
import sys

server = socket.create_connection((sys.argv[1], int(sys.argv[2])))
while True:
    for ready in select.select([0, server], [], [])[0]:
        data = os.read(0, 65536) if ready == 0 else server.recv(65536)
        if not data:
            sys.exit()
        os.write(1, data) if ready is server else server.sendall(data)
