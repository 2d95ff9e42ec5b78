// Rooms as in tutorials of ws: a set of clients and a loop that sends to each of them.
import { readFileSync } from 'node:fs';
import { createServer } from 'node:https';
import { WebSocket, WebSocketServer } from 'ws';

const port = Number(process.argv[2]);
const [cert, key] = process.argv.slice(3);
if (![3, 5].includes(process.argv.length) || !Number.isInteger(port)) {
  fail('expected the PORT to listen on and, for TLS, the files CERTIFICATE and KEY');
}

/** The set of clients of each room, by name. */
const rooms = new Map();

const address = { host: '127.0.0.1', port, backlog: 4096 };
const server = new WebSocketServer(cert ? { server: https() } : address);
server.on('listening', () => console.log('listening'));
server.on('error', (error) => fail(error.message));
server.on('connection', (client, request) => {
  // ws closes a connection after an error; nothing else has to be done.
  client.on('error', () => {});
  const url = new URL(request.url, 'http://127.0.0.1');
  if (url.pathname === '/echo') {
    client.on('message', (data, isBinary) => client.send(data, { binary: isBinary }));
  } else {
    join(client, url.searchParams.get('room'));
  }
});

function https() {
  try {
    return createServer({ cert: readFileSync(cert), key: readFileSync(key) }).listen(address);
  } catch (error) {
    fail(error.message);
  }
}

function join(client, name) {
  let room = rooms.get(name);
  if (!room) rooms.set(name, (room = new Set()));
  room.add(client);
  client.on('message', (data, isBinary) => {
    for (const member of room) {
      if (member.readyState === WebSocket.OPEN) member.send(data, { binary: isBinary });
    }
  });
  client.on('close', () => room.delete(client));
}

function fail(message) {
  console.error(`node: ${message}`);
  process.exit(1);
}
