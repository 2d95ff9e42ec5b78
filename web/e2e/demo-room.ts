import { post } from './server';
import { type World } from './browser';

/** The widest name there is. */
export const WIDE = 'W'.repeat(32);
export const ARABIC = 'مرحبا بالعالم، هذه رسالة طويلة بعض الشيء من اليمين إلى اليسار';

export const people = ['Mira', 'jonas', 'Ada', 'Tomás', 'ליאת'];

/** A room in which much is said by many. */
export async function createDemoRoom(the: World, more: readonly string[] = []): Promise<Record<string, string>> {
  const token: Record<string, string> = {};
  for (const name of [...people, ...more]) token[name] = await the.account(name);
  await the.room(token['Mira']!, 'kitchen', 'The kitchen');
  for (const name of [...people, ...more].slice(1)) await the.join(token[name]!, 'kitchen');
  const say = (name: string, text: string) => the.say(token[name]!, 'kitchen', text);
  const reply = (name: string, text: string, to: number) => post(the.server, '/rooms/kitchen/messages', { text, reply_to: to }, token[name]);
  await say('Mira', 'Morning! The new oven is in. Who wants to bake on Saturday?');
  await say('Mira', 'It holds four trays.');
  const offer = await say('jonas', 'I do. I can bring flour, butter and a sourdough that is older than my daughter.');
  await reply('Ada', 'How old is that?', offer);
  await say('jonas', 'Eight in March. The sourdough, eleven.');
  await say('Tomás', 'Recipe: https://example.org/bread/rye?hydration=78&salt=2 – it wants two hours less than they say.');
  await say('Tomás', '@Mira how hot does it get?');
  await say('Mira', '280 °C, and it keeps that.');
  for (const name of more) await say(name, `A word that has no end: ${'Donaudampfschifffahrtsgesellschaft'.repeat(9)}`);
  await say('ליאת', 'שבת בבוקר מתאים לי, אביא גם זיתים');
  if (more.length > 0) await say('ליאת', ARABIC);
  await say('Ada', 'Then:\n  9:00 dough\n 12:00 oven\n 14:00 everybody eats');
  await say('Ada', 'I will be there at nine. Somebody has to keep Jonas from the butter.');
  await say('Mira', 'It is settled then. See you on Saturday.');
  return token;
}
