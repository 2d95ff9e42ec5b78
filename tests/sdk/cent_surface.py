"""Calls every method of Centrifugo's server library for Python, with its synchronous and its asynchronous client.

Arguments: the URL of the API, a key that may do everything and names users by username, a key that may only read, and
the name of a user with a connection in the room "r". Prints "done" if every answer is as expected.
"""

import asyncio
import sys
import time
import uuid

import cent

URL, KEY, READER, USER = sys.argv[1:]


def expect(actual, expected):
    if actual != expected:
        raise AssertionError(f"{actual!r} instead of {expected!r}")


async def call(client, method, request):
    """Calls a method of either client."""
    answer = getattr(client, method)(request)
    return await answer if asyncio.iscoroutine(answer) else answer


async def expect_error(client, method, request, code):
    try:
        await call(client, method, request)
    except cent.CentApiResponseError as error:
        expect((method, error.code), (method, code))
    else:
        raise AssertionError(f"{method} did not fail with {code}")


async def surface(client, name):
    """`name`: of a room that is not there yet."""
    await call_extra(client, "create_room", {"name": name, "private": True})
    channel = f"room:{name}"
    key = str(uuid.uuid4())
    hello = cent.PublishRequest(channel=channel, data={"text": "hello"}, idempotency_key=key)
    sent = await call(client, "publish", hello)
    expect(await call(client, "publish", hello), sent)
    if sent.offset < 1 or not sent.epoch:
        raise AssertionError(f"no position: {sent!r}")
    other = cent.PublishRequest(channel=channel, data={"text": "other"}, idempotency_key=key)
    await expect_error(client, "publish", other, 113)
    for wrong, code in [
        (cent.PublishRequest(channel="room:nowhere", data={"text": "x"}), 102),
        (cent.PublishRequest(channel=channel, data={"text": "x"}, skip_history=True), 108),
        (cent.PublishRequest(channel=channel, data={"text": "x"}, tags={"a": "b"}), 107),
        (cent.PublishRequest(channel=channel, data={"text": "x"}, b64data="eHg="), 107),
        (cent.PublishRequest(channel=channel, data=[1]), 107),
    ]:
        await expect_error(client, "publish", wrong, code)

    several = cent.BroadcastRequest(channels=[channel, "room:nowhere"], data={"text": "to all"})
    responses = (await call(client, "broadcast", several)).responses
    expect(responses[0].result.epoch, sent.epoch)
    expect(responses[1].error.code, 102)

    await call(client, "subscribe", cent.SubscribeRequest(user=USER, channel=channel))
    as_user = cent.PublishRequest(channel=channel, data={"text": "from the user", "as": USER})
    await call(client, "publish", as_user)

    position = await call(client, "history", cent.HistoryRequest(channel=channel))
    expect((position.publications, position.epoch), ([], sent.epoch))
    since = cent.StreamPosition(offset=sent.offset, epoch=sent.epoch)
    later = await call(client, "history", cent.HistoryRequest(channel=channel, limit=10, since=since))
    texts = [it.data["text"] for it in later.publications if "text" in it.data]
    expect(texts, ["to all", "from the user"])
    expect(later.publications[-1].info.user, USER)
    newest = await call(client, "history", cent.HistoryRequest(channel=channel, limit=1, reverse=True))
    expect(newest.publications[0].data["text"], "from the user")
    await expect_error(client, "history", cent.HistoryRequest(channel="room:nowhere"), 102)
    await expect_error(client, "history_remove", cent.HistoryRemoveRequest(channel=channel), 108)

    present = (await call(client, "presence", cent.PresenceRequest(channel="room:r"))).presence
    expect([(it.client, it.user) for it in present.values()], [(key, USER) for key in present])
    stats = await call(client, "presence_stats", cent.PresenceStatsRequest(channel="room:r"))
    expect((stats.num_clients, stats.num_users, len(present)), (1, 1, 1))
    channels = (await call(client, "channels", cent.ChannelsRequest())).channels
    expect(channels["room:r"].num_clients, 1)
    expect((await call(client, "channels", cent.ChannelsRequest(pattern="live:*"))).channels, {})
    for live in ["live:x", f"user:{USER}"]:
        await call(client, "publish", cent.PublishRequest(channel=live, data={"any": ["json"]}, skip_history=True))
    await call(client, "unsubscribe", cent.UnsubscribeRequest(user=USER, channel=channel))
    soon = int(time.time()) + 3600
    await call(client, "refresh", cent.RefreshRequest(user=USER, expire_at=soon))
    kept = list(present)
    disconnect = cent.Disconnect(code=4500, reason="test")
    await call(client, "disconnect", cent.DisconnectRequest(user=USER, whitelist=kept, disconnect=disconnect))
    expect_one = cent.PresenceStatsRequest(channel="room:r")
    expect((await call(client, "presence_stats", expect_one)).num_clients, 1)
    await call(client, "invalidate_user_tokens", cent.InvalidateUserTokensRequest(user="bot"))
    await call(client, "block_user", cent.BlockUserRequest(user="bot"))
    await call(client, "unblock_user", cent.UnblockUserRequest(user="bot"))

    nodes = (await call(client, "info", cent.InfoRequest())).nodes
    expect(nodes != [] and all(node.uid and node.name and node.version for node in nodes), True)

    await errors(client, channel, sent.epoch)

    batch = cent.BatchRequest(
        requests=[
            cent.PublishRequest(channel=channel, data={"text": "first"}),
            cent.HistoryRequest(channel=channel, limit=1, reverse=True),
        ],
    )
    replies = (await call(client, "batch", batch)).replies
    expect(replies[1].publications[0].data["text"], "first")
    batch.parallel = True
    expect(len((await call(client, "batch", batch)).replies), 2)


