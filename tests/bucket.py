"""A server for tests that speaks the JSON API of Google Cloud Storage.

It has what gcsfs, google-cloud-storage and TensorStore use: listings in pages,
ranges, the three kinds of upload, copies, generations with preconditions, and
the answers of a bucket that refuses or fails. Objects are held in memory.

Reference: https://cloud.google.com/storage/docs/json_api/v1.
"""

import base64
import contextlib
import dataclasses
import hashlib
import itertools
import json
import re
import threading
import time
from http import server
from urllib import parse

NAME = "bucket"
ROOT = f"gs://{NAME}"

_OBJECT = re.compile(
  r"/(?:download/|upload/)?storage/v1/b/(?P<bucket>[^/]+)"
  r"(?:/o(?:/(?P<name>[^/]+))?)?"
  r"(?:/(?:rewriteTo/b/[^/]+|moveTo)/o/(?P<target>[^/]+))?"
)
_PAGE = 1000

# What the server says, and the clients search for words in.
MESSAGES = {
  401: "Invalid Credentials",
  403: "reader@example.com does not have storage.objects.create access.",
  404: "The specified bucket does not exist.",
  412: "At least one of the pre-conditions you specified did not hold.",
  416: "The requested range cannot be satisfied.",
  503: "We encountered an internal error. Please try again.",
}


@dataclasses.dataclass(frozen=True)
class Object:
  """One object of the bucket."""

  name: str
  data: bytes
  generation: int
  updated: float

  def metadata(self):
    """Return the resource of the JSON API."""
    seconds = time.gmtime(self.updated)
    updated = time.strftime("%Y-%m-%dT%H:%M:%S.000Z", seconds)
    md5 = base64.b64encode(hashlib.md5(self.data).digest()).decode()
    return {
      "kind": "storage#object",
      "id": f"{NAME}/{self.name}/{self.generation}",
      "name": self.name,
      "bucket": NAME,
      "generation": str(self.generation),
      "metageneration": "1",
      "contentType": "application/octet-stream",
      "size": str(len(self.data)),
      "md5Hash": md5,
      "storageClass": "STANDARD",
      "timeCreated": updated,
      "updated": updated,
    }


@dataclasses.dataclass
class Fault:
  """Requests that fail.

  Attributes:
    status: The status that they get.
    method: Regular expression of the method.
    path: Regular expression, searched in the unquoted path and query.
    times: Requests that fail; then the fault is over.
  """

  status: int
  method: str = ".*"
  path: str = ""
  times: float = float("inf")


class Error(Exception):
  """A request that gets a status other than success."""

  def __init__(self, status, message=None):
    super().__init__(status)
    self.status = status
    self.message = message or MESSAGES.get(status, "Error")


