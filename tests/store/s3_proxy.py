"""A proxy in front of an S3 server that does harm on command.

s3_proxy.py --server PORT [--address ADDRESS] [--port PORT] [--key ACCESS:SECRET] [--uploads DIRECTORY]

It prints "port N", then obeys lines on standard input and answers each with a line "ok ..." or "error ...":

  fault KIND [NAME=VALUE ...]   one more fault; kinds below
  clear                         none any more
  stats                         JSON: requests by method, bytes of bodies up and down, faults done

Faults; each takes count=N (requests it strikes, default all), skip=N (requests that pass first), method=NAME, match=PART_OF_URL:

  away                          refuses connections and cuts those there are, until cleared
  status code=503 s3code=X      answers so itself, nothing reaches the server
  delay ms=N                    waits before it forwards
  slow bytes_per_s=N            both ways
  cut_up bytes=N                resets the connection after N bytes of the request's body
  cut_down bytes=N              ends it after N bytes of the answer's body
  lose_answer                   forwards, then resets without an answer
  wrong_up, wrong_down          one bit of the body is another one
  lie_up                        stores another bit than it was given, and answers as if nothing had happened
  drop_up                       answers 200 to a PUT and stores nothing

With --key it checks every request as S3 does: the signature, the payload's hash, Content-MD5 (the server behind, s3rver, checks
none of them). With --uploads, s3rver's directory, it answers what s3rver lacks: the lists of unfinished uploads and of their
parts, and ending one. It ends with its standard input."""
import argparse
import base64
import datetime
import hashlib
import hmac
import http.client
import json
import os
import pathlib
import shutil
import socket
import struct
import sys
import threading
import time
import urllib.parse
from xml.sax.saxutils import escape

SUFFIX = "._S3rver_uploads"


class Fault:
    def __init__(self, kind, options):
        self.kind, self.options = kind, options
        self.left = int(options.get("count", -1))
        self.skip = int(options.get("skip", 0))

    def strikes(self, method, url):
        if self.options.get("method", method) != method or self.options.get("match", "") not in url or self.left == 0:
            return False
        if self.skip > 0:
            self.skip -= 1
            return False
        self.left -= self.left > 0
        return True

    def number(self, name, otherwise=0):
        return int(self.options.get(name, otherwise))


class Cut(Exception):
    pass


class Refused(Exception):
    def __init__(self, status, code, message):
        super().__init__(code)
        self.status, self.code, self.message = status, code, message


def reset(connection):
    try:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        connection.close()
    except OSError:
        pass


def canonical_query(query):
    pairs = urllib.parse.parse_qsl(query, keep_blank_values=True, strict_parsing=False)
    quoted = sorted((urllib.parse.quote(n, safe="-_.~"), urllib.parse.quote(v, safe="-_.~")) for n, v in pairs)
    return "&".join(f"{n}={v}" for n, v in quoted)


