"""Remote-controlled clients of the Centrifugo SDK for Python: one JSON command per line on stdin, one JSON event per
line on stdout. driver.mjs does the same with the SDK for JavaScript. tests/end_to_end/sdk_client.rs describes the
commands and events.

Argument: the encoding (json or protobuf).
"""

import asyncio
import json
import sys
import traceback
from urllib.parse import urlsplit, urlunsplit

from centrifuge import (
    CentrifugeError,
    Client,
    ClientEventHandler,
    ReplyError,
    StreamPosition,
    SubscriptionEventHandler,
    UnauthorizedError,
)
from centrifuge.codes import _ErrorCode
from centrifuge.exceptions import ClientDisconnectedError, OperationTimeoutError, SubscriptionUnsubscribedError
from websockets.exceptions import ConnectionClosed

IS_PROTOBUF = sys.argv[1] == "protobuf"

# The port of the server. 0: it cannot be reached. The SDKs keep a fixed address, so each connection sets the port.
port = 0
clients = {}


def emit(event, **fields):
    sys.stdout.write(json.dumps({"event": event, **fields}) + "\n")
    sys.stdout.flush()


def pack(data):
    """Converts `data` to what the SDK expects. It is JSON in both encodings, but in Protobuf the SDK takes bytes."""
    return json.dumps(data).encode() if IS_PROTOBUF else data


def unpack(data):
    return json.loads(data) if IS_PROTOBUF and data is not None else data


# ── frames ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def messages_of(frame):
    """The messages in a frame. Raises an exception if the frame is invalid."""
    if isinstance(frame, str) == IS_PROTOBUF:
        raise ValueError(f"unexpected {'text' if IS_PROTOBUF else 'binary'} frame")
    if not IS_PROTOBUF:
        lines = frame.split("\n")
        if not all(isinstance(json.loads(line), dict) for line in lines):
            raise ValueError("a line is not an object")
        return lines
    messages, at = [], 0
    while at < len(frame):
        length = shift = 0
        while True:
            byte = frame[at]
            at += 1
            length |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                break
        if at + length > len(frame):
            raise ValueError("a message exceeds its frame")
        messages.append(frame[at : at + length])
        at += length
    if not messages:
        raise ValueError("an empty frame")
    return messages


class Watched(Client):
    """Counts traffic, connects to the current port, and can be aborted."""

    def __init__(self, name, address, mute, **options):
        super().__init__(address, **options)
        self.label = name
        self.is_mute = mute
        self.traffic = {"frames_in": 0, "frames_out": 0, "largest_in": 0, "most_out": 0, "pings": 0}

    async def _open_transport(self):
        if port == 0:
            raise ConnectionRefusedError("the server cannot be reached")
        self._address = urlunsplit(urlsplit(self._address)._replace(netloc=f"127.0.0.1:{port}"))
        connection = await super()._open_transport()
        receive, send, traffic = connection.recv, connection.send, self.traffic

        async def watched_receive():
            try:
                frame = await receive()
            except ConnectionClosed:
                emit("closed", client=self.label, code=connection.close_code, reason=connection.close_reason or "")
                raise
            traffic["frames_in"] += 1
            size = len(frame.encode()) if isinstance(frame, str) else len(frame)
            traffic["largest_in"] = max(traffic["largest_in"], size)
            try:
                traffic["pings"] += sum(message in {"{}", b""} for message in messages_of(frame))
            except (ValueError, IndexError) as error:
                emit("broken", client=self.label, message=f"received an invalid frame: {error}")
            return frame

        async def watched_send(frame):
            if self.is_mute:
                return
            traffic["frames_out"] += 1
            traffic["most_out"] = max(traffic["most_out"], len(messages_of(frame)))
            await send(frame)

        connection.recv, connection.send = watched_receive, watched_send
        return connection

    def drop(self):
        self._conn.transport.abort()


# ── events ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def error_of(error, code=None):
    """The code and message of an error. The SDK's own errors get the codes of the SDK for JavaScript."""
    if isinstance(error, ReplyError):
        return {"code": error.code, "message": error.message, "temporary": error.temporary}
    for kind, own in (
        (OperationTimeoutError, _ErrorCode.TIMEOUT),
        (ClientDisconnectedError, _ErrorCode.CLIENT_DISCONNECTED),
        (SubscriptionUnsubscribedError, _ErrorCode.SUBSCRIPTION_UNSUBSCRIBED),
    ):
        if isinstance(error, kind):
            code = own.value
    return {"code": code, "message": str(error), "temporary": False}


