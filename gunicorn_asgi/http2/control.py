"""Pure: what of HTTP/2 concerns a connection alone: its settings, PING, how it ends, and what its client has cost (RFC 9113, 5.4.1, 6.5 to 6.8, 10.5)."""

from __future__ import annotations

from . import budget, frames
from .events import Acknowledged, Event, Failed, Leaving, Seen
from .frames import ACK, DEFAULT_WINDOW, MAX_STREAM_ID, MAX_WINDOW, Code, ConnectionFailure
from .streams import HALF_CLOSED_REMOTE, Limits, Stream, Streams

MARK = b"drained?"
"""In the PING that asks whether all before it was seen."""
STREAM_MARK = b"end?"
"""In the PING that asks the same for one stream, before the stream's number."""
WAKE = b"closed.."
"""Payload of a PING whose answer is ignored."""
MAX_SENT_FRAME = 65536
"""Bytes of the longest frame of data that is sent, however long the client allows it: others want their turn."""
UPGRADE_WINDOW = 16384
"""Bytes of the body that may stand behind the 101 of ``Upgrade: h2c``. All comes in one packet there, and curl, for one, fails with more than 32 KiB."""
TOO_MANY = "too many frames that ask for nothing"


class Control(Streams):
    """A connection with its frames on stream 0. Those of the streams are read by `Protocol`, which is all of it."""

    def __init__(self, limits: Limits) -> None:
        super().__init__(limits)
        self._now = 0.0
        """When what is read has come, in seconds."""
        self._is_settled = False
        """The client's first SETTINGS are here."""
        self._is_acknowledged = False
        """Ours are with the client."""
        self._new_window = max(limits.window, DEFAULT_WINDOW)
        """What a new stream of the client begins with. Until it has our SETTINGS, it may send as much as without them (6.9.2)."""
        self._is_refusing = False
        """No new ones are taken..."""
        self._last_taken = MAX_STREAM_ID
        """...behind this one."""
        self.has_failed = False
        self._withheld = 0
        """Bytes of the client's window that are not used before its SETTINGS are here."""

    def start(self) -> None:
        """Send our SETTINGS, and open the connection's window."""
        limits = self._limits
        values = [
            (frames.MAX_CONCURRENT_STREAMS, limits.max_streams),
            (frames.INITIAL_WINDOW_SIZE, limits.window),
            (frames.MAX_FRAME_SIZE, limits.max_frame),
            (frames.MAX_HEADER_LIST_SIZE, limits.max_header_list),
        ]
        if limits.has_websocket:
            values.append((frames.ENABLE_CONNECT_PROTOCOL, 1))
        self.outbox.add([frames.settings(values)])
        if self._window > DEFAULT_WINDOW:
            self.outbox.add([frames.window_update(0, self._window - DEFAULT_WINDOW)])

    def start_upgraded(self, settings: bytes) -> Stream:
        """The same behind ``Upgrade: h2c``: `settings` are those of the request, which is the stream 1 that the client has ended (RFC 7540, 3.2).

        Raises ConnectionFailure for settings that are none.
        """
        self._apply(settings)
        self.start()
        self._withheld = self.outbox.window - UPGRADE_WINDOW
        self.outbox.window = UPGRADE_WINDOW
        self.last_id = 1
        stream = self.streams[1] = Stream(1, self.outbox.initial_window, 0, HALF_CLOSED_REMOTE, 0)
        return stream

    # What it has cost.

    def _spend(self, points: int) -> None:
        if not self._budget.spend(points, self._now):
            # 10.5: "An endpoint MAY treat activity that is suspicious as a connection error of type ENHANCE_YOUR_CALM."
            raise ConnectionFailure(Code.ENHANCE_YOUR_CALM, TOO_MANY)

    def _answer(self) -> None:
        if not self._budget.answer(budget.IDLE_FRAME, self._now):
            raise ConnectionFailure(Code.ENHANCE_YOUR_CALM, TOO_MANY)

    def charge(self, points: int) -> None:
        """The client has cost so many by what only the connection knows: where they were too many, its next stream is its last."""
        self._budget.spend(points, self._now)

    def settle(self) -> Failed | None:
        """Set off what the data frames have cost, or paid. Returns why the connection has failed by it."""
        points, self.outbox.points = self.outbox.points, 0
        if points < 0:
            self._budget.pay_answers(-points)
        elif points > 0 and not self._budget.answer(points, self._now):
            failure = Failed(Code.ENHANCE_YOUR_CALM, "a window that allows next to nothing")
            self.fail(*failure)
            return failure
        return None

    # Its frames.

    def _on_settings(self, flags: int, id_: int, payload: bytes, _events: list[Event]) -> None:
        if id_:
            raise ConnectionFailure(Code.PROTOCOL_ERROR, "SETTINGS on a stream")  # 6.5
        if flags & ACK:
            if payload:
                raise ConnectionFailure(
                    Code.FRAME_SIZE_ERROR, "SETTINGS that acknowledge, and set something"
                )  # 6.5
            if not self._is_settled:
                raise ConnectionFailure(Code.PROTOCOL_ERROR, "the first frame is not SETTINGS")
            self._acknowledged()
            return
        # 6.5.3: the values are taken in their order, each with all that it changes.
        self._spend(budget.SETTINGS_FRAME + len(payload) // 6)
        self._apply(payload)
        self._is_settled = True
        self.outbox.window += self._withheld
        self._withheld = 0
        self.outbox.add([frames.SETTINGS_ACK])

    def _acknowledged(self) -> None:
        if self._is_acknowledged:
            self._spend(budget.IDLE_FRAME)
            return
        self._is_acknowledged = True
        self._new_window = self._limits.window
        surplus = DEFAULT_WINDOW - self._limits.window
        if surplus > 0:
            for stream in self.streams.values():
                stream.receive_window -= surplus

    def _apply(self, payload: bytes) -> None:
        """Take the client's SETTINGS (6.5.2). Raises ConnectionFailure."""
        if len(payload) % 6:
            raise ConnectionFailure(
                Code.FRAME_SIZE_ERROR, "SETTINGS of a size that is no multiple of 6"
            )
        outbox = self.outbox
        for setting, value in frames.read_settings(payload):
            if setting == frames.INITIAL_WINDOW_SIZE:
                if value > MAX_WINDOW:
                    raise ConnectionFailure(
                        Code.FLOW_CONTROL_ERROR, f"SETTINGS_INITIAL_WINDOW_SIZE of {value}"
                    )
                change, outbox.initial_window = value - outbox.initial_window, value
                # 6.9.2: of the streams that there are, too.
                if not all(outbox.open(stream, change) for stream in self.streams.values()):
                    raise ConnectionFailure(Code.FLOW_CONTROL_ERROR, "a window above 2^31-1")
            elif setting == frames.MAX_FRAME_SIZE:
                if not frames.LEAST_MAX_FRAME_SIZE <= value < 2**24:
                    raise ConnectionFailure(
                        Code.PROTOCOL_ERROR, f"SETTINGS_MAX_FRAME_SIZE of {value}"
                    )
                outbox.max_frame = min(value, MAX_SENT_FRAME)
            elif setting in (frames.ENABLE_PUSH, frames.ENABLE_CONNECT_PROTOCOL) and value > 1:
                raise ConnectionFailure(Code.PROTOCOL_ERROR, f"a setting of {value} that is 0 or 1")

    def _on_push_promise(
        self, _flags: int, _id: int, _payload: bytes, _events: list[Event]
    ) -> None:
        raise ConnectionFailure(Code.PROTOCOL_ERROR, "PUSH_PROMISE from a client")  # 8.4

    def _on_ping(self, flags: int, id_: int, payload: bytes, events: list[Event]) -> None:
        if id_:
            raise ConnectionFailure(Code.PROTOCOL_ERROR, "PING on a stream")  # 6.7
        if len(payload) != 8:
            raise ConnectionFailure(Code.FRAME_SIZE_ERROR, "PING of another size than 8")  # 6.7
        self._answer()
        if not flags & ACK:
            self.outbox.add([frames.ping(payload, True)])
        elif payload == MARK:
            events.append(Acknowledged())
        elif payload.startswith(STREAM_MARK):
            stream = self.streams.get(int.from_bytes(payload[len(STREAM_MARK) :], "big"))
            if stream is not None:
                events.append(Seen(stream))

    def _on_goaway(self, _flags: int, id_: int, payload: bytes, events: list[Event]) -> None:
        if id_:
            raise ConnectionFailure(Code.PROTOCOL_ERROR, "GOAWAY on a stream")  # 6.8
        if len(payload) < 8:
            raise ConnectionFailure(Code.FRAME_SIZE_ERROR, "GOAWAY of less than 8 bytes")
        self._spend(budget.SETTINGS_FRAME)
        events.append(Leaving(int.from_bytes(payload[4:8], "big")))

    def ask(self, stream: Stream) -> None:
        """Ask when the client has seen all that was sent on `stream`: `Seen` comes."""
        self.outbox.add([frames.ping(STREAM_MARK + stream.id.to_bytes(4, "big"), False)])

    def wake_client(self) -> None:
        """Send something, whatever it is: what is to be told of the connection's window, or else a PING."""
        if not self.settle_credit():
            self.outbox.add([frames.ping(WAKE, False)])

    # The end.

    def announce(self) -> None:
        """Say that the connection will end, and ask when that is known: `Acknowledged` comes (6.8)."""
        self.outbox.add([frames.goaway(MAX_STREAM_ID, Code.NO_ERROR, ""), frames.ping(MARK, False)])

    def stop(self) -> None:
        """Take no more streams, and tell the client up to which all have been taken (6.8)."""
        if not self._is_refusing and not self.has_failed:
            self._is_refusing = True
            self._last_taken = self.last_id
            self.outbox.add([frames.goaway(self.last_id, Code.NO_ERROR, "")])

    def fail(self, code: Code, reason: str) -> None:
        """End the connection for `reason` (5.4.1). Nothing that comes behind it is looked at."""
        self.has_failed = True
        # 6.8: the number must not grow, whatever was refused since.
        self.outbox.add([frames.goaway(min(self.last_id, self._last_taken), code, reason)])
