"""Reads a dump in a directory by docs/dump-format.md alone, shares no code with the programs, and checks all that the page says.

    python3 read_dump.py DIRECTORY [KEY-FILE]      prints one JSON line about the newest dump"""
import ctypes
import ctypes.util
import hashlib
import json
import pathlib
import struct
import subprocess
import sys
import tempfile

PAGE = 4096
ZSTD = ctypes.CDLL(ctypes.util.find_library("zstd") or "libzstd.so.1")
ZSTD.ZSTD_decompress.restype = ctypes.c_size_t
SODIUM = ctypes.CDLL(ctypes.util.find_library("sodium") or "libsodium.so.23")
KINDS = {"chunks": 1, "indexes": 2, "stretches": 3, "manifests": 4}


def blake(*parts):
    return hashlib.blake2b(b"".join(parts), digest_size=32).digest()


def unpack(packed, size):
    out = ctypes.create_string_buffer(size + 1)
    got = ZSTD.ZSTD_decompress(out, ctypes.c_size_t(size), packed, ctypes.c_size_t(len(packed)))
    assert got == size, "a payload that cannot be unpacked"
    return out.raw[:size]


def unseal(key, head, data):
    state = ctypes.create_string_buffer(256)
    assert SODIUM.crypto_secretstream_xchacha20poly1305_init_pull(state, data[:24], key) == 0
    out, tag, at = b"", ctypes.c_ubyte(0), 24
    while at < len(data):
        piece = data[at:at + 65536 + 17]
        plain = ctypes.create_string_buffer(len(piece))
        assert not tag.value and SODIUM.crypto_secretstream_xchacha20poly1305_pull(
            state, plain, None, ctypes.byref(tag), piece, ctypes.c_ulonglong(len(piece)), head, ctypes.c_ulonglong(16)) == 0, "sealed otherwise"
        out += plain.raw[:len(piece) - 17]
        at += len(piece)
    assert tag.value == 3, "no final piece"
    return out


def fields(message):
    """Protobuf: {number: [value, ...]}."""
    found, at = {}, 0

    def varint():
        nonlocal at
        value = shift = 0
        while True:
            byte = message[at]
            at += 1
            value |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                return value
    while at < len(message):
        key = varint()
        assert key & 7 in (0, 2), "a field of a kind that dumps do not have"
        value = varint()
        if key & 7 == 2:
            value, at = message[at:at + value], at + value
        found.setdefault(key >> 3, []).append(value)
    return found


def one(message, number, default=0):
    return message.get(number, [default])[0]


def siphash128(key, data):
    mask = (1 << 64) - 1
    k0, k1 = struct.unpack("<QQ", key)
    v = [k0 ^ 0x736f6d6570736575, k1 ^ 0x646f72616e646f6d ^ 0xee, k0 ^ 0x6c7967656e657261, k1 ^ 0x7465646279746573]

    def rotate(x, b):
        return (x << b | x >> (64 - b)) & mask

    def rounds(count):
        for _ in range(count):
            v[0] = (v[0] + v[1]) & mask
            v[1] = rotate(v[1], 13) ^ v[0]
            v[0] = rotate(v[0], 32)
            v[2] = (v[2] + v[3]) & mask
            v[3] = rotate(v[3], 16) ^ v[2]
            v[0] = (v[0] + v[3]) & mask
            v[3] = rotate(v[3], 21) ^ v[0]
            v[2] = (v[2] + v[1]) & mask
            v[1] = rotate(v[1], 17) ^ v[2]
            v[2] = rotate(v[2], 32)
    whole = len(data) // 8 * 8
    last = data[whole:].ljust(7, b"\0") + bytes([len(data) & 255])
    for word in struct.unpack(f"<{whole // 8 + 1}Q", data[:whole] + last):
        v[3] ^= word
        rounds(2)
        v[0] ^= word
    v[2] ^= 0xee
    rounds(4)
    low = v[0] ^ v[1] ^ v[2] ^ v[3]
    v[1] ^= 0xdd
    rounds(4)
    return low | (v[0] ^ v[1] ^ v[2] ^ v[3]) << 64


def verify(public_key, signature, message):
    with tempfile.TemporaryDirectory() as work:
        work = pathlib.Path(work)
        (work / "key").write_bytes(bytes.fromhex("302a300506032b6570032100") + public_key)
        (work / "signature").write_bytes(signature)
        (work / "message").write_bytes(message)
        done = subprocess.run(["openssl", "pkeyutl", "-verify", "-pubin", "-keyform", "DER", "-inkey", work / "key", "-rawin",
                               "-sigfile", work / "signature", "-in", work / "message"], capture_output=True, text=True)
        assert done.returncode == 0, f"the signature: {done.stdout}{done.stderr}"


class Store:
    def __init__(self, directory, key=b""):
        self.directory = pathlib.Path(directory)
        self.key = key

    def payload(self, path, name):
        data = (self.directory / path).read_bytes()
        magic, version, kind, sealed, size = struct.unpack("<6sBBB3xI", data[:16])
        assert magic == b"mrnobj" and version == 1 and kind == KINDS[path.split("/")[0]] and sealed == bool(self.key), path
        payload = unseal(self.key, data[:16], data[16:]) if sealed else data[16:]
        assert len(payload) == size and blake(self.key, payload) == name, f"{path}: not what its name stands for"
        return payload

    def get(self, folder, name):
        return self.payload(f"{folder}/{name.hex()[:2]}/{name.hex()}", name)


def read_manifest(store, path):
    signed = fields(store.payload(path, bytes.fromhex(path.split("-")[1])))
    inner = one(signed, 1, b"")
    verify(one(signed, 2), one(signed, 3), inner)
    manifest = fields(inner)
    assert one(manifest, 1) == 1, "format version"
    return manifest, one(signed, 2)