def info_of(info):
    if info is None:
        return {"user": "", "client_id": "", "conn_info": None}
    return {"user": info.user, "client_id": info.client, "conn_info": unpack(info.conn_info)}


def publication_of(publication):
    return {"offset": publication.offset, "data": unpack(publication.data), **info_of(publication.info)}


def subscribed_of(ctx):
    position = ctx.stream_position
    return {
        "was_recovering": ctx.was_recovering,
        "recovered": ctx.recovered,
        "recoverable": ctx.recoverable,
        "positioned": ctx.positioned,
        "offset": position.offset if position else None,
        "epoch": position.epoch if position else None,
    }


class ClientEvents(ClientEventHandler):
    def __init__(self, name):
        self.name = name

    def state(self, state, code=0, reason="", id=""):
        emit("state", client=self.name, state=state, code=code, reason=reason, id=id)

    async def on_connecting(self, ctx):
        self.state("connecting", ctx.code, ctx.reason)

    async def on_connected(self, ctx):
        self.state("connected", id=ctx.client)

    async def on_disconnected(self, ctx):
        self.state("disconnected", ctx.code, ctx.reason)

    async def on_error(self, ctx):
        emit("error", client=self.name, **error_of(ctx.error, ctx.code))

    # Events of server-side subscriptions.

    def emit_server(self, event, ctx, **fields):
        emit(event, client=self.name, channel=ctx.channel, is_server=True, **fields)

    async def on_subscribing(self, ctx):
        self.emit_server("subscription", ctx, state="subscribing", code=0, reason="")

    async def on_unsubscribed(self, ctx):
        self.emit_server("subscription", ctx, state="unsubscribed", code=0, reason="")

    async def on_subscribed(self, ctx):
        self.emit_server("subscription", ctx, state="subscribed", **subscribed_of(ctx))

    async def on_publication(self, ctx):
        self.emit_server("publication", ctx, **publication_of(ctx.pub))

    async def on_join(self, ctx):
        self.emit_server("presence", ctx, change="join", **info_of(ctx.info))

    async def on_leave(self, ctx):
        self.emit_server("presence", ctx, change="leave", **info_of(ctx.info))


class SubscriptionEvents(SubscriptionEventHandler):
    def __init__(self, name, channel):
        self.name = name
        self.channel = channel

    def emit(self, event, **fields):
        emit(event, client=self.name, channel=self.channel, is_server=False, **fields)

    async def on_subscribing(self, ctx):
        self.emit("subscription", state="subscribing", code=ctx.code, reason=ctx.reason)

    async def on_unsubscribed(self, ctx):
        self.emit("subscription", state="unsubscribed", code=ctx.code, reason=ctx.reason)

    async def on_subscribed(self, ctx):
        self.emit("subscription", state="subscribed", **subscribed_of(ctx))

    async def on_publication(self, ctx):
        self.emit("publication", **publication_of(ctx.pub))

    async def on_join(self, ctx):
        self.emit("presence", change="join", **info_of(ctx.info))

    async def on_leave(self, ctx):
        self.emit("presence", change="leave", **info_of(ctx.info))

    async def on_error(self, ctx):
        self.emit("subscription_error", **error_of(ctx.error, ctx.code))


# ── commands ────────────────────────────────────────────────────────────────────────────────────────────────────────


def create(command):
    name = command["client"]
    tokens = command.get("tokens")

    async def get_token():
        token = tokens.pop(0) if tokens else None
        emit("token", client=name, is_there=token is not None)
        if token is None:
            raise RuntimeError("there is no token yet")
        if token == "":
            raise UnauthorizedError("there are no more tokens")
        return token

    client = Watched(
        name,
        f"ws://127.0.0.1:1{command.get('path', '/connection/websocket')}",
        command.get("mute", False),
        events=ClientEvents(name),
        token=command.get("token", ""),
        get_token=None if tokens is None else get_token,
        headers=command.get("headers"),
        use_protobuf=IS_PROTOBUF,
        # With the SDK's default delays, each reconnect would take as long as a test.
        min_reconnect_delay=0.05,
        max_reconnect_delay=0.2,
        max_server_ping_delay=command.get("max_ping_delay_ms", 10000) / 1000,
        # The server is on this machine, so a proxy from the environment must not be used.
        proxy=None,
    )
    client.tokens = tokens
    clients[name] = client


