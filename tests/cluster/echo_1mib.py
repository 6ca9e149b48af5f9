"""A transaction of 1 MiB in hundreds of parts over a lossy bridge; one over the limit is refused."""
import base64
import hashlib

from lib import cluster as c
from lib import http, scenario

LIMIT = 1 << 20


def payload(size):
    return b"".join(hashlib.sha256(b"%d" % block).digest() for block in range(size // 32 + 1))[:size]


def varint(number):
    out = bytearray()
    while number >= 128:
        out.append(number & 127 | 128)
        number >>= 7
    return bytes(out + bytes([number]))


def message(data):
    """echo.v1.Echo's request and answer in protobuf: field 1, bytes."""
    return b"\x0a" + varint(len(data)) + data


def echo_1mib(cluster):
    cluster.start(nodes=3, gateways=1)
    address = cluster.gateway_addresses[0]
    cluster.network.lose(5)
    cluster.network.reorder(5)

    data = payload(LIMIT - 4)  # with field number and length exactly 1 MiB
    assert len(message(data)) == LIMIT
    path = f"/{c.ECHO}/Echo"
    answer = http.request(address, path, "POST", message(data), {"content-type": "application/proto"}, timeout=60)
    assert answer.status == 200 and answer.body == message(data), (answer.status, len(answer.body))
    again = http.request(address, f"/v1/tx/{answer.headers['maroon-tx-id']}", timeout=60).json()
    assert again["state"] == "executed", again["state"]

    small = payload(100000)
    answer = http.call(address, c.ECHO, "Echo", {"payload": base64.b64encode(small).decode()})
    assert answer.status == 200 and base64.b64decode(answer.json()["payload"]) == small, answer

    for size in (LIMIT - 3, 2 * LIMIT):
        answer = http.request(address, path, "POST", message(payload(size)), {"content-type": "application/proto"}, timeout=60)
        assert answer.status == 429 and answer.json()["code"] == "resource_exhausted", answer
    cluster.network.lose(0)
    cluster.network.reorder(0)
    assert cluster.bank("Total", {}).status == 200, "the gateway goes on"
    cluster.wait_equal()


if __name__ == "__main__":
    scenario.main(echo_1mib)
