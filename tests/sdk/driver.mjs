// Remote-controlled clients of the Centrifugo SDK for JavaScript: one JSON command per line on stdin, one JSON event
// per line on stdout. driver.py does the same with the SDK for Python. tests/end_to_end/sdk_client.rs describes the
// commands and events.
//
// Arguments: the folder that contains node_modules, and the encoding (json or protobuf).

import { createRequire } from 'node:module';
import { createInterface } from 'node:readline';

const [, , folder, encoding] = process.argv;
const require = createRequire(`${folder}/`);
const { Centrifuge, UnauthorizedError } = require(encoding === 'protobuf' ? 'centrifuge/build/protobuf' : 'centrifuge');
const { WebSocket } = require('ws');

// The port of the server. 0: it cannot be reached. The SDKs keep a fixed address, so each socket sets the current port.
let port = 0;
const clients = new Map();

const emit = (event) => process.stdout.write(`${JSON.stringify(event)}\n`);

// Convert `data` to what the SDK expects, and back. It is JSON in both encodings, but in Protobuf the SDK takes bytes.
const pack = (data) => (encoding === 'protobuf' ? new TextEncoder().encode(JSON.stringify(data)) : data);
const unpack = (data) => {
  if (encoding !== 'protobuf' || data === undefined || data === null) return data ?? null;
  return data.length === 0 ? null : JSON.parse(new TextDecoder().decode(data));
};

// ── frames ──────────────────────────────────────────────────────────────────────────────────────────────────────────

// The messages in a frame. Throws if the frame is invalid.
function messagesOf(frame, isBinary) {
  if (isBinary !== (encoding === 'protobuf')) throw new Error(`unexpected ${isBinary ? 'binary' : 'text'} frame`);
  if (!isBinary) {
    const lines = frame.toString().split('\n');
    for (const line of lines) {
      const message = JSON.parse(line);
      if (typeof message !== 'object' || Array.isArray(message) || message === null) throw new Error(line);
    }
    return lines;
  }
  const messages = [];
  for (let at = 0; at < frame.length; ) {
    let length = 0;
    for (let shift = 0; ; shift += 7) {
      const byte = frame[at++];
      length += (byte & 0x7f) * 2 ** shift;
      if (byte < 0x80) break;
    }
    if (at + length > frame.length) throw new Error('a message exceeds its frame');
    messages.push(frame.subarray(at, at + length));
    at += length;
  }
  if (messages.length === 0) throw new Error('an empty frame');
  return messages;
}

const isPing = (message) => message.length === 0 || message === '{}';

// A WebSocket that counts traffic, connects to the current port, and can be aborted.
function socketOf(client) {
  return class extends WebSocket {
    constructor(url, protocols) {
      if (port === 0) throw new Error('the server cannot be reached');
      const address = new URL(url);
      address.port = port;
      super(address, protocols);
      client.socket = this;
      this.on('message', (data, isBinary) => {
        const frame = Buffer.from(data);
        const traffic = client.traffic;
        traffic.frames_in += 1;
        traffic.largest_in = Math.max(traffic.largest_in, frame.length);
        try {
          traffic.pings += messagesOf(frame, isBinary).filter(isPing).length;
        } catch (error) {
          emit({ event: 'broken', client: client.name, message: `received an invalid frame: ${error.message}` });
        }
      });
      this.on('close', (code, reason) => {
        emit({ event: 'closed', client: client.name, code, reason: reason.toString() });
      });
    }

    send(data, ...rest) {
      if (client.isMute) return;
      const frame = Buffer.from(data);
      client.traffic.frames_out += 1;
      client.traffic.most_out = Math.max(client.traffic.most_out, messagesOf(frame, typeof data !== 'string').length);
      super.send(data, ...rest);
    }
  };
}

// ── events ──────────────────────────────────────────────────────────────────────────────────────────────────────────

const infoOf = (info) => ({
  user: info?.user ?? '',
  client_id: info?.client ?? '',
  conn_info: unpack(info?.connInfo ?? info?.conn_info),
});

const publicationOf = (ctx) => ({ offset: ctx.offset ?? 0, data: unpack(ctx.data), ...infoOf(ctx.info) });

const subscribedOf = (ctx) => ({
  was_recovering: ctx.wasRecovering,
  recovered: ctx.recovered,
  recoverable: ctx.recoverable,
  positioned: ctx.positioned,
  offset: ctx.streamPosition?.offset ?? null,
  epoch: ctx.streamPosition?.epoch ?? null,
});

// Emits the events of a channel. `source` is a subscription, or the client for server-side subscriptions.
function listen(source, client, isServer) {
  const report = (name, more) => (ctx) =>
    emit({ event: name, client: client.name, channel: ctx.channel, is_server: isServer, ...more(ctx) });
  const stateOf = (state) => (ctx) => ({ state, code: ctx.code ?? 0, reason: ctx.reason ?? '' });
  source.on('subscribing', report('subscription', stateOf('subscribing')));
  source.on('unsubscribed', report('subscription', stateOf('unsubscribed')));
  source.on('subscribed', report('subscription', (ctx) => ({ state: 'subscribed', ...subscribedOf(ctx) })));
  source.on('publication', report('publication', publicationOf));
  for (const name of ['join', 'leave']) {
    source.on(name, report('presence', (ctx) => ({ change: name, ...infoOf(ctx.info) })));
  }
}

