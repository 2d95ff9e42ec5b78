// Speaks TLS for the tests' clients: each connection that it accepts becomes a TLS connection to localhost and the port
// in the argument, from the address 127.0.0.2. It prints its own port.

import net from 'node:net';
import tls from 'node:tls';

const port = Number(process.argv[2]);

const server = net.createServer({ allowHalfOpen: true }, (client) => {
  // No authority has signed the tests' certificates.
  const addresses = { port, host: '127.0.0.1', localAddress: '127.0.0.2', servername: 'localhost' };
  const proxy = tls.connect({ ...addresses, rejectUnauthorized: false, allowHalfOpen: true });
  client.setNoDelay(true);
  proxy.setNoDelay(true);
  client.pipe(proxy);
  proxy.pipe(client);
  client.on('error', () => proxy.destroy());
  proxy.on('error', () => client.destroy());
  client.on('close', () => proxy.destroy());
  proxy.on('close', () => client.destroy());
});
server.listen(0, '127.0.0.1', () => console.log(server.address().port));
