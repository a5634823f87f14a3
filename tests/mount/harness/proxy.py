"""A proxy between dvolfs and the engine that counts requests and does harm on demand.

    proxy.on("GET */archive", SilentCut(1024))      from now on
    proxy.on("GET */archive", Stall(), times=1)     the next one only
    proxy.count("PUT */archive")

A pattern is matched against "METHOD /path", without the API version and the query.
"""
import fnmatch
import re
import select
import socket
import socketserver
import threading
from http.client import HTTPException
from http.server import BaseHTTPRequestHandler

from .engine import UnixConnection

CHUNK = 64 << 10


class Gone(Exception):
    """One of the two ends hung up."""


class Harm:
    """What a rule does; by default nothing."""

    def before(self, exchange):
        """Called before the request goes to the engine; may answer it."""

    def body(self, chunks):
        """The chunks of the answer's body that the client shall get."""
        return chunks


class Status(Harm):
    """Answer with an error of the engine's kind; the engine sees nothing."""

    def __init__(self, code=500, message="an error made by the test"):
        self.code, self.message = code, message

    def before(self, exchange):
        exchange.answer(self.code, f'{{"message":"{self.message}"}}'.encode())


class Reset(Harm):
    """Hang up instead of an answer."""

    def before(self, exchange):
        raise Gone


class Stall(Harm):
    """Hold the request back until release(), or, with `after`, the body after some bytes."""

    def __init__(self, after=None):
        self.after = after
        self.reached = threading.Event()    # a request waits here
        self.released = threading.Event()

    def release(self):
        self.released.set()

    def wait(self):
        self.reached.set()
        self.released.wait()

    def before(self, exchange):
        if self.after is None:
            self.reached.set()
            exchange.wait(self.released)

    def body(self, chunks):
        if self.after is None:
            yield from chunks
            return
        passed = 0
        for chunk in chunks:
            if passed <= self.after < passed + len(chunk):
                yield chunk[:self.after - passed]
                self.wait()
                yield chunk[self.after - passed:]
            else:
                yield chunk
            passed += len(chunk)


class Cut(Harm):
    """Hang up after so many bytes of the body."""

    def __init__(self, after):
        self.after = after

    def body(self, chunks):
        left = self.after
        for chunk in chunks:
            yield chunk[:left]
            left -= len(chunk)
            if left <= 0:
                break
        raise Gone


class SilentCut(Harm):
    """Leave out the last `count` bytes of the body, and end it as if it were whole."""

    def __init__(self, count):
        self.count = count

    def body(self, chunks):
        held = b""
        for chunk in chunks:
            held += chunk
            if len(held) > self.count:
                yield held[:-self.count]
                held = held[-self.count:]