class Bucket(server.ThreadingHTTPServer):
  """The bucket gs://bucket.

  Attributes:
    objects: Objects by name.
    faults: Faults that are active.
    latency: Seconds that every request waits.
    requests: "METHOD path?query" of every request, unquoted.
  """

  daemon_threads = True
  request_queue_size = 128

  def __init__(self):
    super().__init__(("127.0.0.1", 0), _Handler)
    self.lock = threading.Lock()
    self.numbers = itertools.count(time.time_ns() // 1000)
    self.reset()

  def reset(self):
    """Empty the bucket, and end all faults."""
    self.objects: dict[str, Object] = {}
    self.faults: list[Fault] = []
    self.latency = 0.0
    self.requests: list[str] = []
    self.uploads: dict[str, tuple[str, dict[str, str], bytearray]] = {}

  @property
  def environment(self):
    """Variables that lead all clients here, without credentials."""
    url = f"http://127.0.0.1:{self.server_port}"
    return {
      "STORAGE_EMULATOR_HOST": url,
      "TENSORSTORE_GCS_HTTP_URL": url,
      "GOOGLE_AUTH_TOKEN_FOR_TESTING": "token",
      "NO_GCE_CHECK": "true",
    }

  def handle_error(self, *_):
    """Report nothing: clients may be killed, and keep their connections."""

  def names(self, prefix=""):
    """Return the names of all objects with a prefix, sorted."""
    return sorted(name for name in self.objects if name.startswith(prefix))

  def read(self, name):
    """Return the content of an object."""
    return self.objects[name].data

  def write(self, name, data, preconditions=None):
    """Create or replace an object, unless a precondition fails."""
    with self.lock:
      self.check(name, preconditions or {}, is_read=False)
      new = Object(name, bytes(data), next(self.numbers), time.time())
      self.objects[name] = new
    return new

  def upload(self, directory, prefix):
    """Copy the files of a local directory."""
    for file in directory.rglob("*"):
      if file.is_file():
        name = f"{prefix}/{file.relative_to(directory)}"
        self.write(name, file.read_bytes())

  def fail(self, status, **kind):
    """Let requests fail, see `Fault`."""
    self.faults.append(Fault(status, **kind))

  def fault(self, method, path):
    """Return the status that a request gets from a fault, or None."""
    with self.lock:
      for fault in self.faults:
        if (
          fault.times > 0
          and re.fullmatch(fault.method, method)
          and re.search(fault.path, path)
        ):
          fault.times -= 1
          return fault.status
    return None

  def check(self, name, query, is_read):
    """Raise an Error if a precondition of a request fails."""
    found = self.objects.get(name)
    generation = found.generation if found else 0
    for kind, value in (("", generation), ("Meta", int(found is not None))):
      wanted = query.get(f"if{kind}{'g' if kind else 'G'}enerationMatch")
      if wanted is not None and int(wanted) != value:
        raise Error(412)
      wanted = query.get(f"if{kind}{'g' if kind else 'G'}enerationNotMatch")
      if wanted is not None and int(wanted) == value:
        raise Error(304 if is_read else 412)

  def list(self, query):
    """Return a page of a listing."""
    prefix, delimiter = query.get("prefix", ""), query.get("delimiter")
    size = min(int(query.get("maxResults", _PAGE)), _PAGE)
    items, prefixes, last = [], [], query.get("pageToken", "")
    for name in self.names(prefix):
      place = name.find(delimiter, len(prefix)) if delimiter else -1
      entry = name if place < 0 else name[: place + len(delimiter)]
      is_outside = name < query.get("startOffset", "") or (
        "endOffset" in query and name >= query["endOffset"]
      )
      if entry <= last or entry in prefixes or is_outside:
        continue
      if len(items) + len(prefixes) == size:
        page = {"nextPageToken": last}
        break
      last = entry
      if place < 0:
        items.append(self.objects[name].metadata())
      else:
        prefixes.append(entry)
    else:
      page = {}
    return {
      "kind": "storage#objects",
      "items": items,
      "prefixes": prefixes,
      **page,
    }


class _Handler(server.BaseHTTPRequestHandler):
  protocol_version = "HTTP/1.1"
  disable_nagle_algorithm = True
  server: Bucket

  def log_message(self, *_):
    pass

  def handle_request(self):
    url = parse.urlsplit(self.path)
    query = dict(parse.parse_qsl(url.query))
    text = parse.unquote(self.path)
    self.server.requests.append(f"{self.command} {text}")
    body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
    time.sleep(self.server.latency)
    try:
      if status := self.server.fault(self.command, text):
        raise Error(status)
      match = _OBJECT.fullmatch(url.path)
      if match is None:
        raise Error(404)
      if parse.unquote(match["bucket"]) != NAME:
        raise Error(404)
      name, target = (
        match[key] and parse.unquote(match[key]) for key in ("name", "target")
      )
      self.answer_about(url.path, query, body, name, target)
    except Error as error:
      content = {"error": {"code": error.status, "message": error.message}}
      self.answer(error.status, b"" if error.status == 304 else content)

  do_GET = do_POST = do_PUT = do_DELETE = handle_request  # noqa: N815

  def answer_about(self, path, query, body, name, target):
    if path.startswith("/upload/"):
      self.upload(query, body)
    elif target is not None:
      copy = self.server.write(target, self.find(name).data, query).metadata()
      if "/moveTo/" in path:
        del self.server.objects[name]
        self.answer(200, copy)
      else:
        self.answer(200, {"done": True, "resource": copy})
    elif name is None:
      is_listing = path.endswith("/o")
      bucket = {"kind": "storage#bucket", "name": NAME, "id": NAME}
      self.answer(200, self.server.list(query) if is_listing else bucket)
    elif self.command == "DELETE":
      self.find(name)
      with self.server.lock:
        self.server.check(name, query, is_read=False)
        self.server.objects.pop(name, None)
      self.answer(204, b"")
    else:
      self.server.check(name, query, is_read=True)
      found = self.find(name)
      if query.get("generation") not in (None, str(found.generation)):
        raise Error(404)
      if query.get("alt") == "media":
        self.download(found)
      else:
        self.answer(200, found.metadata())

  def find(self, name):
    found = self.server.objects.get(name)
    if found is None:
      raise Error(404, f"No such object: {NAME}/{name}")
    return found

  def download(self, found):
    headers = {
      "x-goog-generation": str(found.generation),
      "x-goog-metageneration": "1",
      "Content-Type": "application/octet-stream",
    }
    data, total = found.data, len(found.data)
    match = re.fullmatch(r"bytes=(\d*)-(\d*)", self.headers.get("Range", ""))
    if match is None:
      self.answer(200, data, headers)
      return
    first, last = match.groups()
    start = int(first) if first else max(total - int(last), 0)
    stop = min(int(last) + 1, total) if first and last else total
    if start >= total:
      raise Error(416)
    headers["Content-Range"] = f"bytes {start}-{stop - 1}/{total}"
    self.answer(206, data[start:stop], headers)

  def upload(self, query, body):
    kind = query.get("uploadType")
    if "upload_id" in query:
      self.continue_upload(query["upload_id"], body)
    elif kind == "resumable":
      name = query.get("name") or json.loads(body)["name"]
      key = str(next(self.server.numbers))
      self.server.uploads[key] = name, query, bytearray()
      host = self.headers["Host"]
      path = f"upload/storage/v1/b/{NAME}/o?uploadType=resumable"
      location = f"http://{host}/{path}&upload_id={key}"
      self.answer(200, b"", {"Location": location})
    elif kind == "multipart":
      description, data = _parts(self.headers["Content-Type"], body)
      new = self.server.write(json.loads(description)["name"], data, query)
      self.answer(200, new.metadata())
    else:
      new = self.server.write(query["name"], body, query)
      self.answer(200, new.metadata())

  def continue_upload(self, key, body):
    name, query, data = self.server.uploads[key]
    if self.command == "DELETE":
      del self.server.uploads[key]
      self.answer(499, b"")
      return
    content_range = self.headers.get("Content-Range", "bytes 0-0/*")
    first, total = re.fullmatch(
      r"bytes (\d+|\*)(?:-\d+)?/(\d+|\*)", content_range
    ).groups()
    if first != "*":
      data[int(first) :] = body
    if total == "*" or len(data) < int(total):
      received = {"Range": f"bytes=0-{len(data) - 1}"} if data else {}
      self.answer(308, b"", received)
      return
    del self.server.uploads[key]
    self.answer(200, self.server.write(name, data, query).metadata())

  def answer(self, status, content, headers=None):
    if not isinstance(content, bytes):
      content = json.dumps(content).encode()
      headers = {"Content-Type": "application/json"} | (headers or {})
    self.send_response(status)
    for name, value in (headers or {}).items():
      self.send_header(name, value)
    if status not in (204, 304):
      self.send_header("Content-Length", str(len(content)))
    self.end_headers()
    with contextlib.suppress(ConnectionError):  # of a client that was killed
      self.wfile.write(content)


def _parts(content_type, body):
  """Return the contents of the two parts of a multipart body."""
  boundary = re.search(r"boundary=['\"]?([^'\";]+)", content_type)[1].encode()
  parts = re.split(rb"(?:\r?\n)?--" + re.escape(boundary), body)
  return [re.split(rb"\r?\n\r?\n", part, maxsplit=1)[1] for part in parts[1:3]]


@contextlib.contextmanager
def serve():
  """Run an empty bucket in threads of this process."""
  bucket = Bucket()
  thread = threading.Thread(
    target=bucket.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True
  )
  thread.start()
  try:
    yield bucket
  finally:
    bucket.shutdown()
    bucket.server_close()
