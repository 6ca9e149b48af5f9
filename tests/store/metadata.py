"""An instance metadata service on loopback: metadata.py MODE. Prints "port N", ends with its standard input.

Modes: v2 (keys only for those who hold a session), v1 (knows no sessions), none (no role), broken (keys are no JSON)."""
import http.server
import json
import os
import sys
import threading
import time

MODE = sys.argv[1]
ROLES = "/latest/meta-data/iam/security-credentials/"


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def answer(self, status, text):
        self.send_response(status)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text.encode())

    def do_PUT(self):
        wanted = self.path == "/latest/api/token" and self.headers.get("X-aws-ec2-metadata-token-ttl-seconds")
        self.answer(200, "the-session") if MODE != "v1" and wanted else self.answer(404, "")

    def do_GET(self):
        if MODE != "v1" and self.headers.get("X-aws-ec2-metadata-token") != "the-session":
            self.answer(401, "")
        elif self.path == ROLES and MODE != "none":
            self.answer(200, "a-role")
        elif self.path == ROLES + "a-role" and MODE == "broken":
            self.answer(200, "not JSON")
        elif self.path == ROLES + "a-role":
            until = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() + 3600))
            self.answer(200, json.dumps({"Code": "Success", "AccessKeyId": os.environ["ACCESS"],
                                         "SecretAccessKey": os.environ["SECRET"], "Token": "a-token", "Expiration": until}))
        else:
            self.answer(404, "")

    def log_message(self, *_):
        pass


server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
print("port", server.server_port, flush=True)
threading.Thread(target=server.serve_forever, daemon=True).start()
sys.stdin.read()