async def errors(client, channel, epoch):
    """Each method with what it can't do. `channel`: a room's, which has this epoch."""
    at = cent.StreamPosition
    for method, request, code in [
        ("broadcast", cent.BroadcastRequest(channels=[], data={"text": "x"}), 107),
        ("broadcast", cent.BroadcastRequest(channels=[channel], data={"text": "x"}, b64data="eHg="), 107),
        ("publish", cent.PublishRequest(channel="lobby", data={"text": "x"}), 102),
        ("publish", cent.PublishRequest(channel="live:Lobby/x", data={}), 102),
        ("publish", cent.PublishRequest(channel=channel, data={"text": "x" * 20_000}), 106),
        ("publish", cent.PublishRequest(channel=channel, data={"text": "x", "epoch": "other"}), 112),
        ("publish", cent.PublishRequest(channel=channel, data={"text": "x", "as": "nobody"}), 107),
        ("publish", cent.PublishRequest(channel=channel, data={"text": "x"}, idempotency_key="x" * 65), 107),
        ("publish", cent.PublishRequest(channel=channel, data={"text": "x"}, delta=True), 108),
        ("subscribe", cent.SubscribeRequest(user="nobody", channel=channel), 107),
        ("subscribe", cent.SubscribeRequest(user=USER, channel="room:nowhere"), 102),
        ("subscribe", cent.SubscribeRequest(user=USER, channel="live:x"), 108),
        ("subscribe", cent.SubscribeRequest(user=USER, channel=channel, client="x"), 108),
        ("subscribe", cent.SubscribeRequest(user=USER, channel=channel, info={"a": 1}), 108),
        ("unsubscribe", cent.UnsubscribeRequest(user=USER, channel="nowhere"), 102),
        ("unsubscribe", cent.UnsubscribeRequest(user=USER, channel=f"user:{USER}"), 108),
        ("unsubscribe", cent.UnsubscribeRequest(user=USER, channel=channel, session="x"), 108),
        ("disconnect", cent.DisconnectRequest(user=""), 107),
        ("disconnect", cent.DisconnectRequest(user=USER, session="x"), 108),
        ("disconnect", cent.DisconnectRequest(user=USER, whitelist=["x"] * 65), 107),
        ("disconnect", cent.DisconnectRequest(user=USER, disconnect=cent.Disconnect(code=1000, reason="x")), 107),
        ("disconnect", cent.DisconnectRequest(user=USER, disconnect=cent.Disconnect(code=4000, reason="{}")), 107),
        ("refresh", cent.RefreshRequest(user=USER, session="x"), 108),
        ("refresh", cent.RefreshRequest(user=USER, expire_at=-1), 107),
        ("presence", cent.PresenceRequest(channel="room:nowhere"), 102),
        ("presence", cent.PresenceRequest(channel=f"user:{USER}"), 108),
        ("presence_stats", cent.PresenceStatsRequest(channel=""), 107),
        ("presence_stats", cent.PresenceStatsRequest(channel="room:nowhere"), 102),
        ("history", cent.HistoryRequest(channel="live:x"), 108),
        ("history", cent.HistoryRequest(channel=channel, since=at(offset=1, epoch="other")), 112),
        ("history", cent.HistoryRequest(channel=channel, limit=1, since=at(offset=0, epoch=epoch), reverse=True), 107),
        ("history_remove", cent.HistoryRemoveRequest(channel=channel), 108),
        ("channels", cent.ChannelsRequest(pattern="["), 107),
        ("invalidate_user_tokens", cent.InvalidateUserTokensRequest(user="nobody"), 107),
        ("invalidate_user_tokens", cent.InvalidateUserTokensRequest(user="bot", expire_at=7), 108),
        ("block_user", cent.BlockUserRequest(user="nobody"), 107),
        ("block_user", cent.BlockUserRequest(user="bot", expire_at=7), 108),
        ("unblock_user", cent.UnblockUserRequest(user="nobody"), 107),
        ("connections", cent.ConnectionsRequest(user=USER, expression=""), 104),
    ]:
        await expect_error(client, method, request, code)


