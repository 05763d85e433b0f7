"""One client of the daemon."""

import fcntl
import os
import signal
import socket
import struct
import termios

from harness.basics import eventually, expect


class Client:
    """One client. `id` is what the daemon calls it, learnt from its `accepted` record."""

    def __init__(self, daemon, kind, sock, server_port=None):
        self.daemon = daemon
        self.kind = kind
        self.socket = sock
        self.address, self.port = sock.getsockname()[:2] if sock.family != socket.AF_UNIX else ("unix", None)
        # As its records tell them. Clients of two ports of the daemon may have the same one themselves.
        self.ends = (self.address, self.port and str(self.port), server_port and str(server_port))
        self.run = daemon.n_runs
        self._id = None
        self._buffer = bytearray()

    @property
    def id(self):
        if self._id is None:
            self.daemon.name_clients()
        return self._id

    def send(self, data):
        self.socket.sendall(data)
        return self

    def receive(self, n_bytes):
        while len(self._buffer) < n_bytes:
            more = self.socket.recv(65536)
            expect(more, f"closed after {len(self._buffer)} of {n_bytes} bytes: {bytes(self._buffer[:80])!r}")
            self._buffer += more
        data = bytes(self._buffer[:n_bytes])
        del self._buffer[:n_bytes]
        return data

    def receive_line(self):
        line = b""
        while not line.endswith(b"\n"):
            line += self.receive(1)
        return line.decode()

    def receive_rest(self):
        """Everything to the end of the stream. A reset is an end, too."""
        while True:
            try:
                more = self.socket.recv(65536)
            except (ConnectionResetError, BrokenPipeError):
                more = b""
            if not more:
                data = bytes(self._buffer)
                self._buffer.clear()
                return data
            self._buffer += more

    def wait_readable(self, n_bytes):
        """Bytes are there, and are left unread."""
        eventually(lambda: len(self.socket.recv(65536, socket.MSG_PEEK)) >= n_bytes, f"{n_bytes} bytes came")
        return self

    def wait_acknowledged(self):
        """The daemon's host has everything that was sent (TCP only); whether the daemon has is another matter."""
        def n_unacknowledged():
            return struct.unpack("i", fcntl.ioctl(self.socket, termios.TIOCOUTQ, b"\0" * 4))[0]
        eventually(lambda: n_unacknowledged() == 0, "what was sent is acknowledged")
        return self

    def echo(self, data=b"are you there?"):
        self.send(data)
        answer = self.receive(len(data))
        expect(answer == data, f"the echo of {data!r} was {answer!r}")
        return self

    def half_close(self):
        self.socket.shutdown(socket.SHUT_WR)
        return self

    def close(self):
        self.socket.close()
        return self

    def kill(self):
        """Makes another process the only holder of the socket, and kills it."""
        pid = os.fork()
        if pid == 0:
            signal.pause()
            os._exit(0)
        self.close()
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        return self

    def reset(self):
        """RST (TCP only)."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.socket.close()
        return self
