// Rooms as in Bun's documentation: topics to which the server publishes.
const port = Number(process.argv[2]);
const [cert, key] = process.argv.slice(3);
if (![3, 5].includes(process.argv.length) || !Number.isInteger(port)) {
  fail('expected the PORT to listen on and, for TLS, the files CERTIFICATE and KEY');
}

let server;
try {
  server = Bun.serve({
    hostname: '127.0.0.1',
    port,
    tls: cert && { cert: Bun.file(cert), key: Bun.file(key) },
    fetch(request, server) {
      const url = new URL(request.url);
      const room = url.pathname === '/echo' ? null : url.searchParams.get('room');
      if (server.upgrade(request, { data: { room } })) return;
      return new Response('Only WebSockets are served here.\n', { status: 426 });
    },
    websocket: {
      open(client) {
        if (client.data.room !== null) client.subscribe(client.data.room);
      },
      message(client, message) {
        if (client.data.room === null) client.send(message);
        // Published by the server, so that the sender gets it too.
        else server.publish(client.data.room, message);
      },
    },
  });
} catch (error) {
  fail(error.message);
}
console.log('listening');

function fail(message) {
  console.error(`bun: ${message}`);
  process.exit(1);
}