def check_signature(key, method, url, headers, body):
    """Signature version 4 as its public description has it, written apart from the one under test."""
    access, secret = key
    parts = headers.get("authorization", "").removeprefix("AWS4-HMAC-SHA256 ").split(", ")
    fields = dict(part.split("=", 1) for part in parts if "=" in part)
    if not {"Credential", "SignedHeaders", "Signature"} <= set(fields):
        raise Refused(403, "AccessDenied", "no signature")
    given, day, region, service, ending = fields["Credential"].split("/")
    if given != access:
        raise Refused(403, "InvalidAccessKeyId", "the access key is not known")
    stamp = datetime.datetime.strptime(headers["x-amz-date"], "%Y%m%dT%H%M%SZ").replace(tzinfo=datetime.timezone.utc)
    if abs(stamp.timestamp() - time.time()) > 900 or not headers["x-amz-date"].startswith(day) or ending != "aws4_request":
        raise Refused(403, "RequestTimeTooSkewed", "the time is too far off")
    signed = fields["SignedHeaders"].split(";")
    needed = [name for name in headers if name.startswith("x-amz-")] + ["host"]
    if sorted(signed) != signed or not set(needed) <= set(signed):
        raise Refused(403, "AccessDenied", "a header is not signed")
    path, _, query = url.partition("?")
    digest = headers["x-amz-content-sha256"]
    canonical = "\n".join([method, path, canonical_query(query), *(f"{n}:{' '.join(headers[n].split())}" for n in signed), "",
                           ";".join(signed), digest])
    to_sign = "\n".join(["AWS4-HMAC-SHA256", headers["x-amz-date"], f"{day}/{region}/{service}/aws4_request",
                         hashlib.sha256(canonical.encode()).hexdigest()])
    secret_key = ("AWS4" + secret).encode()
    for word in (day, region, service, "aws4_request"):
        secret_key = hmac.new(secret_key, word.encode(), hashlib.sha256).digest()
    if hmac.new(secret_key, to_sign.encode(), hashlib.sha256).hexdigest() != fields["Signature"]:
        raise Refused(403, "SignatureDoesNotMatch", "the signature does not match")
    if hashlib.sha256(body).hexdigest() != digest:
        raise Refused(400, "XAmzContentSHA256Mismatch", "the body is not what was signed")
    if "content-md5" in headers and base64.b64encode(hashlib.md5(body).digest()).decode() != headers["content-md5"]:
        raise Refused(400, "BadDigest", "the body does not fit Content-MD5")


def iso(seconds):
    return datetime.datetime.fromtimestamp(seconds, datetime.timezone.utc).strftime("%Y-%m-%dT%H:%M:%S.000Z")


class Uploads:
    """What s3rver keeps of unfinished uploads: a directory each, with `key` and the parts."""

    def __init__(self, directory):
        self.directory = pathlib.Path(directory)

    def answer(self, method, path, query):
        """(status, body), or None when this is not about uploads."""
        fields = dict(urllib.parse.parse_qsl(query, keep_blank_values=True))
        bucket, _, key = urllib.parse.unquote(path).lstrip("/").partition("/")
        below = self.directory / bucket / SUFFIX
        if method == "GET" and not key and "uploads" in fields:
            return 200, self.list_uploads(below, fields.get("prefix", ""))
        if "uploadId" not in fields or method not in ("GET", "DELETE"):
            return None
        upload = below / fields["uploadId"]
        if not (upload / "key").exists():
            raise Refused(404, "NoSuchUpload", "no such upload")
        if method == "DELETE":
            shutil.rmtree(upload)
            return 204, b""
        return 200, self.list_parts(upload, int(fields.get("part-number-marker") or 0))

    @staticmethod
    def list_uploads(below, prefix):
        found = []
        for upload in below.iterdir() if below.is_dir() else ():
            try:
                key, since = (upload / "key").read_text(), (upload / "key").stat().st_mtime
            except OSError:
                continue
            if key.startswith(prefix):
                found.append((key, since, upload.name))
        entries = "".join(f"<Upload><Key>{escape(k)}</Key><UploadId>{u}</UploadId><Initiated>{iso(s)}</Initiated></Upload>"
                          for k, s, u in sorted(found))
        return (f"<ListMultipartUploadsResult><IsTruncated>false</IsTruncated>{entries}"
                "</ListMultipartUploadsResult>").encode()

    @staticmethod
    def list_parts(upload, after, page=3):
        numbers = sorted(int(p.stem) for p in upload.glob("*.md5"))
        numbers = [number for number in numbers if number > after]
        parts = "".join(f"<Part><PartNumber>{n}</PartNumber><ETag>&quot;{(upload / f'{n}.md5').read_text()}&quot;</ETag>"
                        f"<Size>{(upload / str(n)).stat().st_size}</Size></Part>" for n in numbers[:page])
        more = len(numbers) > page
        marker = f"<NextPartNumberMarker>{numbers[page - 1]}</NextPartNumberMarker>" if more else ""
        return f"<ListPartsResult><IsTruncated>{'true' if more else 'false'}</IsTruncated>{marker}{parts}</ListPartsResult>".encode()