// ── commands ────────────────────────────────────────────────────────────────────────────────────────────────────────

function create(command) {
  const client = {
    name: command.client,
    tokens: command.tokens ?? null,
    socket: null,
    isMute: command.mute ?? false,
    traffic: { frames_in: 0, frames_out: 0, largest_in: 0, most_out: 0, pings: 0 },
  };
  const options = {
    websocket: socketOf(client),
    token: command.token ?? '',
    headers: command.headers ?? {},
    // With the SDK's default delays, each reconnect would take as long as a test.
    minReconnectDelay: 50,
    maxReconnectDelay: 200,
    maxServerPingDelay: command.max_ping_delay_ms ?? 10000,
  };
  if (client.tokens !== null) {
    options.getToken = async () => {
      const token = client.tokens.shift();
      emit({ event: 'token', client: client.name, is_there: token !== undefined });
      if (token === undefined) throw new Error('there is no token yet');
      if (token === '') throw new UnauthorizedError('there are no more tokens');
      return token;
    };
  }
  client.sdk = new Centrifuge(`ws://127.0.0.1:1${command.path ?? '/connection/websocket'}`, options);
  const report = (state) => (ctx) => {
    const { code = 0, reason = '', client: id = '' } = ctx;
    emit({ event: 'state', client: client.name, state, code, reason, id });
  };
  for (const state of ['connecting', 'connected', 'disconnected']) client.sdk.on(state, report(state));
  client.sdk.on('error', ({ error }) => {
    emit({ event: 'error', client: client.name, code: error.code, message: error.message });
  });
  listen(client.sdk, client, true);
  clients.set(client.name, client);
}

function subscribe(client, command) {
  let subscription = client.sdk.getSubscription(command.channel);
  if (subscription === null) {
    const options = {
      recoverable: command.recoverable ?? false,
      joinLeave: command.join_leave ?? false,
      minResubscribeDelay: 50,
      maxResubscribeDelay: 200,
    };
    if (command.since) options.since = command.since;
    if (command.states) {
      const states = [...command.states];
      options.getState = async () => {
        const state = states.shift();
        emit({ event: 'get_state', client: client.name, channel: command.channel, is_there: state !== undefined });
        if (state === undefined) throw new Error('there is no state');
        return state;
      };
    }
    subscription = client.sdk.newSubscription(command.channel, options);
    listen(subscription, client, false);
    subscription.on('error', ({ channel, error }) => {
      const { code, message } = error;
      emit({ event: 'subscription_error', client: client.name, channel, code, message });
    });
  }
  subscription.subscribe();
}

const subscriptionOf = (client, command) => client.sdk.getSubscription(command.channel);

// The commands. Each returns its result. All commands of a line start before the next line is read.
const commands = {
  server: (_, command) => void (port = command.port),
  create: (_, command) => create(command),
  connect: (client) => client.sdk.connect(),
  disconnect: (client) => client.sdk.disconnect(),
  drop: (client) => client.socket.terminate(),
  mute: (client, command) => void (client.isMute = command.mute),
  tokens: (client, command) => void client.tokens.push(...command.tokens),
  traffic: (client) => client.traffic,
  subscribe: (client, command) => subscribe(client, command),
  unsubscribe: (client, command) => subscriptionOf(client, command).unsubscribe(),
  remove: (client, command) => client.sdk.removeSubscription(subscriptionOf(client, command)),
  status: (client, command) => subscriptionOf(client, command).state,
  publish: (client, command) => client.sdk.publish(command.channel, pack(command.data)),
  send: (client, command) => client.sdk.send(pack(command.data)),
  rpc: async (client, command) => unpack((await client.sdk.rpc(command.method, pack(command.data))).data),
  presence_stats: async (client, command) => {
    const stats = await client.sdk.presenceStats(command.channel);
    return { num_clients: stats.numClients, num_users: stats.numUsers };
  },
  presence: async (client, command) => {
    const { clients: all } = await client.sdk.presence(command.channel);
    return Object.fromEntries(Object.entries(all).map(([id, info]) => [id, infoOf(info)]));
  },
  history: async (client, command) => {
    const { limit, since, reverse } = command;
    const result = await client.sdk.history(command.channel, { limit, since, reverse });
    return { publications: result.publications.map(publicationOf), offset: result.offset, epoch: result.epoch };
  },
};

async function run(command) {
  const { call } = command;
  try {
    const result = await commands[command.do](clients.get(command.client), command);
    emit({ event: 'result', call, result: result ?? null });
  } catch (error) {
    if (error instanceof Error) {
      emit({ event: 'broken', client: command.client, message: `${JSON.stringify(command)}: ${error.stack}` });
    } else {
      const { code, message, temporary } = error;
      emit({ event: 'failed', call, code, message, temporary: temporary ?? false });
    }
  }
}

// The commands of one line start together, before anything else happens.
for await (const line of createInterface({ input: process.stdin, terminal: false })) {
  const command = JSON.parse(line);
  for (const each of Array.isArray(command) ? command : [command]) void run(each);
}
process.exit(0);