async def read_only(client):
    """What a key without the other scopes gets."""
    await call(client, "info", cent.InfoRequest())
    for method, request in [
        ("publish", cent.PublishRequest(channel="room:r", data={"text": "x"})),
        ("broadcast", cent.BroadcastRequest(channels=["room:r"], data={"text": "x"})),
        ("subscribe", cent.SubscribeRequest(user=USER, channel="room:r")),
        ("unsubscribe", cent.UnsubscribeRequest(user=USER, channel="room:r")),
        ("disconnect", cent.DisconnectRequest(user=USER)),
        ("refresh", cent.RefreshRequest(user=USER, expired=True)),
        ("block_user", cent.BlockUserRequest(user=USER)),
        ("unblock_user", cent.UnblockUserRequest(user=USER)),
        ("invalidate_user_tokens", cent.InvalidateUserTokensRequest(user=USER)),
        ("history_remove", cent.HistoryRemoveRequest(channel="room:r")),
    ]:
        await expect_error(client, method, request, 103)


async def call_extra(client, method, params):
    """Calls a method that the library does not know, through its own transport."""
    answer = client._session.make_request(KEY, method, params)
    text = await answer if asyncio.iscoroutine(answer) else answer
    if '"error"' in text:
        raise AssertionError(f"{method}: {text}")


async def expect_unauthorized(client):
    try:
        await call(client, "info", cent.InfoRequest())
    except cent.CentUnauthorizedError:
        pass
    else:
        raise AssertionError("a wrong key was accepted")


async def main():
    suffix = uuid.uuid4().hex[:8]
    await surface(cent.Client(URL, KEY), f"sync-{suffix}")
    await read_only(cent.Client(URL, READER))
    await expect_unauthorized(cent.Client(URL, "wrong"))
    async with cent.AsyncClient(URL, KEY) as client:
        await surface(client, f"async-{suffix}")
    async with cent.AsyncClient(URL, READER) as client:
        await read_only(client)
    async with cent.AsyncClient(URL, "wrong") as client:
        await expect_unauthorized(client)
    print("done")


asyncio.run(main())
