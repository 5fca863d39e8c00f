"""A stand-in for ssh: `ssh.py HOST COMMAND...` runs the command where `--serve ADDRESS` runs.

As with sshd and a command without a terminal, closing the connection only closes the command's stdin.
"""

import os
import socket
import socketserver
import struct
import subprocess
import sys
import threading
from contextlib import suppress

PORT = 2222
EXIT = 3
"""Stream number of a message with the exit code; 1 and 2 are the command's output."""


class Session(socketserver.BaseRequestHandler):
    def handle(self):
        received = self.request.makefile("rb")
        command = received.readline().decode()
        pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
        process = subprocess.Popen(["sh", "-c", command], bufsize=0, **pipes)
        sending = threading.Lock()

        def send(stream, data):
            with sending, suppress(OSError):
                self.request.sendall(struct.pack(">BI", stream, len(data)) + data)

        def forward(stream, source):
            while data := source.read(65536):
                send(stream, data)

        def feed():
            with suppress(OSError):
                while data := received.read1(65536):
                    process.stdin.write(data)
            process.stdin.close()

        threading.Thread(target=feed, daemon=True).start()
        threads = [threading.Thread(target=forward, args=pair) for pair in ((1, process.stdout), (2, process.stderr))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        send(EXIT, bytes([process.wait()]))


class Server(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = True


def call(host, words):
    try:
        there = socket.create_connection((host, PORT), timeout=5)
    except OSError as error:
        print(f"ssh: connect to host {host} port {PORT}: {error}", file=sys.stderr)
        return 255
    there.settimeout(None)
    there.sendall(" ".join(words).encode() + b"\n")

    def feed():
        while data := os.read(0, 65536):
            there.sendall(data)
        there.shutdown(socket.SHUT_WR)

    threading.Thread(target=feed, daemon=True).start()
    received = there.makefile("rb")
    while header := received.read(5):
        stream, length = struct.unpack(">BI", header)
        data = received.read(length)
        if stream == EXIT:
            return data[0]
        os.write(stream, data)
    return 255


if __name__ == "__main__":
    if sys.argv[1] == "--serve":
        Server((sys.argv[2], PORT), Session).serve_forever()
    sys.stdout.flush()
    os._exit(call(sys.argv[1], sys.argv[2:]))
