"""A client of WebSockets that reads text messages (RFC 6455), for the tests."""
import base64
import hashlib
import json
import os
import socket
import struct

MAGIC = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
TEXT, CLOSE, PING, PONG = 1, 8, 9, 10


class WebSocket:
    def __init__(self, address, path, timeout=60):
        host, port = address.rsplit(":", 1)
        self.socket = socket.socket()
        self.socket.settimeout(timeout)
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16384)  # one that does not read is soon full
        self.socket.connect((host, int(port)))
        self.buffer = b""
        key = base64.b64encode(os.urandom(16))
        # A ping right behind the handshake, in the same packet: the server may not lose it.
        self.socket.sendall(b"GET %s HTTP/1.1\r\nHost: x\r\nConnection: keep-alive, Upgrade\r\nUpgrade: WebSocket\r\n"
                            b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: %s\r\n\r\n" % (path.encode(), key)
                            + self._frame(PING, b"early"))
        head = self._until(b"\r\n\r\n").decode()
        assert head.startswith("HTTP/1.1 101 "), head
        accept = base64.b64encode(hashlib.sha1(key + MAGIC).digest()).decode()
        assert f"sec-websocket-accept: {accept}" in head.lower().replace(accept.lower(), accept), head
        assert self._next() == (PONG, b"early")

    def _frame(self, opcode, payload):
        mask = os.urandom(4)
        return bytes([0x80 | opcode, 0x80 | len(payload)]) + mask + bytes(b ^ mask[i % 4] for i, b in enumerate(payload))

    def _fill(self):
        data = self.socket.recv(65536)
        if not data:
            raise EOFError("closed")
        self.buffer += data

    def _until(self, mark):
        while mark not in self.buffer:
            self._fill()
        head, self.buffer = self.buffer.split(mark, 1)
        return head + mark

    def _take(self, count):
        while len(self.buffer) < count:
            self._fill()
        taken, self.buffer = self.buffer[:count], self.buffer[count:]
        return taken

    def _next(self):
        first, length = self._take(2)
        assert first & 0x80 and not length & 0x80, "a server's frames are whole here, and never masked"
        if length == 126:
            length, = struct.unpack(">H", self._take(2))
        elif length == 127:
            length, = struct.unpack(">Q", self._take(8))
        return first & 15, self._take(length)

    def message(self):
        """The next text message, parsed as JSON; None when the server closes."""
        while True:
            opcode, payload = self._next()
            if opcode == TEXT:
                return json.loads(payload)
            if opcode == CLOSE:
                return None

    def send_close(self):
        self.socket.sendall(self._frame(CLOSE, struct.pack(">H", 1000)))

    def close(self):
        self.socket.close()