class Exchange(BaseHTTPRequestHandler):
    """The connection of one client: each request goes out on one to the engine."""

    protocol_version = "HTTP/1.1"
    wbufsize = 0

    def __getattr__(self, name):
        if name.startswith("do_"):
            return self.forward
        raise AttributeError(name)

    def log_message(self, *arguments):
        pass

    def address_string(self):
        return "client"

    @property
    def proxy(self):
        return self.server.proxy

    def forward(self):
        harm = self.proxy.meet(self, f"{self.command} {plain(self.path)}")
        engine = UnixConnection(self.proxy.target, timeout=None)
        self.done = threading.Event()
        try:
            self.answered = False
            harm.before(self)
            if not self.answered:
                engine.connect()
                watcher = threading.Thread(target=self.watch, args=(engine.sock, self.done),
                                           daemon=True)
                watcher.start()
                self.relay(engine, harm)
        except (Gone, OSError, ValueError, HTTPException):
            self.close_connection = True
        finally:
            self.done.set()
            engine.close()
            self.proxy.part(self)

    def hung_up(self, milliseconds):
        poll = select.poll()
        poll.register(self.connection, select.POLLRDHUP)
        return bool(poll.poll(milliseconds))

    def wait(self, event):
        """Wait for the event, or until the client hangs up."""
        while not event.wait(0.02):
            if self.hung_up(0) or self.proxy.closing:
                raise Gone

    def watch(self, engine, done):
        """A client that hangs up takes its request to the engine with it."""
        while not done.is_set():
            if self.hung_up(20) and not done.is_set():
                try:
                    engine.shutdown(socket.SHUT_RDWR)
                except OSError:
                    pass
                return

    def answer(self, code, data):
        """Answer without the engine."""
        for _ in self.request_chunks():
            pass
        self.answered = True
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def request_chunks(self):
        if "chunked" in self.headers.get("Transfer-Encoding", ""):
            while size := int(self.rfile.readline().split(b";")[0], 16):
                while size:
                    data = self.rfile.read(min(size, CHUNK))
                    if not data:
                        raise Gone
                    size -= len(data)
                    yield data
                self.rfile.readline()
            self.rfile.readline()
            return
        left = int(self.headers.get("Content-Length", 0))
        while left:
            data = self.rfile.read(min(left, CHUNK))
            if not data:
                raise Gone
            left -= len(data)
            yield data

    def relay(self, engine, harm):
        chunked = "chunked" in self.headers.get("Transfer-Encoding", "")
        engine.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
        for name, value in self.headers.items():
            if name.lower() not in ("expect", "connection"):
                engine.putheader(name, value)
        if "Upgrade" in self.headers:
            engine.putheader("Connection", "Upgrade")
        engine.endheaders()
        try:
            for data in self.request_chunks():
                engine.send(b"%x\r\n%s\r\n" % (len(data), data) if chunked else data)
            if chunked:
                engine.send(b"0\r\n\r\n")
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True        # an early answer: it did not want the rest
        answer = engine.getresponse()
        if answer.status == 101 or "raw-stream" in answer.getheader("Content-Type", ""):
            self.relay_stream(engine.sock, answer, harm)
        else:
            self.relay_answer(answer, harm)

    def relay_stream(self, engine, answer, harm):
        """From now on the connection is a stream of bytes in both directions: attach."""
        self.done.set()                         # either side may end before the other
        self.close_connection = True
        self.send_response_only(answer.status, answer.reason)
        for name, value in answer.getheaders():
            self.send_header(name, value)
        self.end_headers()
        threading.Thread(target=self.relay_upwards, args=(engine,), daemon=True).start()
        try:
            for chunk in harm.body(iter(lambda: answer.fp.read1(CHUNK), b"")):
                self.wfile.write(chunk)
        finally:
            self.connection.shutdown(socket.SHUT_RDWR)      # ends the thread as well

    def relay_upwards(self, engine):
        """What the client sends, and its end, to the engine."""
        try:
            for data in iter(lambda: self.rfile.read1(CHUNK), b""):
                engine.sendall(data)
            engine.shutdown(socket.SHUT_WR)
        except (OSError, ValueError):
            pass                                # one of the two hung up

    def relay_answer(self, answer, harm):
        self.send_response_only(answer.status, answer.reason)
        empty = self.command == "HEAD" or answer.status in (204, 304)
        known = answer.getheader("Content-Length") is not None and type(harm) is Harm
        for name, value in answer.getheaders():
            if name.lower() not in ("transfer-encoding", "connection", "content-length"):
                self.send_header(name, value)
        if answer.getheader("Content-Length") is not None and (empty or known):
            self.send_header("Content-Length", answer.getheader("Content-Length"))
        elif not empty:
            self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        if empty:
            return
        for chunk in harm.body(iter(lambda: answer.read1(CHUNK), b"")):
            if chunk:
                self.wfile.write(chunk if known else b"%x\r\n%s\r\n" % (len(chunk), chunk))
        if not known:
            self.wfile.write(b"0\r\n\r\n")


def plain(path):
    return re.sub(r"^/v[0-9.]+(?=/)", "", path.split("?")[0])


class Server(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 128

    def get_request(self):
        connection, _ = super().get_request()
        return connection, ("client", 0)

    def handle_error(self, request, client_address):
        pass                                    # clients hang up as they like


class Proxy:
    """Listens at `path` for the engine that listens at `target`."""

    def __init__(self, target, path):
        self.target = str(target)
        self.host = f"unix://{path}"
        self.closing = False
        self.lock = threading.Lock()
        self.rules = []
        self.seen = []
        self.exchanges = set()      # requests under way
        self.server = Server(str(path), Exchange)
        self.server.proxy = self
        threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True).start()

    def on(self, pattern, harm, times=None):
        """From now on (or the next `times` times) do `harm`; the last rule that fits counts."""
        with self.lock:
            self.rules.append([pattern, harm, times])
        return harm

    def clear(self):
        with self.lock:
            self.rules.clear()

    def meet(self, exchange, request):
        with self.lock:
            self.seen.append(request)
            self.exchanges.add(exchange)
            for rule in reversed(self.rules):
                pattern, harm, times = rule
                if fnmatch.fnmatchcase(request, pattern) and times != 0:
                    if times is not None:
                        rule[2] -= 1
                    return harm
        return Harm()

    def part(self, exchange):
        with self.lock:
            self.exchanges.discard(exchange)

    def count(self, pattern):
        with self.lock:
            return sum(fnmatch.fnmatchcase(request, pattern) for request in self.seen)

    def drop(self):
        """Hang up on every request that is under way."""
        with self.lock:
            exchanges = list(self.exchanges)
        for exchange in exchanges:
            exchange.connection.shutdown(socket.SHUT_RDWR)

    def forget(self):
        with self.lock:
            self.seen.clear()

    def close(self):
        self.closing = True
        with self.lock:
            harms = [rule[1] for rule in self.rules]
        for harm in harms:
            if isinstance(harm, Stall):
                harm.release()
        self.server.shutdown()
        self.server.server_close()
