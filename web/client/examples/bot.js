// Answers everyone who says “ping”. Run it with: URL=https://chat.example.com TOKEN=… node bot.js
import { connect } from '@uproar/client';

const { URL: url, TOKEN: token } = process.env;
const chat = await connect({ url, token });
await chat.joinRoom('lobby');

chat.on('message', async ({ room, user, text, offset }) => {
  if (user.id === chat.user.id || text !== 'ping') return;
  await chat.room(room).send(`pong, ${user.username}`, { replyTo: offset });
});
chat.on('state', () => {
  if (chat.state === 'closed') throw chat.error;
});
