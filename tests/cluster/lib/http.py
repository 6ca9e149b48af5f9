"""HTTP calls of the tests, each on a connection of its own."""
import http.client
import json


class Answer:
    def __init__(self, status, headers, body):
        self.status = status
        self.headers = headers  # names in lower case
        self.body = body

    def json(self):
        return json.loads(self.body)

    def __repr__(self):
        return f"Answer({self.status}, {self.body[:200]!r})"


def request(address, path, method="GET", body=None, headers=None, timeout=10):
    """address: "host:port". Raises OSError when there is no answer."""
    host, port = address.rsplit(":", 1)
    connection = http.client.HTTPConnection(host, int(port), timeout=timeout)
    try:
        connection.request(method, path, body=body, headers=headers or {})
        response = connection.getresponse()
        return Answer(response.status, {key.lower(): value for key, value in response.getheaders()}, response.read())
    except http.client.HTTPException as error:
        raise OSError(f"{address}{path}: {error!r}") from error
    finally:
        connection.close()


def call(address, service, method, message, timeout=60, headers=None):
    """A unary Connect call with JSON."""
    return request(address, f"/{service}/{method}", "POST", json.dumps(message),
                   {"content-type": "application/json", **(headers or {})}, timeout)


def metrics(address):
    """Prometheus text as {name with labels: number}."""
    values = {}
    for line in request(address, "/metrics").body.decode().splitlines():
        if line and not line.startswith("#"):
            name, value = line.rsplit(" ", 1)
            values[name] = float(value)
    return values


def metric_sum(values, name):
    """A metric, added up over its labels."""
    return sum(value for key, value in values.items() if key == name or key.startswith(name + "{"))