def read_snapshot_head(manifest):
    head, tail = one(manifest, 4), one(manifest, 5)
    assert len(head) == 288 and head[:8] == b"mrnsnap\n" and struct.unpack_from("<II", head, 8) == (3, 288)
    assert blake(head[:256]) == head[256:]
    assert len(tail) == 80 and tail[:8] == b"mrnsend\n" and blake(head, tail[:48]) == tail[48:]
    configuration, seq, term, time_us = struct.unpack_from("<QQQQ", head, 16)
    region, page = struct.unpack_from("<QI", head, 240)
    assert page == PAGE
    return {"configuration": configuration, "seq": seq, "term": term, "hash": head[48:80], "result_hash": head[80:112],
            "origin": head[144:176], "page_count": region // PAGE, "content": struct.unpack_from("<Q", tail, 8)[0],
            "state_hash": tail[16:48]}


def state_hash(pages, count):
    level = [blake(pages[i]) if i in pages else bytes(32) for i in range(count)]
    while True:
        level = [blake(*level[i:i + 64]) if any(map(any, level[i:i + 64])) else bytes(32) for i in range(0, len(level), 64)]
        if len(level) == 1:
            return blake(level[0], struct.pack("<Q", count))


def read_pages(store, manifest, head):
    pages = {}
    for chunk in map(fields, manifest.get(6, [])):
        count, zeros = one(chunk, 3), one(chunk, 4)
        index = store.get("indexes", one(chunk, 2))
        assert struct.unpack_from("<II", index) == (count + zeros, 24) and len(index) == 8 + 24 * (count + zeros)
        packed = store.get("chunks", one(chunk, 1))
        assert struct.unpack_from("<II", packed) == (count, PAGE)
        data, place = unpack(packed[8:], count * PAGE), 0
        for number, short in struct.iter_unpack("<Q16s", index[8:]):
            assert number < head["page_count"]
            if not any(short):
                pages.pop(number, None)
                continue
            pages[number] = data[place * PAGE:(place + 1) * PAGE]
            place += 1
            assert blake(pages[number])[:16] == short, f"page {number} is not what its index says"
        assert place == count
    assert len(pages) == head["content"]
    assert state_hash(pages, head["page_count"]) == head["state_hash"], "the state hash"
    return pages


def read_epoch(epoch, bodies, digest_key):
    seq, term, previous, configuration, time_us, low, high, controls, intervals = struct.unpack_from("<QQ32sQQQQBB", epoch)
    at = 82 + 17 * controls
    assert len(epoch) == at + 10 * intervals
    named = list(struct.iter_unpack("<QH", epoch[at:]))
    turn = seq % intervals if intervals else 0
    ids = [first + i for first, count in named[turn:] + named[:turn] for i in range(count)]
    assert [number for number, _ in bodies] == ids, f"epoch {seq}: not the bodies that it names"
    digest = sum(siphash128(digest_key, struct.pack("<QQ", number, len(body)) + body) for number, body in bodies)
    assert digest % (1 << 128) == low | high << 64, f"epoch {seq}: its digest"
    return seq, previous, configuration


def read_stretches(store, manifest, head):
    epochs = bodies_count = 0
    last = None
    for stretch in map(fields, manifest.get(12, [])):
        payload = store.get("stretches", one(stretch, 1))
        records = unpack(payload[8:], struct.unpack_from("<Q", payload)[0])
        seq, chain, at = one(stretch, 2), one(stretch, 4), 0
        assert last is None or last == (seq - 1, chain), "stretches that do not follow each other"
        while at < len(records):
            size, epoch_bytes, count = struct.unpack_from("<IHH", records, at)
            end, epoch, at = at + size, records[at + 8:at + 8 + epoch_bytes], at + 8 + epoch_bytes
            bodies = []
            for _ in range(count):
                number, length = struct.unpack_from("<QH", records, at)
                bodies.append((number, records[at + 10:at + 10 + length]))
                at += 10 + length
            assert at == end
            assert read_epoch(epoch, bodies, one(manifest, 13)) == (seq, chain, head["configuration"]), f"epoch {seq} breaks the chain"
            chain, last = blake(epoch), (seq, blake(epoch))
            seq, epochs, bodies_count = seq + 1, epochs + 1, bodies_count + count
        assert last == (one(stretch, 3), one(stretch, 5))
    assert last is None or last == (head["seq"], head["hash"]), "the stretches do not end at the dump"
    return epochs, bodies_count


def read(directory, key_file=None):
    store = Store(directory, bytes.fromhex(pathlib.Path(key_file).read_text().strip()) if key_file else b"")
    pointer = json.loads((store.directory / "latest").read_text())
    assert pointer["format"] == 1
    manifest, public_key = read_manifest(store, pointer["manifest"])
    head = read_snapshot_head(manifest)
    assert pointer["seq"] == str(head["seq"]) and pointer["epochHash"] == head["hash"].hex() and pointer["stateHash"] == head["state_hash"].hex()
    pages = read_pages(store, manifest, head)
    epochs, bodies = read_stretches(store, manifest, head)
    applications = {one(a, 1).decode(): one(a, 2) for a in map(fields, manifest.get(14, []))}
    return {"cluster": one(manifest, 2).decode(), "seq": head["seq"], "term": head["term"], "stateHash": head["state_hash"].hex(),
            "pages": len(pages), "epochs": epochs, "bodies": bodies, "applications": applications, "signer": public_key.hex(),
            "previousSeq": one(manifest, 8)}


if __name__ == "__main__":
    print(json.dumps(read(*sys.argv[1:])))