async def subscribe(client, command):
    channel = command["channel"]
    subscription = client.get_subscription(channel)
    if subscription is None:
        states = command.get("states")

        async def get_state(_channel):
            state = states.pop(0) if states else None
            emit("get_state", client=client.label, channel=channel, is_there=state is not None)
            if state is None:
                raise RuntimeError("there is no state")
            return StreamPosition(**state)

        subscription = client.new_subscription(
            channel,
            events=SubscriptionEvents(client.label, channel),
            min_resubscribe_delay=0.05,
            max_resubscribe_delay=0.2,
            recoverable=command.get("recoverable", False),
            join_leave=command.get("join_leave", False),
            get_state=None if states is None else get_state,
        )
        since = command.get("since")
        if since:
            # Other SDKs have an option for this.
            subscription._recover, subscription._offset, subscription._epoch = True, since["offset"], since["epoch"]
    await subscription.subscribe()


async def rpc(client, command):
    return unpack((await client.rpc(command["method"], pack(command["data"]))).data)


async def history(client, command):
    since = command.get("since")
    result = await client.history(
        command["channel"],
        limit=command.get("limit", 0),
        since=StreamPosition(offset=since["offset"], epoch=since.get("epoch", "")) if since else None,
        reverse=command.get("reverse", False),
    )
    publications = [publication_of(publication) for publication in result.publications]
    return {"publications": publications, "offset": result.offset, "epoch": result.epoch}


async def presence(client, command):
    result = await client.presence(command["channel"])
    return {id: info_of(info) for id, info in result.clients.items()}


async def presence_stats(client, command):
    stats = await client.presence_stats(command["channel"])
    return {"num_clients": stats.num_clients, "num_users": stats.num_users}


async def send(client, command):
    # Other SDKs have a method for this.
    await client.ready()
    await client._send_commands([{"send": {"data": client._encode_data(pack(command["data"]))}}])


async def run(command):
    """Runs a command and returns its result."""
    global port
    client = clients.get(command.get("client"))
    match command["do"]:
        case "server":
            port = command["port"]
        case "create":
            create(command)
        case "connect":
            await client.connect()
        case "disconnect":
            await client.disconnect()
        case "drop":
            client.drop()
        case "mute":
            client.is_mute = command["mute"]
        case "tokens":
            client.tokens.extend(command["tokens"])
        case "traffic":
            return client.traffic
        case "subscribe":
            await subscribe(client, command)
        case "unsubscribe":
            await client.get_subscription(command["channel"]).unsubscribe()
        case "remove":
            client.remove_subscription(client.get_subscription(command["channel"]))
        case "status":
            return client.get_subscription(command["channel"]).state.value
        case "publish":
            await client.publish(command["channel"], pack(command["data"]))
        case "send":
            await send(client, command)
        case "rpc":
            return await rpc(client, command)
        case "presence":
            return await presence(client, command)
        case "presence_stats":
            return await presence_stats(client, command)
        case "history":
            return await history(client, command)
        case unknown:
            raise ValueError(unknown)
    return None


async def run_and_report(command):
    try:
        emit("result", call=command["call"], result=await run(command))
    except CentrifugeError as error:
        emit("failed", call=command["call"], **error_of(error, _ErrorCode.CONNECTION_CLOSED.value))
    except Exception:
        emit("broken", client=command.get("client"), message=f"{command}: {traceback.format_exc()}")


async def main():
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader(limit=1 << 26)
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    running = set()
    # The commands of one line start together, before anything else happens.
    while line := await reader.readline():
        commands = json.loads(line)
        for command in commands if isinstance(commands, list) else [commands]:
            task = asyncio.create_task(run_and_report(command))
            running.add(task)
            task.add_done_callback(running.discard)


asyncio.run(main())