class Proxy:
    def __init__(self, server, address, port, key, uploads):
        self.server, self.address, self.key, self.uploads = server, address, key, uploads
        self.lock = threading.Lock()
        self.faults, self.connections = [], set()
        self.stats = {"requests": {}, "up_bytes": 0, "down_bytes": 0, "faults": {}, "put_bytes": {}}
        self.listener = None
        self.port = self.listen(port)

    def listen(self, port):
        self.listener = socket.create_server((self.address, port), backlog=128)
        threading.Thread(target=self.accept, args=(self.listener,), daemon=True).start()
        return self.listener.getsockname()[1]

    def accept(self, listener):
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            with self.lock:
                self.connections.add(connection)
            threading.Thread(target=self.serve, args=(connection,), daemon=True).start()

    def away(self):
        self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
        self.listener = None
        with self.lock:
            for connection in self.connections:
                try:
                    connection.shutdown(socket.SHUT_RDWR)  # its thread sees the end, and closes
                except OSError:
                    pass
            self.connections.clear()

    def add(self, kind, options):
        if kind == "away":
            self.away()
            return
        with self.lock:
            self.faults.append(Fault(kind, options))

    def clear(self):
        with self.lock:
            self.faults.clear()
        if self.listener is None:
            self.listen(self.port)

    def struck(self, method, url):
        with self.lock:
            found = {fault.kind: fault for fault in self.faults if fault.strikes(method, url)}
            for kind in found:
                self.stats["faults"][kind] = self.stats["faults"].get(kind, 0) + 1
            self.stats["requests"][method] = self.stats["requests"].get(method, 0) + 1
            return found

    def serve(self, connection):
        stream = connection.makefile("rb")
        upstream = http.client.HTTPConnection("127.0.0.1", self.server, timeout=60)
        try:
            while self.serve_one(connection, stream, upstream):
                pass
        except (Cut, OSError, http.client.HTTPException, ValueError):
            reset(connection)
        finally:
            upstream.close()
            stream.close()
            connection.close()
            with self.lock:
                self.connections.discard(connection)

    def serve_one(self, connection, stream, upstream):
        line = stream.readline(65536).decode("latin-1").split()
        if len(line) != 3:
            return False
        method, url, _ = line
        headers = {}
        while (text := stream.readline(65536).decode("latin-1").strip()):
            name, _, value = text.partition(":")
            headers[name.strip().lower()] = value.strip()
        faults = self.struck(method, url)
        if method == "PUT":  # bytes by the folder of the object, as /bucket/prefix/FOLDER/...
            folder = (url.partition("?")[0].split("/") + ["", "", ""])[3]
            with self.lock:
                self.stats["put_bytes"][folder] = self.stats["put_bytes"].get(folder, 0) + int(headers.get("content-length", 0))
        slow = faults.get("slow")
        body = self.read_body(connection, stream, int(headers.get("content-length", 0)), slow, faults)
        if "delay" in faults:
            time.sleep(faults["delay"].number("ms") / 1000)
        try:
            if "status" in faults:
                fault = faults["status"]
                raise Refused(fault.number("code", 503), fault.options.get("s3code", "InternalError"), "a fault of the test")
            status, answer_headers, answer = self.forward(upstream, method, url, headers, body, faults)
        except Refused as refused:
            status, answer_headers = refused.status, [("content-type", "application/xml")]
            answer = (f"<?xml version=\"1.0\" encoding=\"UTF-8\"?><Error><Code>{refused.code}</Code>"
                      f"<Message>{refused.message}</Message></Error>").encode() if method != "HEAD" else b""
            answer_headers.append(("content-length", str(len(answer))))
        if "lose_answer" in faults:
            raise Cut
        self.send(connection, status, answer_headers, answer, slow, faults)
        return True

    def pace(self, slow):
        """Waits, and returns how many bytes may pass then; 0: any number, the fault is over, also for what began under it."""
        if slow is None or slow not in self.faults:
            return 0
        time.sleep(0.05)
        return max(slow.number("bytes_per_s") // 20, 1)

    def read_body(self, connection, stream, count, slow, faults):
        if "cut_up" in faults and count:
            stream.read(min(count, faults["cut_up"].number("bytes")))
            raise Cut
        body = bytearray()
        while len(body) < count:
            piece = stream.read(min(count - len(body), self.pace(slow) or 1 << 20))
            if not piece:
                raise Cut
            body += piece
        with self.lock:
            self.stats["up_bytes"] += count
        return bytes(body)

    def forward(self, upstream, method, url, headers, body, faults):
        if "wrong_up" in faults and body:
            body = bytes([body[0] ^ 1]) + body[1:]
        if self.key:
            check_signature(self.key, method, url, headers, body)
        path, _, query = url.partition("?")
        if self.uploads and (own := self.uploads.answer(method, path, query)):
            return own[0], [("content-type", "application/xml"), ("content-length", str(len(own[1])))], own[1]
        etag = f'"{hashlib.md5(body).hexdigest()}"'
        if "drop_up" in faults and method == "PUT":
            return 200, [("etag", etag), ("content-length", "0")], b""
        lies = "lie_up" in faults and method == "PUT" and body
        if lies:
            body = body[:-1] + bytes([body[-1] ^ 1])
        sent = {name: value for name, value in headers.items() if name not in ("connection", "content-length")
                and not (lies and name == "content-md5")}
        upstream.request(method, url, body=body or None, headers={**sent, "content-length": str(len(body))})
        answer = upstream.getresponse()
        content = answer.read()
        kept = [(n, v) for n, v in answer.getheaders() if n.lower() not in ("connection", "transfer-encoding", "keep-alive")]
        if lies:
            kept = [(n, etag if n.lower() == "etag" else v) for n, v in kept]
        if not any(n.lower() == "content-length" for n, v in kept) and answer.status != 204:
            kept.append(("content-length", str(len(content))))
        return answer.status, kept, content

    def send(self, connection, status, headers, body, slow, faults):
        if "wrong_down" in faults and body and status < 300:
            body = bytes([body[0] ^ 1]) + body[1:]
        head = f"HTTP/1.1 {status} X\r\n" + "".join(f"{n}: {v}\r\n" for n, v in headers) + "\r\n"
        cut = "cut_down" in faults and body
        if cut:
            body = body[:faults["cut_down"].number("bytes")]
        connection.sendall(head.encode("latin-1"))
        with self.lock:
            self.stats["down_bytes"] += len(body)
        at = 0
        while at < len(body):
            step = self.pace(slow) or len(body)
            connection.sendall(body[at:at + step])
            at += step
        if cut:
            connection.shutdown(socket.SHUT_WR)
            connection.settimeout(1)
            try:
                connection.recv(1)  # what was sent arrives first; a reset at once would overtake it
            except OSError:
                pass
            raise Cut

    def obey(self, line):
        words = line.split()
        if words[0] == "fault":
            self.add(words[1], dict(word.split("=", 1) for word in words[2:]))
            return "ok"
        if words[0] == "clear":
            self.clear()
            return "ok"
        if words[0] == "stats":
            with self.lock:
                return "ok " + json.dumps(self.stats)
        return "error: no such command"


def main():
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--server", type=int, required=True)
    arguments.add_argument("--address", default="127.0.0.1")
    arguments.add_argument("--port", type=int, default=0)
    arguments.add_argument("--key", type=lambda text: tuple(text.split(":", 1)))
    arguments.add_argument("--uploads")
    options = arguments.parse_args()
    proxy = Proxy(options.server, options.address, options.port, options.key, Uploads(options.uploads) if options.uploads else None)
    print("port", proxy.port, flush=True)
    for line in sys.stdin:
        try:
            print(proxy.obey(line), flush=True)
        except (IndexError, ValueError, KeyError, OSError) as wrong:
            print("error:", wrong, flush=True)
    os._exit(0)


if __name__ == "__main__":
    main()
