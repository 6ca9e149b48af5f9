"""Something for the harness's own test to talk to: a UDP echo, or a little bank that answers like a gateway.

    responder.py udp PORT
    responder.py bank PORT [LIE]     every LIE-th transfer is answered with a wrong balance"""
import asyncio
import json
import socket
import sys

SO_RCVBUFFORCE = 33  # root's: beyond the system's limit, so that a process that gets no processor for a while loses nothing


class Echo(asyncio.DatagramProtocol):
    def connection_made(self, transport):
        self.transport = transport

    def datagram_received(self, data, address):
        self.transport.sendto(data, address)


class Bank:
    def __init__(self, lie):
        self.balances = {}
        self.lie = lie
        self.transfers = 0

    def call(self, method, message):
        if method == "Deposit":
            account = message["account"]
            self.balances[account] = self.balances.get(account, 0) + int(message["amount"])
            return 200, {"balance": str(self.balances[account])}
        self.transfers += 1
        source, target, amount = message["from"], message["to"], int(message["amount"])
        if self.balances.get(source, 0) < amount:
            return 400, {"code": "failed_precondition", "message": "overdraft"}
        self.balances[source] -= amount
        self.balances[target] = self.balances.get(target, 0) + amount
        lie = 1 if self.lie and self.transfers % self.lie == 0 else 0
        return 200, {"fromBalance": str(self.balances[source] + lie), "toBalance": str(self.balances[target])}

    async def serve(self, reader, writer):
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode()
                length = int(head.lower().split("content-length:")[1].split("\r\n")[0])
                method = head.split(" ", 2)[1].rsplit("/", 1)[1]
                status, answer = self.call(method, json.loads(await reader.readexactly(length)))
                body = json.dumps(answer).encode()
                writer.write(f"HTTP/1.1 {status} x\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body)
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()


async def main():
    port = int(sys.argv[2])
    if sys.argv[1] == "udp":
        udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        udp.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 16 << 20)
        udp.bind(("0.0.0.0", port))
        await asyncio.get_running_loop().create_datagram_endpoint(Echo, sock=udp)
    else:
        lie = int(sys.argv[3]) if len(sys.argv) > 3 else 0
        await asyncio.start_server(Bank(lie).serve, "0.0.0.0", port)
    print("ready", flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main())
