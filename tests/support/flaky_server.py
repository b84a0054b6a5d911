"""A web server on this machine that breaks connections: half of the answer, then nothing."""

from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread


class FlakyServer:
    """Serve files by name from memory.

    Args:
        files: bytes by name.
        breaks: number of answers that are broken off in the middle before the first whole one.
        ranges: answer requests for a range of bytes with that range alone.

    Attributes:
        requests: the paths that were asked for, with the range.
    """

    def __init__(self, files, *, breaks=0, ranges=True):
        self.files, self.breaks, self.ranges, self.requests = files, breaks, ranges, []
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_HEAD(self):
                self.answer(body=False)

            def do_GET(self):
                self.answer(body=True)

            def answer(self, body):
                name, wanted = self.path.lstrip("/"), self.headers.get("Range")
                data = server.files.get(name)
                if data is None:
                    self.send_error(404)
                    return
                size, status = len(data), 200
                if wanted and server.ranges:
                    start, _, stop = wanted.removeprefix("bytes=").partition("-")
                    data, status = data[int(start) : int(stop) + 1], 206
                self.send_response(status)
                self.send_header("Content-Length", str(len(data)))
                self.send_header("ETag", f'"{hash(server.files[name])}"')
                if status == 206:
                    self.send_header("Content-Range", f"bytes {start}-{int(start) + len(data) - 1}/{size}")
                self.end_headers()
                if not body:
                    return
                server.requests.append((name, wanted))
                if server.breaks > 0:
                    server.breaks -= 1
                    self.wfile.write(data[: len(data) // 2])
                    self.close_connection = True
                    return
                self.wfile.write(data)

            def log_message(self, *words):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.thread = Thread(target=self.server.serve_forever, args=(0.02,), daemon=True)
        self.thread.start()
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    def close(self):
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()
