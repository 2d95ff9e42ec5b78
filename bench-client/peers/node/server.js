// Rooms as in tutorials of ws: a set of clients and a loop that sends to each of them.
import { WebSocket, WebSocketServer } from 'ws';

const port = Number(process.argv[2]);
if (process.argv.length !== 3 || !Number.isInteger(port)) fail('expected one argument, the PORT to listen on');

/** The set of clients of each room, by name. */
const rooms = new Map();

const server = new WebSocketServer({ host: '127.0.0.1', port, backlog: 4096 });
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
